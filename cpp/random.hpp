// What the random bits of stochastic rounding are made from.
#pragma once
#include <cstdint>

namespace gradstep {

// Of a run of elements: a hash of where and when.
struct RandomKey {
    uint32_t begin, factor;
    static constexpr uint32_t step = 0x9E3779B1;    // from one element to the next

    // Always inlined: an out-of-line copy would be a weak symbol that the linker shares between
    // targets.
    [[gnu::always_inline]] RandomKey from(int64_t element) const {
        return {begin + uint32_t(element) * step, factor};
    }
};

}    // namespace gradstep
