// 8 bits a number in blocks of 256. A magnitude's float has its bits shifted: a fourth power in
// straight pieces, which shifts invert exactly, without a table. The upper four binades of a block
// get 16 codes each (signed) or 32, the next four half as many, and so on over 28 or 32 binades.
#pragma once
#include "blocks.hpp"

struct FourthPower {
    static constexpr int32_t origin = 0x33200000;    // 128 stands for 1

    static float value(int32_t magnitude) {
        const int32_t above = int32_t(to_bits(float(magnitude))) - origin;
        return from_bits(uint32_t(above > 0 ? above : 0) << 2);
    }

    // Adding 2^23 rounds to the nearest integer and leaves it in the lowest bits.
    static constexpr int32_t base = 0x4B000000;
    template <bool stochastic> static int32_t magnitude(float y, uint32_t random) {
        const float root = from_bits((to_bits(y) >> 2) + origin);
        if (!stochastic) return int32_t(to_bits(root + 0x1p23f));
        // Between 1 and 2, by so much that neither end is reached when the sum is rounded.
        const float above = from_bits((random >> 9 & 0x7FFF00) | 0x3F800001);
        return int32_t(to_bits(root + above + (0x1p23f - 1.5f)));
    }
};

struct q8 : Blocks<FourthPower, 8, 256> {
    static constexpr const char* name = "q8";
};
static_assert(q8::bytes(1) == 5 && q8::bytes(256) == 260 && q8::bytes(257) == 265);
