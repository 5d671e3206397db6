// What torch's operations are slow at on a CPU, written as plain loops; rlhf/machine/kernels.py compiles and calls them.
//
// T is float or bfloat16; everything is computed in float. B rows, T steps, H heads, L slots of a cache, D head size,
// C channels, V vocabulary. Every tensor is contiguous. Each row of an output is computed by one thread in one order,
// so that it depends neither on the other rows nor on the number of threads; only norm_backward sums over rows.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

// C++20's std::bit_cast, for compilers of C++17; a copy of four bytes is no instruction.
template <typename To, typename From>
inline To bits_as(From from) {
    To to;
    std::memcpy(&to, &from, sizeof(To));
    return to;
}

enum bfloat16 : uint16_t {};  // the upper half of a float; a class would keep loops from becoming vectors

inline float wide(float x) { return x; }
inline float wide(bfloat16 x) { return bits_as<float>(uint32_t(x) << 16); }

template <typename T>
inline T narrow(float x) {
    if constexpr (sizeof(T) == 4) return x;
    const uint32_t u = bits_as<uint32_t>(x), nearest = (u + 0x7fff + (u >> 16 & 1)) >> 16;  // ties to even
    return T(x != x ? 0x7fc0 : nearest);
}

// e^x by 2^n · e^r with |r| ≤ ln 2 / 2 and r's polynomial (Cephes); relative error below 2e-7. A loop over it vectorises.
inline float fast_exp(float x) {
    const float low = x < -87.0f ? -87.0f : x, z = low > 88.0f ? 88.0f : low;
    const float n = std::rint(z * 1.44269504f);
    const float r = z - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const float y = (p * r * r + r + 1.0f) * bits_as<float>((int32_t(n) + 127) << 23);
    return x < -87.0f ? 0.0f : y;
}

// GELU's tanh form is x · σ(2u) with u = √(2/π) (x + 0.044715 x³), since (1 + tanh u) / 2 = σ(2u).
constexpr float TWICE_ROOT = 1.5957691216f, CUBIC = 0.044715f;

template <typename T>
void gelu(const T* x, T* y, int64_t n) {
#pragma omp parallel for simd if (n > 16384)
    for (int64_t i = 0; i < n; i++) {
        const float a = wide(x[i]);
        y[i] = narrow<T>(a / (1.0f + fast_exp(-TWICE_ROOT * (a + CUBIC * a * a * a))));
    }
}

template <typename T>
void gelu_backward(const T* x, const T* upstream, T* grad, int64_t n) {
#pragma omp parallel for simd if (n > 16384)
    for (int64_t i = 0; i < n; i++) {
        const float a = wide(x[i]);
        const float e = fast_exp(-TWICE_ROOT * (a + CUBIC * a * a * a)), s = 1.0f / (1.0f + e);
        const float slope = s + a * (e * s) * s * TWICE_ROOT * (1.0f + 3.0f * CUBIC * a * a);
        grad[i] = narrow<T>(wide(upstream[i]) * slope);
    }
}

// Whole vectors of 16 are computed where a row ends sooner: what is left over would be computed one by one.
inline int64_t whole(int64_t seen, int64_t size) { return std::min((seen + 15) / 16 * 16, size); }

// softmax of scale · scores over the keys that a query may see: of `size` × `size` scores, row t sees 0 … t.
template <typename T>
void causal_softmax(const T* scores, T* weights, int64_t matrices, int64_t size, float scale) {
#pragma omp parallel
    {
        std::vector<float> powers(size);
        float* e = powers.data();
#pragma omp for schedule(static)
        for (int64_t row = 0; row < matrices * size; row++) {
            const T* s = scores + row * size;
            T* w = weights + row * size;
            const int32_t seen = row % size + 1, end = whole(seen, size);
            float highest = -INFINITY, total = 0.0f;
#pragma omp simd
            for (int32_t j = 0; j < end; j++) e[j] = scale * wide(s[j]);
            std::fill(e + seen, e + end, -INFINITY);
#pragma omp simd reduction(max : highest)
            for (int32_t j = 0; j < end; j++) highest = e[j] > highest ? e[j] : highest;
#pragma omp simd reduction(+ : total)
            for (int32_t j = 0; j < end; j++) total += e[j] = fast_exp(e[j] - highest);
            const float factor = 1.0f / total;
#pragma omp simd
            for (int32_t j = 0; j < end; j++) w[j] = narrow<T>(e[j] * factor);
            for (int32_t j = end; j < size; j++) w[j] = narrow<T>(0.0f);
        }
    }
}

// The weights are zero where nothing is seen, so are their scores' gradients.
template <typename T>
void causal_softmax_backward(
    const T* weights, const T* upstream, T* grad, int64_t matrices, int64_t size, float scale) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < matrices * size; row++) {
        const T *w = weights + row * size, *g = upstream + row * size;
        T* out = grad + row * size;
        const int64_t end = whole(row % size + 1, size);
        float mean = 0.0f;
#pragma omp simd reduction(+ : mean)
        for (int64_t j = 0; j < end; j++) mean += wide(w[j]) * wide(g[j]);
#pragma omp simd
        for (int64_t j = 0; j < end; j++) out[j] = narrow<T>(scale * wide(w[j]) * (wide(g[j]) - mean));
        for (int64_t j = end; j < size; j++) out[j] = narrow<T>(0.0f);
    }
}

// log softmax(sharpness · logits) (N, V) at the labels (N,), and the logarithm of each row's sum; a label below 0 gives 0.
template <typename T>
void token_logprobs(
    const T* logits, const int64_t* labels, float* logprobs, float* log_sums, int64_t N, int64_t V, float sharpness) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < N; row++) {
        const T* l = logits + row * V;
        float highest = -INFINITY, total = 0.0f;
#pragma omp simd reduction(max : highest)
        for (int64_t v = 0; v < V; v++) {
            const float x = wide(l[v]);
            highest = x > highest ? x : highest;
        }
#pragma omp simd reduction(+ : total)
        for (int64_t v = 0; v < V; v++) total += fast_exp(sharpness * (wide(l[v]) - highest));
        log_sums[row] = sharpness * highest + std::log(total);
        logprobs[row] = labels[row] < 0 ? 0.0f : sharpness * wide(l[labels[row]]) - log_sums[row];
    }
}

// Their gradient takes the logits' place: upstream · sharpness · (1 at the label − softmax).
template <typename T>
void token_logprobs_backward(
    T* logits, const int64_t* labels, const float* log_sums, const float* upstream, int64_t N, int64_t V, float sharpness) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < N; row++) {
        T* l = logits + row * V;
        const bool known = labels[row] >= 0;
        const float factor = known ? upstream[row] * sharpness : 0.0f, log_sum = log_sums[row];
        const float at_label = known ? factor * -std::expm1(sharpness * wide(l[labels[row]]) - log_sum) : 0.0f;
#pragma omp simd
        for (int64_t v = 0; v < V; v++) l[v] = narrow<T>(-factor * fast_exp(sharpness * wide(l[v]) - log_sum));
        if (known) l[labels[row]] = narrow<T>(at_label);
    }
}

template <typename T>
void norm_row(const float* x, const float* gain, const float* bias, T* y, float* moments, int64_t C, float eps) {
    float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < C; c++) sum += x[c];
    const float mean = sum / C;
#pragma omp simd reduction(+ : squares)
    for (int64_t c = 0; c < C; c++) squares += (x[c] - mean) * (x[c] - mean);
    const float scale = 1.0f / std::sqrt(squares / C + eps);
#pragma omp simd
    for (int64_t c = 0; c < C; c++) y[c] = narrow<T>((x[c] - mean) * scale * gain[c] + bias[c]);
    if (moments) moments[0] = mean, moments[1] = scale;
}

// Layer norm of x (rows, C); moments (rows, 2) keeps mean and 1 / standard deviation for norm_backward.
template <typename T>
void norm(const float* x, const float* gain, const float* bias, T* y, float* moments, int64_t rows, int64_t C, float eps) {
#pragma omp parallel for schedule(static) if (rows * C > 16384)
    for (int64_t row = 0; row < rows; row++)
        norm_row(x + row * C, gain, bias, y + row * C, moments + 2 * row, C, eps);
}

template <typename T>
void norm_backward(
    const float* x, const float* gain, const float* moments, const T* upstream, float* grad, float* grad_gain,
    float* grad_bias, int64_t rows, int64_t C) {
    constexpr int64_t PARTS = 16;  // partial sums over rows, added in order: the result is that of any number of threads
    std::vector<float> partial(2 * PARTS * C, 0.0f);
#pragma omp parallel for schedule(static)
    for (int64_t part = 0; part < PARTS; part++) {
        float *sum_gain = &partial[2 * part * C], *sum_bias = sum_gain + C;
        for (int64_t row = rows * part / PARTS; row < rows * (part + 1) / PARTS; row++) {
            const float *a = x + row * C, mean = moments[2 * row], scale = moments[2 * row + 1];
            const T* g = upstream + row * C;
            float of_g = 0.0f, of_gx = 0.0f;
#pragma omp simd reduction(+ : of_g, of_gx)
            for (int64_t c = 0; c < C; c++) {
                const float u = wide(g[c]), unit = (a[c] - mean) * scale;
                sum_gain[c] += u * unit;
                sum_bias[c] += u;
                of_g += u * gain[c];
                of_gx += u * gain[c] * unit;
            }
            of_g /= C, of_gx /= C;
#pragma omp simd
            for (int64_t c = 0; c < C; c++)
                grad[row * C + c] = scale * (wide(g[c]) * gain[c] - of_g - (a[c] - mean) * scale * of_gx);
        }
    }
    for (int64_t c = 0; c < C; c++) {
        grad_gain[c] = grad_bias[c] = 0.0f;
        for (int64_t part = 0; part < PARTS; part++) {
            grad_gain[c] += partial[2 * part * C + c];
            grad_bias[c] += partial[(2 * part + 1) * C + c];
        }
    }
}

// x (rows, C) += added, then y = layer norm of x.
template <typename T>
void add_norm(
    float* x, const T* added, const float* gain, const float* bias, T* y, int64_t rows, int64_t C, float eps) {
#pragma omp parallel for schedule(static) if (rows * C > 16384)
    for (int64_t row = 0; row < rows; row++) {
#pragma omp simd
        for (int64_t c = 0; c < C; c++) x[row * C + c] += wide(added[row * C + c]);
        norm_row<T>(x + row * C, gain, bias, y + row * C, nullptr, C, eps);
    }
}

typedef float lanes __attribute__((vector_size(64)));  // 16 numbers, one register where the processor has such wide ones

template <typename T>
inline lanes load(const T* x) {
    if constexpr (sizeof(T) == 4) {
        lanes y;
        return std::memcpy(&y, x, sizeof y), y;
    } else {
        typedef uint16_t halves __attribute__((vector_size(32)));
        typedef uint32_t words __attribute__((vector_size(64)));
        halves half;
        std::memcpy(&half, x, sizeof half);
        return (lanes)(__builtin_convertvector(half, words) << 16);
    }
}

// Half of a vector's numbers, from `first` on; GCC has __builtin_shufflevector from version 12 only.
template <typename Half, typename Whole>
inline Half half_of(const Whole& whole, size_t first) {
    Half half;
    return std::memcpy(&half, reinterpret_cast<const float*>(&whole) + first, sizeof half), half;
}

inline float sum(lanes x) {  // in halves: one by one every addition would wait for the one before
    typedef float eight_lanes __attribute__((vector_size(32)));
    typedef float four_lanes __attribute__((vector_size(16)));
    const auto eight = half_of<eight_lanes>(x, 0) + half_of<eight_lanes>(x, 8);
    const auto four = half_of<four_lanes>(eight, 0) + half_of<four_lanes>(eight, 4);
    return (four[0] + four[1]) + (four[2] + four[3]);
}

// One head of D numbers, rotated by cos and sin where there are any.
template <typename T>
void place(const T* x, const float* cos, const float* sin, T* y, int64_t D) {
    if (!cos) {
        std::copy_n(x, D, y);
        return;
    }
    const int64_t half = D / 2;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        const float first = wide(x[i]), second = wide(x[half + i]);
        y[i] = narrow<T>(first * cos[i] - second * sin[i]);
        y[half + i] = narrow<T>(second * cos[half + i] + first * sin[half + i]);
    }
}

// N rows of heads (N, H·D), rotated in place by cos and sin (P, D), of which row n takes n modulo P.
template <typename T>
void rotate(T* x, const float* cos, const float* sin, int64_t N, int64_t H, int64_t D, int64_t P) {
#pragma omp parallel for schedule(static) if (N * H * D > 16384)
    for (int64_t n = 0; n < N; n++)
        for (int64_t h = 0; h < H; h++) {
            T* head = x + (n * H + h) * D;
            place(head, cos + n % P * D, sin + n % P * D, head, D);
        }
}

// Attention of one query (16·N) over `seen` keys and values (L, 16·N).
template <typename T, int N>
void attend_head(const T* q, const T* keys, const T* values, T* y, float* weights, int64_t seen, float scale) {
    lanes query[N], out[N] = {};
    for (int n = 0; n < N; n++) query[n] = load(q + 16 * n) * scale;
    float highest = -INFINITY, total = 0.0f;
    for (int64_t j = 0; j < seen; j++) {
        lanes products = query[0] * load(keys + j * 16 * N);
        for (int n = 1; n < N; n++) products += query[n] * load(keys + (j * N + n) * 16);
        weights[j] = sum(products);
        highest = std::max(highest, weights[j]);
    }
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < seen; j++) total += weights[j] = fast_exp(weights[j] - highest);
    for (int64_t j = 0; j < seen; j++)
        for (int n = 0; n < N; n++) out[n] += weights[j] * load(values + (j * N + n) * 16);
    for (int n = 0; n < N; n++) {
        const lanes mean = out[n] / total;
        for (int i = 0; i < 16; i++) y[16 * n + i] = narrow<T>(mean[i]);
    }
}

// One new token per row: its keys and values (B, K·D) go to `slots` (B,) of the cache (B, K, L, D), and its queries
// (B, H·D), of which H / K share a key, see all slots up to there; y (B, H, D). Rows of q are q_stride apart, those of k
// and v kv_stride. With cos and sin (B, D), queries and keys are rotated first (Su et al. 2021), halves of a head as
// pairs. Wants D of 16, 32, … 128.
template <typename T>
void attend(
    const T* q, const T* k, const T* v, const float* cos, const float* sin, T* keys, T* values, const int64_t* slots,
    T* y, int64_t B, int64_t H, int64_t K, int64_t L, int64_t D, int64_t q_stride, int64_t kv_stride, float scale) {
    constexpr decltype(&attend_head<T, 1>) heads[] = {
        attend_head<T, 1>, attend_head<T, 2>, attend_head<T, 3>, attend_head<T, 4>,
        attend_head<T, 5>, attend_head<T, 6>, attend_head<T, 7>, attend_head<T, 8>};
    const int64_t shared = H / K;
#pragma omp parallel
    {
        std::vector<float> weights(L);
        std::vector<T> rotated(D);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < B * K; i++) {
            const int64_t row = i / K, head = i % K, slot = slots[row];
            T *seen_keys = keys + i * L * D, *seen_values = values + i * L * D;
            for (int64_t at = 0; at <= slot * D; at += 64 / sizeof(T)) {  // heads are too short for the processor to foresee
                __builtin_prefetch(seen_values + at);
                __builtin_prefetch(seen_keys + L * D + at);  // of the next head; past the end it does nothing
            }
            const float *c = cos ? cos + row * D : nullptr, *s = sin ? sin + row * D : nullptr;
            place(k + row * kv_stride + head * D, c, s, seen_keys + slot * D, D);
            std::copy_n(v + row * kv_stride + head * D, D, seen_values + slot * D);
            for (int64_t each = head * shared; each < (head + 1) * shared; each++) {
                place(q + row * q_stride + each * D, c, s, rotated.data(), D);
                heads[D / 16 - 1](
                    rotated.data(), seen_keys, seen_values, y + (row * H + each) * D, weights.data(), slot + 1, scale);
            }
        }
    }
}

// x (rows, C) += added, unless there is none, then y = RMS norm of x (Zhang and Sennrich 2019).
template <typename T>
void add_rms_norm(float* x, const T* added, const float* gain, T* y, int64_t rows, int64_t C, float eps) {
#pragma omp parallel for schedule(static) if (rows * C > 16384)
    for (int64_t row = 0; row < rows; row++) {
        float *r = x + row * C, squares = 0.0f;
        if (added) {
#pragma omp simd
            for (int64_t c = 0; c < C; c++) r[c] += wide(added[row * C + c]);
        }
#pragma omp simd reduction(+ : squares)
        for (int64_t c = 0; c < C; c++) squares += r[c] * r[c];
        const float scale = 1.0f / std::sqrt(squares / C + eps);
#pragma omp simd
        for (int64_t c = 0; c < C; c++) y[row * C + c] = narrow<T>(r[c] * scale * gain[c]);
    }
}

// SiLU of the gate times what it lets through (Shazeer 2020), in the place of the gate.
template <typename T>
void swiglu(T* gate, const T* up, int64_t n) {
#pragma omp parallel for simd if (n > 16384)
    for (int64_t i = 0; i < n; i++) {
        const float a = wide(gate[i]);
        gate[i] = narrow<T>(a / (1.0f + fast_exp(-a)) * wide(up[i]));
    }
}

// Where the running sum of softmax(logits / temperature) (B, V) passes uniforms (B,), and the log-probability there.
template <typename T>
void draw(
    const T* logits, const double* uniforms, int64_t* tokens, float* logprobs, int64_t B, int64_t V, float temperature) {
    constexpr int64_t BLOCK = 256;
    const float sharpness = 1.0f / temperature;
#pragma omp parallel
    {
        std::vector<float> sums(V / BLOCK + 1);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < B; row++) {
            const T* l = logits + row * V;
            float highest = -INFINITY;
#pragma omp simd reduction(max : highest)
            for (int64_t v = 0; v < V; v++) {
                const float x = wide(l[v]);
                highest = x > highest ? x : highest;
            }
            double total = 0.0;
            for (int64_t first = 0; first < V; first += BLOCK) {
                const int64_t last = first + BLOCK < V ? first + BLOCK : V;
                float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
                for (int64_t v = first; v < last; v++) sum += fast_exp(sharpness * (wide(l[v]) - highest));
                total += sums[first / BLOCK] = sum;
            }
            double left = uniforms[row] * total;
            int64_t block = 0, token = 0;
            while ((block + 1) * BLOCK < V && left >= sums[block]) left -= sums[block++];
            for (int64_t v = block * BLOCK; v < V && v < (block + 1) * BLOCK && left >= 0.0; v++) {
                const float weight = fast_exp(sharpness * (wide(l[v]) - highest));
                left -= weight;
                if (weight > 0.0f) token = v;  // rounding may leave something: then the last one stays
            }
            tokens[row] = token;
            logprobs[row] = sharpness * (wide(l[token]) - highest) - float(std::log(total));
        }
    }
}

}  // namespace

#define EXPORT(T)                                                                                                      \
    extern "C" {                                                                                                       \
    void gelu_##T(const T* x, T* y, int64_t n) { gelu(x, y, n); }                                                      \
    void gelu_backward_##T(const T* x, const T* up, T* grad, int64_t n) { gelu_backward(x, up, grad, n); }             \
    void causal_softmax_##T(const T* s, T* w, int64_t matrices, int64_t size, float scale) {                           \
        causal_softmax(s, w, matrices, size, scale);                                                                   \
    }                                                                                                                  \
    void causal_softmax_backward_##T(                                                                                  \
        const T* w, const T* up, T* grad, int64_t matrices, int64_t size, float scale) {                               \
        causal_softmax_backward(w, up, grad, matrices, size, scale);                                                   \
    }                                                                                                                  \
    void token_logprobs_##T(                                                                                           \
        const T* l, const int64_t* labels, float* logprobs, float* log_sums, int64_t N, int64_t V, float sharpness) {  \
        token_logprobs(l, labels, logprobs, log_sums, N, V, sharpness);                                                \
    }                                                                                                                  \
    void token_logprobs_backward_##T(                                                                                  \
        T* l, const int64_t* labels, const float* log_sums, const float* up, int64_t N, int64_t V, float sharpness) {  \
        token_logprobs_backward(l, labels, log_sums, up, N, V, sharpness);                                             \
    }                                                                                                                  \
    void norm_##T(                                                                                                     \
        const float* x, const float* gain, const float* bias, T* y, float* moments, int64_t n, int64_t C, float eps) { \
        norm(x, gain, bias, y, moments, n, C, eps);                                                                    \
    }                                                                                                                  \
    void norm_backward_##T(                                                                                            \
        const float* x, const float* gain, const float* moments, const T* up, float* grad, float* grad_gain,           \
        float* grad_bias, int64_t n, int64_t C) {                                                                      \
        norm_backward(x, gain, moments, up, grad, grad_gain, grad_bias, n, C);                                         \
    }                                                                                                                  \
    void add_norm_##T(                                                                                                 \
        float* x, const T* added, const float* gain, const float* bias, T* y, int64_t n, int64_t C, float eps) {       \
        add_norm(x, added, gain, bias, y, n, C, eps);                                                                  \
    }                                                                                                                  \
    void attend_##T(                                                                                                   \
        const T* q, const T* k, const T* v, const float* cos, const float* sin, T* keys, T* values,                    \
        const int64_t* slots, T* y, int64_t B, int64_t H, int64_t K, int64_t L, int64_t D, int64_t q_stride,           \
        int64_t kv_stride, float scale) {                                                                              \
        attend(q, k, v, cos, sin, keys, values, slots, y, B, H, K, L, D, q_stride, kv_stride, scale);                  \
    }                                                                                                                  \
    void rotate_##T(T* x, const float* cos, const float* sin, int64_t N, int64_t H, int64_t D, int64_t P) {            \
        rotate(x, cos, sin, N, H, D, P);                                                                               \
    }                                                                                                                  \
    void add_rms_norm_##T(                                                                                             \
        float* x, const T* added, const float* gain, T* y, int64_t n, int64_t C, float eps) {                          \
        add_rms_norm(x, added, gain, y, n, C, eps);                                                                    \
    }                                                                                                                  \
    void swiglu_##T(T* gate, const T* up, int64_t n) { swiglu(gate, up, n); }                                          \
    void draw_##T(                                                                                                     \
        const T* logits, const double* uniforms, int64_t* tokens, float* logprobs, int64_t B, int64_t V,               \
        float temperature) {                                                                                           \
        draw(logits, uniforms, tokens, logprobs, B, V, temperature);                                                   \
    }                                                                                                                  \
    }

EXPORT(float)
EXPORT(bfloat16)
