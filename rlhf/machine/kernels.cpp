// What torch's operations are slow at on a CPU, written as plain loops; rlhf/machine/kernels.py compiles and calls them.
//
// T is float or bfloat16; everything is computed in float. B rows, T steps, H heads, L slots of a cache, D head size,
// C channels, V vocabulary. Every tensor is contiguous. Each row of an output is computed by one thread in one order,
// so that it depends neither on the other rows nor on the number of threads; only norm_backward sums over rows.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "vectors.h"

namespace {

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

// What a draw leaves of a distribution; 0, 1 and 0 leave all of it.
struct Truncation {
    int64_t top_k;
    float top_p, min_p;
    bool any() const { return top_k > 0 || top_p < 1.0f || min_p > 0.0f; }
};

// The k-th largest of the weights, or 0 where there are fewer.
float kth_largest(const std::vector<float>& weights, int64_t k) {
    if (k >= int64_t(weights.size())) return 0.0f;
    std::vector<float> most(weights.begin(), weights.begin() + k);  // the smallest of them stands in front
    std::make_heap(most.begin(), most.end(), std::greater<float>());
    for (size_t v = k; v < weights.size(); v++) {
        if (weights[v] <= most.front()) continue;
        std::pop_heap(most.begin(), most.end(), std::greater<float>());
        most.back() = weights[v];
        std::push_heap(most.begin(), most.end(), std::greater<float>());
    }
    return most.front();
}

// The places of the weights (largest: 1) that stay, ascending: those of at least min_p, of them the k largest and their
// equals, of them the fewest that hold the share top_p of what stayed so far.
std::vector<int64_t> truncated(const std::vector<float>& weights, const Truncation& cut) {
    float least = cut.min_p;
    if (cut.top_k) least = std::max(least, kth_largest(weights, cut.top_k));
    double mass = 0.0;
    for (float weight : weights) mass += weight >= least ? weight : 0.0f;
    // All that is smaller than this holds less than what the nucleus leaves out.
    if (cut.top_p < 1.0f) least = std::max(least, float((1.0 - cut.top_p) * mass / weights.size() * 0.99));
    std::vector<int64_t> kept;
    for (size_t v = 0; v < weights.size(); v++)
        if (weights[v] >= least && weights[v] > 0.0f) kept.push_back(v);
    if (cut.top_p < 1.0f) {
        const auto likelier = [&](int64_t a, int64_t b) { return weights[a] != weights[b] ? weights[a] > weights[b] : a < b; };
        std::vector<int64_t> order = kept;
        double before = 0.0;  // of those up to `first`; the last one that stays is found by halves, without sorting all
        for (size_t first = 0, last = order.size(); last - first > 1;) {
            const auto begin = order.begin() + first, middle = begin + (last - first) / 2;
            std::nth_element(begin, middle, order.begin() + last, likelier);
            double upper = before;
            for (auto v = begin; v < middle; v++) upper += weights[*v];
            if (upper < cut.top_p * mass) before = upper, first = middle - order.begin();
            else last = middle - order.begin(), order.resize(last);
        }
        const auto gone = [&](int64_t v) { return likelier(order.back(), v); };
        kept.erase(std::remove_if(kept.begin(), kept.end(), gone), kept.end());
    }
    return kept;
}

// Where the running sum of softmax(logits / temperature) (B, V), truncated, passes uniforms (B,), and the
// log-probability there, of the whole distribution or, where processed, of what is left of it. Rows are `stride` apart.
template <typename T>
void draw(
    const T* logits, int64_t stride, const double* uniforms, int64_t* tokens, float* logprobs, int64_t B, int64_t V,
    float temperature, Truncation cut, bool processed) {
    constexpr int64_t BLOCK = 256;
    const float sharpness = 1.0f / temperature;
#pragma omp parallel
    {
        std::vector<float> sums(V / BLOCK + 1), weights(cut.any() ? V : 0);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < B; row++) {
            const T* l = logits + row * stride;
            float highest = -INFINITY;
#pragma omp simd reduction(max : highest)
            for (int64_t v = 0; v < V; v++) {
                const float x = wide(l[v]);
                highest = x > highest ? x : highest;
            }
            double total = 0.0, kept_total = 0.0;
            int64_t block = 0, token = 0;
            if (cut.any()) {
#pragma omp simd
                for (int64_t v = 0; v < V; v++) weights[v] = fast_exp(sharpness * (wide(l[v]) - highest));
                const std::vector<int64_t> kept = truncated(weights, cut);
                for (float weight : weights) total += weight;
                for (int64_t v : kept) kept_total += weights[v];
                double left = uniforms[row] * kept_total;
                for (int64_t v : kept) {
                    if (left < 0.0) break;
                    left -= weights[token = v];
                }
            } else {
                for (int64_t first = 0; first < V; first += BLOCK) {
                    const int64_t last = first + BLOCK < V ? first + BLOCK : V;
                    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
                    for (int64_t v = first; v < last; v++) sum += fast_exp(sharpness * (wide(l[v]) - highest));
                    total += sums[first / BLOCK] = sum;
                }
                double left = uniforms[row] * total;
                while ((block + 1) * BLOCK < V && left >= sums[block]) left -= sums[block++];
                for (int64_t v = block * BLOCK; v < V && v < (block + 1) * BLOCK && left >= 0.0; v++) {
                    const float weight = fast_exp(sharpness * (wide(l[v]) - highest));
                    left -= weight;
                    if (weight > 0.0f) token = v;  // rounding may leave something: then the last one stays
                }
            }
            tokens[row] = token;
            const double mass = processed && cut.any() ? kept_total : total;
            logprobs[row] = sharpness * (wide(l[token]) - highest) - float(std::log(mass));
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
    void draw_##T(                                                                                                     \
        const T* logits, int64_t stride, const double* uniforms, int64_t* tokens, float* logprobs, int64_t B,          \
        int64_t V, float temperature, int64_t top_k, float top_p, float min_p, int64_t processed) {                    \
        draw(logits, stride, uniforms, tokens, logprobs, B, V, temperature, {top_k, top_p, min_p}, processed);         \
    }                                                                                                                  \
    }

EXPORT(float)
EXPORT(bfloat16)
