// What kernels.cpp and decoder.cpp share: bfloat16, an exponential that becomes a vector loop, vectors of one register.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

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

// As many numbers as a register holds: a vector of several registers would be kept in memory between any two additions.
#if defined(__AVX512F__)
constexpr int64_t WIDTH = 16;
#elif defined(__AVX__)
constexpr int64_t WIDTH = 8;
#else
constexpr int64_t WIDTH = 4;
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool MANY_REGISTERS = true;  // 32, elsewhere 16
#else
constexpr bool MANY_REGISTERS = false;
#endif
typedef float lanes __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t words __attribute__((vector_size(4 * WIDTH)));

template <typename T>
inline lanes load(const T* x) {
    if constexpr (sizeof(T) == 4) {
        lanes y;
        return std::memcpy(&y, x, sizeof y), y;
    } else {
        typedef uint16_t halves __attribute__((vector_size(2 * WIDTH)));
        halves half;
        std::memcpy(&half, x, sizeof half);
        return (lanes)(__builtin_convertvector(half, words) << 16);
    }
}

// Sums of products, number by number, rounded once where the processor can: by name, for where a compiler puts the two
// together by itself depends on the loop around them, and then the same row has other sums in other company.
#if defined(__AVX512F__)
inline lanes add_product(lanes sum, lanes a, lanes b) { return (lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum); }
#elif defined(__FMA__)
inline lanes add_product(lanes sum, lanes a, lanes b) { return (lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum); }
#elif defined(__aarch64__)
inline lanes add_product(lanes sum, lanes a, lanes b) { return (lanes)vfmaq_f32((float32x4_t)sum, (float32x4_t)a, (float32x4_t)b); }
#else
inline lanes add_product(lanes sum, lanes a, lanes b) { return sum + a * b; }
#endif
#if defined(__FMA__) || defined(__aarch64__)
inline float add_product(float sum, float a, float b) { return __builtin_fmaf(a, b, sum); }
#else
inline float add_product(float sum, float a, float b) { return sum + a * b; }
#endif
// Of pairs of bfloat16 in 32 bits both products go to one sum.
#ifdef __AVX512BF16__
typedef __m512bh pairs;
inline lanes add_product(lanes sum, pairs a, pairs b) { return (lanes)_mm512_dpbf16_ps((__m512)sum, a, b); }
#else
typedef words pairs;
inline lanes add_product(lanes sum, pairs a, pairs b) {
    return add_product(add_product(sum, lanes(a << 16), lanes(b << 16)), lanes(a & 0xffff0000u), lanes(b & 0xffff0000u));
}
#endif

inline float sum(lanes x) {  // in halves: one by one every addition would wait for the one before
    float numbers[WIDTH];
    std::memcpy(numbers, &x, sizeof x);
    for (int64_t half = WIDTH / 2; half; half /= 2)
        for (int64_t i = 0; i < half; i++) numbers[i] += numbers[i + half];
    return numbers[0];
}

}  // namespace
