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

    // Above this magnitude a number is infinite, no number, or more than the halves can hold.
    static constexpr int32_t most = 0x7F7F7FFF;

    // Someone may have written to the high half alone: then the low one must not turn a zero or an
    // infinity into a NaN, or an infinity into a finite number. All of these lie above the most.
    template <class T> static T load(pointer x, int64_t i) {
        const uint32_t high = uint32_t(x.high[i]) << 16, both = high + uint32_t(int32_t(x.low[i]));
        return T(from_bits(int32_t(both & 0x7FFFFFFF) > most ? high : both));
    }

    template <bool stochastic, class T> static void store(pointer x, int64_t i, T value, uint32_t) {
        const float single = float(value);
        const uint32_t bits = to_bits(single), sign = bits & 0x80000000;
        const int32_t a = int32_t(bits & 0x7FFFFFFF), finite = a < most ? a : most;
        // (Compared as floats: from comparisons of one integer gcc makes branches.)
        const uint32_t other = (bits | (single != single ? 0x400000 : 0)) & 0xFFFF0000;
        const bool is_finite = from_bits(uint32_t(a)) < __builtin_inff();
        const uint32_t held = is_finite ? uint32_t(finite) | sign : other;
        x.high[i] = uint16_t((held + 0x8000) >> 16);
        x.low[i] = int16_t(held);
    }
};
