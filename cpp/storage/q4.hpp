// 4 bits a number in blocks of 64: a float with one bit of fraction, less its hidden one. The
// magnitudes 0, 1, 2 … stand for 0, 1/2, 1, 2, 3, 5, 7, 11, 15, 23 …
#pragma once
#include "blocks.hpp"

struct OneBitOfFraction {
    static constexpr uint32_t one = 0x3F800000;

    static float value(int32_t magnitude) {
        return from_bits(one + (uint32_t(magnitude) << 22)) - 1.0f;
    }

    static constexpr int32_t base = 0;
    template <bool stochastic> static int32_t magnitude(float y, uint32_t random) {
        const uint32_t b = to_bits(y + 1.0f) - one;
        return int32_t((b + (stochastic ? random >> 10 & 0x3FFFFC : 0x200000)) >> 22);
    }
};

struct q4 : Blocks<OneBitOfFraction, 4, 64> {
    static constexpr const char* name = "q4";
};
static_assert(q4::bytes(1) == 5 && q4::bytes(64) == 36 && q4::bytes(65) == 41);
