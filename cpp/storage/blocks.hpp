// Codes of a few bits, a block of them under one scale.
//
// Code says how a number between 0 and its largest value becomes a magnitude, an integer, and back;
// magnitude() returns base + code, where base lies above the code's bits; a smaller value means
// code 0.
// Signed numbers give their highest bit to the sign. The largest number of a block takes the
// largest magnitude; a block that holds a NaN or an infinity becomes NaN.
//
// Bytes of a block: 4 of float32 scale, then the codes, one a byte or two, the first in the lower
// half; the last block of a tensor has codes for its own elements only.
#pragma once
#include "storage.hpp"

template <class Code, int bits, int64_t block_> struct Blocks {
    static constexpr unsigned roles = as_state;
    static constexpr int64_t block = block_, head = 4, low_bytes = 0;
    static constexpr bool rounds = true, packed = bits == 4;
    // A slow average in so few bits stalls where a small change rounds to none.
    static constexpr bool stochastic_momentum = bits == 4;
    using compute = float;
    using memory = uint8_t;

    template <bool is_signed> static constexpr int32_t most = (1 << (bits - is_signed)) - 1;

    static constexpr int64_t bytes(int64_t n) {
        return (n + block - 1) / block * head + (packed ? (n + 1) / 2 : n);
    }

    // The n numbers, a block at most, that lie at x.
    template <bool is_signed, class T> static void decode(const memory* x, int32_t n, T* out) {
        float scale;
        __builtin_memcpy(&scale, x, sizeof scale);
        x += head;
        memory spread[packed ? block : 1];
        if (packed) {
            for (int32_t i = 0; i < n / 2; ++i) {
                spread[2 * i] = x[i] & 15;
                spread[2 * i + 1] = x[i] >> 4;
            }
            if (n % 2) spread[n - 1] = x[n / 2] & 15;
        }
        const memory* codes = packed ? spread : x;
#pragma omp simd
        for (int32_t i = 0; i < n; ++i) {
            // Of a signed number the sign comes to the highest bit as the code is widened.
            const int32_t code =
                is_signed ? int8_t(codes[i] << (8 - bits)) >> (8 - bits) : codes[i];
            const float value = Code::value(is_signed ? code & most<true> : code) * scale;
            const uint32_t sign = uint32_t(code) & 0x80000000;
            out[i] = T(is_signed ? from_bits(to_bits(value) | sign) : value);
        }
    }

    // Encoding has two halves, so that the second need not wait for the first where several blocks
    // are encoded: the largest magnitude's bits (exact; a NaN is larger than all numbers), and the
    // codes.
    static int32_t magnitude(float x) { return int32_t(to_bits(x) & 0x7FFFFFFF); }
    static int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }
    static int32_t largest(const float* in, int32_t n) {
        int32_t most_bits = 0;
        for (int32_t i = 0; i < n; ++i) most_bits = larger(most_bits, magnitude(in[i]));
        return most_bits;
    }

    // n numbers, a block at most, to x. The largest may come out a few units in the last place
    // above the largest magnitude: a Code's rounding must not lift it to the next one.
    template <bool is_signed, bool stochastic>
    static void encode(const float* in, int32_t n, int32_t largest_bits, memory* x, RandomKey key) {
        constexpr int32_t top = most<is_signed>;
        const float last = Code::value(top), least = 0x1p-110f;    // whose inverse is finite
        const bool finite = largest_bits < 0x7F800000;
        const float absmax = from_bits(uint32_t(largest_bits));
        const float a = absmax > least ? absmax : least, inverse = last / a;
        const float s = finite ? a * (1 / last) : from_bits(0x7FC00000u);
        __builtin_memcpy(x, &s, sizeof s);
        x += head;
        if (!finite) {
            __builtin_memset(x, 0, size_t(bytes(n) - head));
            return;
        }
        memory spread[packed ? block : 1];
        memory* out = packed ? spread : x;
        uint32_t steps = 0;
        constexpr uint32_t step = RandomKey::step;
        GRADSTEP_SIMD_STEPS()
        for (int32_t i = 0; i < n; ++i) {
            const uint32_t b = to_bits(in[i]);
            const float y = from_bits(b & 0x7FFFFFFF) * inverse;
            int32_t c =
                Code::template magnitude<stochastic>(y, stochastic ? random_bits(key, steps) : 0);
            constexpr int32_t least_code = Code::base + !is_signed;    // 0 would be divided by
            if (!is_signed || stochastic) c = c > least_code ? c : least_code;
            if (is_signed) c |= int32_t(b >> (32 - bits) & (top + 1));
            out[i] = memory(c);
            steps += step;
        }
        if (packed) {
            for (int32_t i = 0; i < n / 2; ++i)
                x[i] = memory((spread[2 * i] & 15) | spread[2 * i + 1] << 4);
            if (n % 2) x[n / 2] = spread[n - 1] & 15;
        }
    }
};
