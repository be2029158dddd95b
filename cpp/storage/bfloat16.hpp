// The upper half of an IEEE 754 single: 8 bits of exponent, 7 of fraction. By integer shifts: the
// processors' own conversion flushes denormals.
#pragma once
#include "storage.hpp"

struct bfloat16 : Elements<uint16_t> {
    static constexpr const char* name = "bfloat16";
    static constexpr unsigned roles = as_param | as_gradient | as_state | as_point | as_rate;
    static constexpr bool rounds = true;
    using compute = float;

    template <class T> static T load(pointer x, int64_t i) {
        return T(from_bits(uint32_t(x[i]) << 16));
    }

    template <bool stochastic, class T>
    static void store(pointer x, int64_t i, T value, uint32_t random) {
        const float single = float(value);
        const uint32_t bits = to_bits(single);
        const uint32_t up = stochastic ? random >> 16 : 0x7FFF + (bits >> 16 & 1);
        x[i] = memory((single != single ? bits | 0x400000 : bits + up) >> 16);
    }
};
