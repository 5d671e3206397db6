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
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "vectors.h"

namespace {

// The next structures are those of rlhf/machine/decoding.py, field by field.

struct Matrix {  // y = weights (outputs, inputs) · x, times scales where the weights are 8-bit integers, + bias
    const void* weights;
    const float *scales, *bias;
    int64_t outputs, inputs;
};

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

// Products. A tile is OUTS rows of weights by up to ROWS rows of inputs, whose sums stay in registers.

#ifdef __AVX512F__
constexpr int OUTS = 4, ROWS = 6;
#else
constexpr int OUTS = 2, ROWS = 2;
#endif
constexpr int64_t TILE_BYTES = 16384;  // weights that go over all rows together, from the first cache

template <typename T>
constexpr int64_t STEP = 16;  // numbers that are multiplied at once
inline lanes step_of(const float* x) { return load(x); }
inline lanes add_product(lanes sum, lanes a, lanes b) { return sum + a * b; }
#ifdef __AVX512BF16__
template <>
constexpr int64_t STEP<bfloat16> = 32;
inline __m512bh step_of(const bfloat16* x) { return (__m512bh)_mm512_loadu_si512(x); }
inline lanes add_product(lanes sum, __m512bh a, __m512bh b) { return (lanes)_mm512_dpbf16_ps((__m512)sum, a, b); }
#else
inline lanes step_of(const bfloat16* x) { return load(x); }
#endif

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
#endif
    for (int o = 0; o < outs; o++) y[o] = sum(x[o]);
}

template <typename T, int outs, int rows>
void tile(const T* weights, const T* x, int64_t inputs, float sums[][OUTS]) {
    typedef decltype(step_of(x)) Step;
    lanes total[rows][outs] = {};
    int64_t c = 0;
    for (; c + STEP<T> <= inputs; c += STEP<T>) {
        Step w[outs];
        for (int o = 0; o < outs; o++) w[o] = step_of(weights + o * inputs + c);
        for (int r = 0; r < rows; r++) {
            const Step each = step_of(x + r * inputs + c);
            for (int o = 0; o < outs; o++) total[r][o] = add_product(total[r][o], w[o], each);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) sums_of(total[r], sums[r]);
    for (; c < inputs; c++)
        for (int r = 0; r < rows; r++)
            for (int o = 0; o < outs; o++) sums[r][o] += wide(weights[o * inputs + c]) * wide(x[r * inputs + c]);
}

// y[row · stride + output] of `outs` outputs from `out` on, for up to ROWS rows of x.
template <typename T, int outs, bool add>
void tiles_of(const Matrix& m, int64_t rows, const T* weights, const T* x, int64_t out, float* y, int64_t stride) {
    float sums[ROWS][OUTS];
    if constexpr (outs == 1) {  // what is left over of a matrix
        for (int64_t r = 0; r < rows; r++) tile<T, 1, 1>(weights, x + r * m.inputs, m.inputs, sums + r);
    } else {
#ifdef __AVX512F__
        constexpr decltype(&tile<T, outs, 1>) tiles[] = {
            tile<T, outs, 1>, tile<T, outs, 2>, tile<T, outs, 3>, tile<T, outs, 4>, tile<T, outs, 5>, tile<T, outs, 6>};
#else
        constexpr decltype(&tile<T, outs, 1>) tiles[] = {tile<T, outs, 1>, tile<T, outs, 2>};
#endif
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
    const int64_t inputs = m.inputs;
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
        for (int64_t row = 0; row < rows; row += ROWS) {
            const int64_t some = std::min<int64_t>(ROWS, rows - row);
            const T* some_x = x + row * inputs;
            float* some_y = y + row * stride;
            int64_t out = from;
            for (; out + OUTS <= to; out += OUTS)
                tiles_of<T, OUTS, add>(m, some, weights + (out - from) * inputs, some_x, out, some_y, stride);
            for (; out < to; out++) tiles_of<T, 1, add>(m, some, weights + (out - from) * inputs, some_x, out, some_y, stride);
        }
    }
}

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

// Attention of one query (16·n) over keys and values first … last (L, 16·n); cap: of scores (Gemma 2), 0 for none.
template <typename T, int n>
void attend_head(
    const float* q, const T* keys, const T* values, T* y, float* weights, int64_t first, int64_t last, float scale,
    float cap) {
    lanes query[n], out[n] = {};
    for (int i = 0; i < n; i++) query[i] = load(q + 16 * i) * scale;
    float highest = -INFINITY, total = 0.0f;
    const auto products = [&](int64_t j) {
        lanes all = query[0] * load(keys + j * 16 * n);
        for (int i = 1; i < n; i++) all += query[i] * load(keys + (j * n + i) * 16);
        return all;
    };
    int64_t key = first;
    for (; key + 4 <= last; key += 4) {
        const lanes four[4] = {products(key), products(key + 1), products(key + 2), products(key + 3)};
        sums_of<4>(four, weights + key);
    }
    for (; key < last; key++) weights[key] = sum(products(key));
    if (cap > 0.0f)
        for (int64_t j = first; j < last; j++) weights[j] = cap * (1.0f - 2.0f / (1.0f + fast_exp(2.0f * weights[j] / cap)));
#pragma omp simd reduction(max : highest)
    for (int64_t j = first; j < last; j++) highest = weights[j] > highest ? weights[j] : highest;
#pragma omp simd reduction(+ : total)
    for (int64_t j = first; j < last; j++) total += weights[j] = fast_exp(weights[j] - highest);
    for (int64_t j = first; j < last; j++)
        for (int i = 0; i < n; i++) out[i] += weights[j] * load(values + (j * n + i) * 16);
    for (int i = 0; i < n; i++) {
        const lanes mean = out[i] / total;
        for (int each = 0; each < 16; each++) y[16 * i + each] = narrow<T>(mean[each]);
    }
}

template <typename T>
decltype(&attend_head<T, 1>) attention_for(int64_t head_size) {
    switch (head_size / 16) {
        case 1: return attend_head<T, 1>;
        case 2: return attend_head<T, 2>;
        case 3: return attend_head<T, 3>;
        case 4: return attend_head<T, 4>;
        case 5: return attend_head<T, 5>;
        case 6: return attend_head<T, 6>;
        case 8: return attend_head<T, 8>;
        case 16: return attend_head<T, 16>;
    }
    return nullptr;
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
            for (int64_t head = 0; head < K; head++) {
                T *key = storage(batch.keys, row, number, head) + at * D, *value = storage(batch.values, row, number, head) + at * D;
                for (int64_t d = 0; d < D; d++) key[d] = narrow<T>(k[head * D + d]), value[d] = narrow<T>(v[head * D + d]);
            }
        });
    }

    void attend(const Layer& layer, int64_t number, std::vector<float>& weights) {
        const auto one_head = attention_for<T>(D);
        const int64_t shared = H / K;
        const int64_t together = N >= 4 * member.threads ? H : 1;  // heads that one thread takes of a row
        member.share(N * H / together, [&](int64_t i) {
            const int64_t row = i * together / H, last = batch.positions[row] + 1;
            const int64_t first = layer.window ? std::max(last - layer.window, int64_t(0)) : 0;
            if (int64_t(weights.size()) < last) weights.resize(last + 256);
            for (int64_t head = i * together % H, end = head + together; head < end; head++) {
                const T* keys = storage(batch.keys, row, number, head / shared);
                const T* values = storage(batch.values, row, number, head / shared);
                if (head % shared == 0)  // heads are too short for the processor to foresee
                    for (int64_t at = first * D; at < last * D; at += 64 / sizeof(T)) {
                        __builtin_prefetch(values + at);
                        __builtin_prefetch(keys + batch.rooms[row] * D + at);  // of the next; past the end it does nothing
                    }
                one_head(
                    batch.qkv + row * width + head * D, keys, values, mixed + (row * H + head) * D, weights.data(), first,
                    last, layer.scale, model.attention_cap);
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
        std::vector<float> weights;
        embed();
        for (int64_t number = 0; number < model.num_layers; number++) {
            const Layer& layer = model.layers[number];
            take(layer.before_attention);
            project(layer);
            place(layer, number);
            attend(layer, number, weights);
            give(layer.o, mixed, layer.after_attention);
            take(layer.before_mlp);
            feed(layer);
            give(layer.down, inner, layer.after_mlp);
        }
        if (batch.wanted) speak();
    }
};

template <typename T>
void decode(const Model& model, const Batch& batch) {
    Team team(10 * model.num_layers + 3);
#ifdef _OPENMP
#pragma omp parallel num_threads(batch.threads)
    {
        Member member{team, omp_get_num_threads()};
        Pass<T>{model, batch, member}.run();
    }
#else
    Member member{team, 1};
    Pass<T>{model, batch, member}.run();
#endif
}

}  // namespace

extern "C" {
void decode_float(const Model* model, const Batch* batch) { decode<float>(*model, *batch); }
void decode_bfloat16(const Model* model, const Batch* batch) { decode<bfloat16>(*model, *batch); }
}
