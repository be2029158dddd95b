// A float32 in two halves: the bfloat16 next to it, which the model reads, and the low 16 bits that
// make it exact again.
//   high = (bits + 0x8000) >> 16, low = int16(bits - (high << 16))
// NaN stays one; the finite numbers beyond the largest bfloat16, which would round to infinity,
// become the largest that the halves can hold.
#pragma once
#include "storage.hpp"

struct split {
    static constexpr const char* name = "split";
    static constexpr unsigned roles = as_param;
    static constexpr int64_t block = 1, low_bytes = sizeof(int16_t);
    static constexpr bool rounds = false, stochastic_momentum = false;
    using compute = float;
    struct pointer {
        uint16_t* high;
        int16_t* low;
    };

    static constexpr int64_t bytes(int64_t n) { return n * int64_t(sizeof(uint16_t)); }
    static pointer at(void* x, void* low) {
        return {static_cast<uint16_t*>(x), static_cast<int16_t*>(low)};
    }

    static pointer plus(pointer x, int64_t n) { return {x.high + n, x.low + n}; }

    // Someone may have written to the high half alone: then the low one must not turn a zero or an
    // infinity into a NaN.
    template <class T> static T load(pointer x, int64_t i) {
        const uint32_t high = x.high[i], a = high & 0x7FFF;
        const int32_t low = x.low[i];
        const bool ignored = (a >= 0x7F80) | ((a == 0) & (low < 0));
        return T(from_bits((high << 16) + uint32_t(ignored ? 0 : low)));
    }

    template <bool stochastic, class T> static void store(pointer x, int64_t i, T value, uint32_t) {
        const uint32_t bits = to_bits(float(value)), a = bits & 0x7FFFFFFF;
        const bool beyond = a >= 0x7F7F8000;
        const uint32_t quiet = a > 0x7F800000 ? 0x40 : 0;
        const uint32_t high = beyond ? bits >> 16 | quiet : (bits + 0x8000) >> 16;
        const uint32_t low = beyond ? (a < 0x7F800000 ? 0x7FFF : 0) : bits - (high << 16);
        x.high[i] = uint16_t(high);
        x.low[i] = int16_t(low);
    }
};
