// Products of weights and rows of inputs for decoder.cpp. A number is summed up in one order, whatever rows come with it.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "vectors.h"

namespace {

struct Matrix {  // y = weights (outputs, inputs) · x, times scales where the weights are 8-bit integers, + bias
    const void* weights;
    const float *scales, *bias;
    int64_t outputs, inputs;
};

// A tile is OUTS rows of weights by up to ROWS rows of inputs, whose sums stay in registers.
constexpr int OUTS = 4, ROWS = MANY_REGISTERS ? 6 : 3;
constexpr int64_t TILE_BYTES = 8192;  // weights that go over all rows together, from the first cache

template <typename T>
constexpr int64_t STEP = WIDTH;  // numbers that are multiplied at once
inline lanes step_of(const float* x) { return load(x); }
#ifdef __AVX512BF16__
template <>
constexpr int64_t STEP<bfloat16> = 32;
inline __m512bh step_of(const bfloat16* x) { return (__m512bh)_mm512_loadu_si512(x); }
#else
inline lanes step_of(const bfloat16* x) { return load(x); }
#endif

// The same of weights: of T as they are, of 8-bit integers as the numbers of T that they fit without rounding.
template <typename T>
inline auto weights_of(const T* w) { return step_of(w); }
#ifdef __AVX512BF16__
template <typename T>
inline auto weights_of(const int8_t* w) {
    const auto sixteen = [](const int8_t* some) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)some))); };
    if constexpr (sizeof(T) == 2) return _mm512_cvtne2ps_pbh(sixteen(w + 16), sixteen(w));
    else return (lanes)sixteen(w);
}
#endif
inline float wide(int8_t x) { return x; }

// The sums of each of several vectors.
template <int outs>
inline void sums_of(const lanes (&x)[outs], float* y) {
#ifdef __AVX512F__
    if constexpr (outs == 4) {  // the numbers change places between the vectors, so that one addition serves all
        const auto pairs = [&](int i) {
            return _mm512_add_ps(_mm512_unpacklo_ps((__m512)x[i], (__m512)x[i + 1]), _mm512_unpackhi_ps((__m512)x[i], (__m512)x[i + 1]));
        };
        const __m512d first = (__m512d)pairs(0), second = (__m512d)pairs(2);
        const __m512 fours = _mm512_add_ps((__m512)_mm512_unpacklo_pd(first, second), (__m512)_mm512_unpackhi_pd(first, second));
        const __m256 half = (__m256)_mm512_castpd512_pd256((__m512d)fours) + (__m256)_mm512_extractf64x4_pd((__m512d)fours, 1);
        _mm_storeu_ps(y, _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1));
        return;
    }
#elif defined(__AVX__)
    if constexpr (outs == 4) {
        const __m256 fours = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
        _mm_storeu_ps(y, _mm256_castps256_ps128(fours) + _mm256_extractf128_ps(fours, 1));
        return;
    }
#endif
    for (int o = 0; o < outs; o++) y[o] = sum(x[o]);
}

template <typename T, typename W, int outs, int rows>
void tile(const W* weights, const T* x, int64_t inputs, float sums[][OUTS]) {
    typedef decltype(step_of(x)) Step;
    lanes total[rows][outs] = {};
    int64_t c = 0;
    if constexpr (rows <= 2) {  // reading the weights takes longest: in one stream, which the processor reads ahead in
        const int64_t end = inputs / STEP<T> * STEP<T>;
        for (int o = 0; o < outs; o++)
            for (c = 0; c < end; c += STEP<T>) {
                const Step w = weights_of<T>(weights + o * inputs + c);
                for (int r = 0; r < rows; r++) total[r][o] = add_product(total[r][o], w, step_of(x + r * inputs + c));
            }
    }
    for (; c + STEP<T> <= inputs; c += STEP<T>) {
        Step w[outs];
        for (int o = 0; o < outs; o++) w[o] = weights_of<T>(weights + o * inputs + c);
        for (int r = 0; r < rows; r++) {
            const Step each = step_of(x + r * inputs + c);
            for (int o = 0; o < outs; o++) total[r][o] = add_product(total[r][o], w[o], each);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) sums_of(total[r], sums[r]);
    for (; c < inputs; c++)
        for (int r = 0; r < rows; r++)
            for (int o = 0; o < outs; o++)
                sums[r][o] = add_product(sums[r][o], wide(weights[o * inputs + c]), wide(x[r * inputs + c]));
}

// y[row · stride + output] of `outs` outputs from `out` on, for up to ROWS rows of x.
template <typename T, typename W, int outs, bool add>
void tiles_of(const Matrix& m, int64_t rows, const W* weights, const T* x, int64_t out, float* y, int64_t stride) {
    float sums[ROWS][OUTS];
    if constexpr (outs == 1) {  // what is left over of a matrix
        for (int64_t r = 0; r < rows; r++) tile<T, W, 1, 1>(weights, x + r * m.inputs, m.inputs, sums + r);
    } else {
        constexpr decltype(&tile<T, W, outs, 1>) tiles[] = {
            tile<T, W, outs, 1>, tile<T, W, outs, 2>, tile<T, W, outs, 3>,
            tile<T, W, outs, std::min(4, ROWS)>, tile<T, W, outs, std::min(5, ROWS)>, tile<T, W, outs, ROWS>};
        tiles[rows - 1](weights, x, m.inputs, sums);
    }
    float scale[outs], bias[outs];
    for (int o = 0; o < outs; o++) scale[o] = m.scales ? m.scales[out + o] : 1.0f, bias[o] = m.bias ? m.bias[out + o] : 0.0f;
    for (int64_t r = 0; r < rows; r++) {
        float* places = y + r * stride + out;
        for (int o = 0; o < outs; o++) {
            const float number = sums[r][o] * scale[o] + bias[o];
            places[o] = add ? places[o] + number : number;
        }
    }
}

// y[row · stride + output] of outputs first … last of the matrix, for x (rows, inputs); added to what stands there or not.
template <typename T, bool add>
void product(const Matrix& m, const T* x, int64_t rows, int64_t first, int64_t last, float* y, int64_t stride) {
#ifdef __AVX512BF16__
    if (m.scales && rows <= 2) {  // few rows: 8 bits become numbers where they are multiplied
        const int8_t* weights = static_cast<const int8_t*>(m.weights);
        int64_t out = first;
        for (; out + OUTS <= last; out += OUTS)
            tiles_of<T, int8_t, OUTS, add>(m, rows, weights + out * m.inputs, x, out, y, stride);
        for (; out < last; out++) tiles_of<T, int8_t, 1, add>(m, rows, weights + out * m.inputs, x, out, y, stride);
        return;
    }
#endif
    const int64_t inputs = m.inputs, size = m.scales ? 1 : sizeof(T), parts = (rows + ROWS - 1) / ROWS;
    const int64_t together = std::max<int64_t>(OUTS, TILE_BYTES / int64_t(inputs * sizeof(T)) / OUTS * OUTS);
    std::vector<T> unpacked(m.scales ? together * inputs : 0);
    for (int64_t from = first; from < last; from += together) {
        const int64_t to = std::min(last, from + together);
        const T* weights = static_cast<const T*>(m.weights) + from * inputs;
        if (m.scales) {
            const int8_t* packed = static_cast<const int8_t*>(m.weights) + from * inputs;
            T* into = unpacked.data();
#pragma omp simd
            for (int64_t i = 0; i < (to - from) * inputs; i++) {  // eight bits fit bfloat16 without rounding
                if constexpr (sizeof(T) == 4) into[i] = float(packed[i]);
                else into[i] = T(bits_as<uint32_t>(float(packed[i])) >> 16);
            }
            weights = into;
        }
        const char* next = static_cast<const char*>(m.weights) + to * inputs * size;  // fetched while these are multiplied
        const int64_t bytes = (to - from) * inputs * size, each = (bytes / parts + 63) / 64 * 64;
        for (int64_t row = 0; row < rows; row += ROWS) {
            const int64_t some = std::min<int64_t>(ROWS, rows - row), at = row / ROWS * each;
            for (int64_t i = at; i < std::min(bytes, at + each); i += 64) __builtin_prefetch(next + i, 0, 2);
            const T* some_x = x + row * inputs;
            float* some_y = y + row * stride;
            int64_t out = from;
            for (; out + OUTS <= to; out += OUTS)
                tiles_of<T, T, OUTS, add>(m, some, weights + (out - from) * inputs, some_x, out, some_y, stride);
            for (; out < to; out++) tiles_of<T, T, 1, add>(m, some, weights + (out - from) * inputs, some_x, out, some_y, stride);
        }
    }
}

}  // namespace
