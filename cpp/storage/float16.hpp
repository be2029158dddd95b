// IEEE 754 half precision: 5 bits of exponent, 10 of fraction. Too narrow for squares: a second
// moment below 6e-8 would be nothing.
#pragma once
#include "storage.hpp"

struct float16 : Elements<uint16_t> {
    static constexpr const char* name = "float16";
    static constexpr unsigned roles = as_param | as_gradient | as_momentum | as_point;
    static constexpr bool rounds = true;
    using compute = float;

    // Without denormal floats on the way, so that a caller who flushes them gets the same.
    template <class T> static T load(pointer x, int64_t i) {
        const uint32_t half = x[i], sign = (half & 0x8000) << 16, a = half & 0x7FFF;
        const float small = float(int32_t(a)) * 0x1p-24f;    // exact: at most 10 bits
        const uint32_t normal = (a << 13) + (a >= 0x7C00 ? 0x70000000u : 0x38000000u);
        return T(from_bits((a < 0x400 ? to_bits(small) : normal) | sign));
    }

    template <bool stochastic, class T>
    static void store(pointer x, int64_t i, T value, uint32_t random) {
        const uint32_t bits = to_bits(float(value)), sign = bits >> 16 & 0x8000;
        const uint32_t a = bits & 0x7FFFFFFF;
        uint32_t normal, small;
        if (stochastic) {
            normal = (a - 0x38000000 + (random >> 19)) >> 13;
            const float least = a < 0x38800000 ? from_bits(a) : 0;    // what no integer would hold
            small = uint32_t(int32_t(least * 0x1p24f + float(int32_t(random >> 19)) * 0x1p-13f));
        } else {
            normal = (a - 0x38000000 + 0xFFF + (a >> 13 & 1)) >> 13;
            small = to_bits(from_bits(a) + 0.5f) - to_bits(0.5f);    // the addition rounds
        }
        const uint32_t large = a > 0x7F800000 ? 0x7E00 : 0x7C00;
        x[i] = memory((a >= 0x47800000 ? large : a < 0x38800000 ? small : normal) | sign);
    }
};
