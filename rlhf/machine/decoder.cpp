// The whole of a language model's pass over new tokens, in one call: what rlhf/sampling/decoder.py runs on CPUs.
//
// A row is one new token of one slot: some rows may be a slot's prompt, others the next token of another slot. T is the
// format of weights, keys and values (float or bfloat16); sums, the stream between blocks and logits are floats. Each
// number of an output is computed by one thread in one order that depends neither on the other rows nor on the number
// of threads, so that a slot's logits are the same bit for bit whoever else is in the batch.
//
// N rows, C channels, H heads of queries, K of keys, D head size, I inner channels, V vocabulary.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <thread>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "attention.h"
#include "products.h"
#include "vectors.h"

namespace {

// The next structures, and Matrix, are those of rlhf/machine/decoding.py, field by field.

struct Norm {  // none where size is 0; a layer norm where centred, else an RMS norm
    const float *gain, *bias;
    int64_t size, centred;
    float eps;
};

struct Layer {
    Norm before_attention, after_attention, before_mlp, after_mlp, queries, keys;
    Matrix q, k, v, o, gate, up, down;  // no gate where its weights are null
    int64_t window;                     // keys that a query sees; 0: all up to its own
    const float *cos, *sin;             // (positions, rotated); null: no rotation
    float scale;
};

struct Model {
    int64_t num_layers, channels, heads, key_heads, head_size, rotated, inner, activation;
    float attention_cap, logit_cap, embedding_scale;  // caps: 0 for none
    int64_t embedding_is_float;
    const void* embedding;
    const float* positions;  // learned ones (…, C), or null
    const Layer* layers;
    Norm last;
    Matrix head;
};

struct Batch {
    int64_t rows, wanted;                       // of the last, logits are wanted
    const int64_t *tokens, *positions;          // (N,)
    const int64_t *keys, *values, *rooms;       // (N,) addresses of a slot's storage (layers, K, room, D), and its room
    const int64_t* wanted_rows;                 // (wanted,)
    float *stream, *qkv, *gates, *logits;       // (N, C), (N, (H + 2K)·D), (N, 2I), (wanted, V)
    void *normed, *mixed, *inner;               // (N, C), (N, H·D), (N, I) of format T
    int64_t threads;
};

constexpr int64_t GROUP = 8;  // rows of a slot that one thread attends for

enum Activation { SILU, GELU_TANH, GELU, RELU };

// Threads that share the items of one piece of work after another and wait for each other in between. They yield
// rather than spin for long: another process may want the core.
class Team {
  public:
    explicit Team(int64_t num_works) : next(num_works), arrived(0) {}
    std::vector<std::atomic<int64_t>> next;
    std::atomic<int64_t> arrived;
};

struct Member {
    Team& team;
    int64_t threads, done = 0;

    template <typename Work>
    void share(int64_t items, Work work) {
        std::atomic<int64_t>& next = team.next[done++];
        for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) work(item);
        team.arrived.fetch_add(1, std::memory_order_acq_rel);
        for (int64_t spins = 0; team.arrived.load(std::memory_order_acquire) < done * threads; spins++) {
            if (spins > 2000) std::this_thread::yield();
#ifdef __x86_64__
            else __builtin_ia32_pause();
#endif
        }
    }

    // Ranges of `size` places, in multiples of `grain`, so many that no thread waits long for the last.
    template <typename Work>
    void share_ranges(int64_t size, int64_t grain, Work work) {
        const int64_t parts = 16 * threads, length = std::max(grain, size / parts / grain * grain);
        share((size + length - 1) / length, [&](int64_t i) { work(i * length, std::min(size, (i + 1) * length)); });
    }
};

// y = norm of x (size,); x and y may be one.
template <typename T>
void norm(const Norm& n, const float* x, T* y) {
    float mean = 0.0f, squares = 0.0f;
    if (n.centred) {
#pragma omp simd reduction(+ : mean)
        for (int64_t c = 0; c < n.size; c++) mean += x[c];
        mean /= n.size;
    }
#pragma omp simd reduction(+ : squares)
    for (int64_t c = 0; c < n.size; c++) squares += (x[c] - mean) * (x[c] - mean);
    const float scale = 1.0f / std::sqrt(squares / n.size + n.eps);
    if (n.bias) {
#pragma omp simd
        for (int64_t c = 0; c < n.size; c++) y[c] = narrow<T>((x[c] - mean) * scale * n.gain[c] + n.bias[c]);
    } else {
#pragma omp simd
        for (int64_t c = 0; c < n.size; c++) y[c] = narrow<T>((x[c] - mean) * scale * n.gain[c]);
    }
}

// Heads x (heads, D) normed, each or all together.
void norm_heads(const Norm& n, float* x, int64_t size) {
    for (int64_t at = 0; n.size && at < size; at += n.size) norm(n, x + at, x + at);
}

// Su et al. 2021, eq. 34, with the halves of what is rotated as pairs.
void rotate(float* x, const float* cos, const float* sin, int64_t rotated) {
    const int64_t half = rotated / 2;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        const float first = x[i], second = x[half + i];
        x[i] = first * cos[i] - second * sin[i];
        x[half + i] = second * cos[half + i] + first * sin[half + i];
    }
}

inline float activated(int64_t kind, float x) {
    switch (kind) {
        case SILU: return x / (1.0f + fast_exp(-x));
        case GELU_TANH: return x / (1.0f + fast_exp(-1.5957691216f * (x + 0.044715f * x * x * x)));
        case GELU: return 0.5f * x * (1.0f + std::erf(x * 0.70710678f));
    }
    return x > 0.0f ? x : 0.0f;
}

template <typename T>
void activate(int64_t kind, const float* gate, const float* up, T* y, int64_t size) {
    const auto run = [&](auto function) {
#pragma omp simd
        for (int64_t i = 0; i < size; i++) y[i] = narrow<T>(up ? function(gate[i]) * up[i] : function(gate[i]));
    };
    switch (kind) {
        case SILU: return run([](float x) { return activated(SILU, x); });
        case GELU_TANH: return run([](float x) { return activated(GELU_TANH, x); });
        case GELU: return run([](float x) { return activated(GELU, x); });
        default: return run([](float x) { return activated(RELU, x); });
    }
}

template <typename T>
struct Pass {
    const Model& model;
    const Batch& batch;
    const std::vector<int64_t>& groups;  // where rows begin that are of one slot and follow each other, and N
    Member& member;
    T *normed = static_cast<T*>(batch.normed), *mixed = static_cast<T*>(batch.mixed), *inner = static_cast<T*>(batch.inner);
    int64_t N = batch.rows, C = model.channels, H = model.heads, K = model.key_heads, D = model.head_size;
    int64_t width = (H + 2 * K) * D;

    void embed() {
        member.share(N, [&](int64_t row) {
            const int64_t token = batch.tokens[row], position = batch.positions[row];
            float* x = batch.stream + row * C;
            const float* single = static_cast<const float*>(model.embedding) + token * C;
            const bfloat16* half = static_cast<const bfloat16*>(model.embedding) + token * C;
            for (int64_t c = 0; c < C; c++) {
                x[c] = model.embedding_scale * (model.embedding_is_float ? single[c] : wide(half[c]));
                if (model.positions) x[c] += model.positions[position * C + c];
            }
        });
    }

    // What a product takes: the stream's norm, or the stream itself.
    void take(const Norm& n) {
        member.share(N, [&](int64_t row) {
            const float* x = batch.stream + row * C;
            if (n.size) return norm(n, x, normed + row * C);
            for (int64_t c = 0; c < C; c++) normed[row * C + c] = narrow<T>(x[c]);
        });
    }

    // The stream += the norm, if any, of a product of x.
    void give(const Matrix& m, const T* x, const Norm& n) {
        if (!n.size) {
            member.share_ranges(C, OUTS, [&](int64_t first, int64_t last) {
                product<T, true>(m, x, N, first, last, batch.stream, C);
            });
            return;
        }
        float* y = batch.gates;
        member.share_ranges(C, OUTS, [&](int64_t first, int64_t last) { product<T, false>(m, x, N, first, last, y, C); });
        member.share(N, [&](int64_t row) {
            norm(n, y + row * C, y + row * C);
            for (int64_t c = 0; c < C; c++) batch.stream[row * C + c] += y[row * C + c];
        });
    }

    void project(const Layer& layer) {
        const int64_t queries = H * D, keys = K * D;
        const auto part = [&](const Matrix& m, int64_t first, int64_t last, int64_t from) {  // of the outputs side by side
            const int64_t begin = std::max(first - from, int64_t(0)), end = std::min(last - from, m.outputs);
            if (begin < end) product<T, false>(m, normed, N, begin, end, batch.qkv + from, width);
        };
        member.share_ranges(width, 16, [&](int64_t first, int64_t last) {
            part(layer.q, first, last, 0);
            part(layer.k, first, last, queries);
            part(layer.v, first, last, queries + keys);
        });
    }

    T* storage(const int64_t* addresses, int64_t row, int64_t layer, int64_t head) const {
        return reinterpret_cast<T*>(addresses[row]) + (layer * K + head) * batch.rooms[row] * D;
    }

    // Norms and rotation of queries and keys, which enter the storage with the values.
    void place(const Layer& layer, int64_t number) {
        member.share(N, [&](int64_t row) {
            float *q = batch.qkv + row * width, *k = q + H * D, *v = k + K * D;
            const int64_t at = batch.positions[row];
            norm_heads(layer.queries, q, H * D);
            norm_heads(layer.keys, k, K * D);
            for (int64_t head = 0; layer.cos && head < H + K; head++)
                rotate(q + head * D, layer.cos + at * model.rotated, layer.sin + at * model.rotated, model.rotated);
            for (int64_t i = 0; i < H * D; i++) mixed[row * H * D + i] = narrow<T>(q[i] * layer.scale);
            for (int64_t head = 0; head < K; head++) {
                constexpr int64_t P = PER_WORD<T>;
                const bool alone = P > 1 && at % P == 0 && (row + 1 == N || batch.keys[row + 1] != batch.keys[row]);
                T* key = storage(batch.keys, row, number, head) + at / 16 * 16 * D + at % 16 * P;
                T* value = storage(batch.values, row, number, head) + at / P * P * D + at % P;
                for (int64_t d = 0; d < D; d++) {
                    key[d / P * P * 16 + d % P] = narrow<T>(k[head * D + d]);
                    value[d * P] = narrow<T>(v[head * D + d]);
                    if (alone) value[d * P + 1] = narrow<T>(0.0f);
                }
            }
        });
    }

    // Heads that share keys, of rows that follow each other in a slot, go over the keys together.
    void attend(const Layer& layer, int64_t number, Attention<T>& attention) {
        const int64_t shared = H / K;
        member.share((int64_t(groups.size()) - 1) * K, [&](int64_t i) {
            const int64_t begin = groups[i / K], end = groups[i / K + 1], head = i % K;
            const T *keys = storage(batch.keys, begin, number, head), *values = storage(batch.values, begin, number, head);
            Query<T> queries[TOGETHER];
            int64_t count = 0;
            for (int64_t query = head * shared; query < (head + 1) * shared; query++)
                for (int64_t row = begin; row < end; row++) {
                    const int64_t last = batch.positions[row] + 1;
                    const int64_t first = layer.window ? std::max(last - layer.window, int64_t(0)) : 0;
                    queries[count++] = {mixed + (row * H + query) * D, first, last};
                    if (count == TOGETHER || (row + 1 == end && query + 1 == (head + 1) * shared))
                        attention.attend(queries, count, keys, values), count = 0;
                }
        });
    }

    void feed(const Layer& layer) {
        const int64_t I = model.inner;
        member.share_ranges(I, OUTS, [&](int64_t first, int64_t last) {
            const Matrix& gate = layer.gate.weights ? layer.gate : layer.up;
            product<T, false>(gate, normed, N, first, last, batch.gates, 2 * I);
            if (layer.gate.weights) product<T, false>(layer.up, normed, N, first, last, batch.gates + I, 2 * I);
            for (int64_t row = 0; row < N; row++) {
                const float *g = batch.gates + row * 2 * I + first, *u = layer.gate.weights ? g + I : nullptr;
                activate(model.activation, g, u, inner + row * I + first, last - first);
            }
        });
    }

    void speak() {
        const int64_t V = model.head.outputs;
        member.share(batch.wanted, [&](int64_t i) {
            norm(model.last, batch.stream + batch.wanted_rows[i] * C, normed + i * C);
        });
        member.share_ranges(V, OUTS, [&](int64_t first, int64_t last) {
            product<T, false>(model.head, normed, batch.wanted, first, last, batch.logits, V);
            for (int64_t i = 0; model.logit_cap > 0.0f && i < batch.wanted; i++)
                for (int64_t v = first; v < last; v++)
                    batch.logits[i * V + v] = model.logit_cap * std::tanh(batch.logits[i * V + v] / model.logit_cap);
        });
    }

    void run() {
        Attention<T> attention{D, model.attention_cap, {}, {}};
        embed();
        for (int64_t number = 0; number < model.num_layers; number++) {
            const Layer& layer = model.layers[number];
            take(layer.before_attention);
            project(layer);
            place(layer, number);
            attend(layer, number, attention);
            give(layer.o, mixed, layer.after_attention);
            take(layer.before_mlp);
            feed(layer);
            give(layer.down, inner, layer.after_mlp);
        }
        if (batch.wanted) speak();
    }
};

std::vector<int64_t> groups_of(const Batch& batch) {
    std::vector<int64_t> groups;
    for (int64_t row = 0; row < batch.rows; row++) {
        const bool follows = row > 0 && batch.keys[row] == batch.keys[row - 1] && batch.positions[row] == batch.positions[row - 1] + 1;
        if (!follows || row - groups.back() == GROUP) groups.push_back(row);
    }
    groups.push_back(batch.rows);
    return groups;
}

template <typename T>
void decode(const Model& model, const Batch& batch) {
    Team team(10 * model.num_layers + 3);
    const std::vector<int64_t> groups = groups_of(batch);
#ifdef _OPENMP
#pragma omp parallel num_threads(batch.threads)
    {
        Member member{team, omp_get_num_threads()};
        Pass<T>{model, batch, groups, member}.run();
    }
#else
    Member member{team, 1};
    Pass<T>{model, batch, groups, member}.run();
#endif
}

}  // namespace

extern "C" {
void decode_float(const Model* model, const Batch* batch) { decode<float>(*model, *batch); }
void decode_bfloat16(const Model* model, const Batch* batch) { decode<bfloat16>(*model, *batch); }
}
