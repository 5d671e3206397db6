// Attention of a few queries over the keys and values that decoder.cpp keeps for a slot.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace {

// A word is 32 bits: one number of float, two of bfloat16, which a product takes together. For every layer and
// head a slot keeps keys in blocks of 16, (room / BLOCK, D / PER_WORD, BLOCK) words of one key's neighbouring numbers, and
// values in (room / PER_WORD, D) words of neighbouring positions, so that no sum goes across a vector. Beside the last
// position's values, in the same words, stand zeros.

template <typename T>
constexpr int64_t PER_WORD = 4 / sizeof(T);
constexpr int64_t BLOCK = 16;  // keys
constexpr int TOGETHER = 4;  // queries whose sums stay in registers
constexpr int VECTORS = MANY_REGISTERS ? 4 : 2;  // of keys or values, with that many queries
constexpr int64_t AT_ONCE = VECTORS * WIDTH;

inline lanes words_of(const float* x) { return load(x); }
inline lanes word_of(const float* x) { return lanes{} + *x; }
inline pairs words_of(const bfloat16* x) {
    pairs y;
    return std::memcpy(&y, x, sizeof y), y;
}
inline pairs word_of(const bfloat16* x) {
    uint32_t two;
    std::memcpy(&two, x, sizeof two);
    return (pairs)(words{} + two);
}

template <typename T>
struct Query {
    T* x;                 // (D,), scaled; what it takes of the values goes there, too
    int64_t first, last;  // keys that it sees
};

// Scores (queries, …) of WIDTH · vectors keys from `from` on, a multiple of WIDTH.
template <typename T, int queries, int vectors>
void score(const Query<T>* query, const T* keys, int64_t from, int64_t D, float* scores, int64_t stride) {
    lanes total[queries][vectors] = {};
    const T* begin[vectors];
    for (int v = 0; v < vectors; v++) {
        const int64_t key = from + v * WIDTH;
        begin[v] = keys + key / BLOCK * BLOCK * D + key % BLOCK * PER_WORD<T>;
    }
    for (int64_t d = 0; d < D; d += PER_WORD<T>) {
        decltype(words_of(keys)) key[vectors];
        for (int v = 0; v < vectors; v++) key[v] = words_of(begin[v] + d * BLOCK);
        for (int q = 0; q < queries; q++) {
            const auto each = word_of(query[q].x + d);
            for (int v = 0; v < vectors; v++) total[q][v] = add_product(total[q][v], key[v], each);
        }
    }
    for (int q = 0; q < queries; q++) std::memcpy(scores + q * stride, total[q], sizeof total[q]);
}

// Weights (length,) of keys: e^score from first to last, outside zero, and of whole blocks only; returns their sum. cap: of
// scores (Gemma 2), 0 for none.
template <typename T>
float soften(float* scores, T* weights, int64_t first, int64_t last, int64_t length, float cap) {
    const int64_t begin = first / BLOCK * BLOCK, end = (last + BLOCK - 1) / BLOCK * BLOCK;
    float highest = -INFINITY, total = 0.0f;
    if (cap > 0.0f)
        for (int64_t j = begin; j < end; j++) scores[j] = cap * (1.0f - 2.0f / (1.0f + fast_exp(2.0f * scores[j] / cap)));
    std::fill(scores + begin, scores + first, -INFINITY);
    std::fill(scores + last, scores + end, -INFINITY);
#pragma omp simd reduction(max : highest)
    for (int64_t j = begin; j < end; j++) highest = scores[j] > highest ? scores[j] : highest;
#pragma omp simd reduction(+ : total)
    for (int64_t j = begin; j < end; j++) total += scores[j] = fast_exp(scores[j] - highest);
    std::fill(weights, weights + begin, narrow<T>(0.0f));
#pragma omp simd
    for (int64_t j = begin; j < end; j++) weights[j] = narrow<T>(scores[j]);
    std::fill(weights + end, weights + length, narrow<T>(0.0f));
    return total;
}

// Means of WIDTH · vectors numbers of values first … last (both of whole words), by weights (queries, …) from `first` on.
template <typename T, int queries, int vectors>
void mix(
    const Query<T>* query, const T* weights, int64_t stride, const float* totals, const T* values, int64_t first,
    int64_t last, int64_t D, int64_t d) {
    lanes total[queries][vectors] = {};
    for (int64_t j = first; j < last; j += PER_WORD<T>) {
        decltype(words_of(values)) value[vectors];
        for (int v = 0; v < vectors; v++) value[v] = words_of(values + j * D + (d + WIDTH * v) * PER_WORD<T>);
        for (int q = 0; q < queries; q++) {
            const auto each = word_of(weights + q * stride + j);
            for (int v = 0; v < vectors; v++) total[q][v] = add_product(total[q][v], value[v], each);
        }
    }
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++) {
            const lanes mean = total[q][v] / totals[q];
            for (int each = 0; each < WIDTH; each++) query[q].x[d + WIDTH * v + each] = narrow<T>(mean[each]);
        }
}

#define TILES(of, q) {of<T, q, 1>, of<T, q, 2>, of<T, q, std::min(3, VECTORS)>, of<T, q, VECTORS>}

// What one thread attends with.
template <typename T>
struct Attention {
    int64_t D;
    float cap;
    std::vector<float> scores;
    std::vector<T> weights;

    // Up to TOGETHER queries over the keys and values of one head.
    void attend(const Query<T>* queries, int64_t num_queries, const T* keys, const T* values) {
        static constexpr decltype(&score<T, 1, 1>) score_tiles[][4] = {
            TILES(score, 1), TILES(score, 2), TILES(score, 3), TILES(score, 4)};
        static constexpr decltype(&mix<T, 1, 1>) mix_tiles[][4] = {
            TILES(mix, 1), TILES(mix, 2), TILES(mix, 3), TILES(mix, 4)};
        int64_t first = queries[0].first, last = queries[0].last;
        for (int64_t q = 1; q < num_queries; q++)
            first = std::min(first, queries[q].first), last = std::max(last, queries[q].last);
        const int64_t from = first / BLOCK * BLOCK, length = (last + BLOCK - 1) / BLOCK * BLOCK - from;
        if (int64_t(scores.size()) < TOGETHER * length)
            scores.resize(2 * TOGETHER * length), weights.resize(2 * TOGETHER * length);
        for (int64_t key = 0; key < length; key += AT_ONCE) {
            const int64_t vectors = std::min<int64_t>(VECTORS, (length - key) / WIDTH);
            score_tiles[num_queries - 1][vectors - 1](queries, keys, from + key, D, scores.data() + key, length);
        }
        float totals[TOGETHER];
        for (int64_t q = 0; q < num_queries; q++)
            totals[q] = soften(
                scores.data() + q * length, weights.data() + q * length, queries[q].first - from, queries[q].last - from,
                length, cap);
        first = first / PER_WORD<T> * PER_WORD<T>;
        for (int64_t d = 0; d < D; d += AT_ONCE) {
            const int64_t vectors = std::min<int64_t>(VECTORS, (D - d) / WIDTH);
            mix_tiles[num_queries - 1][vectors - 1](
                queries, weights.data() - from, length, totals, values, first, last, D, d);
        }
    }
};

}  // namespace
