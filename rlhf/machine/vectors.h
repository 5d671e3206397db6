// What kernels.cpp and decoder.cpp share: bfloat16, an exponential that becomes a vector loop, vectors of 16 numbers.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
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

// Sums of products, number by number; of pairs of bfloat16 in 32 bits both products go to one sum.
inline lanes add_product(lanes sum, lanes a, lanes b) { return sum + a * b; }
#ifdef __AVX512BF16__
typedef __m512bh pairs;
inline lanes add_product(lanes sum, pairs a, pairs b) { return (lanes)_mm512_dpbf16_ps((__m512)sum, a, b); }
#else
typedef uint32_t pairs __attribute__((vector_size(64)));
inline lanes add_product(lanes sum, pairs a, pairs b) {
    return sum + lanes(a << 16) * lanes(b << 16) + lanes(a & 0xffff0000u) * lanes(b & 0xffff0000u);
}
#endif

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

}  // namespace
