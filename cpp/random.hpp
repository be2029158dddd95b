// What the random bits of stochastic rounding are made from.
#pragma once
#include <cstdint>

// Before a loop over elements in which `steps` goes up by `step`: it is to become vectors; then its
// other clauses. What is said to be linear, clang would multiply again for each element, and it
// finds by itself what this says.
#define GRADSTEP_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define GRADSTEP_SIMD_STEPS(...) _Pragma("clang loop vectorize(assume_safety)")
#else
#define GRADSTEP_SIMD_STEPS(...) GRADSTEP_PRAGMA(omp simd linear(steps : step) __VA_ARGS__)
#endif

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
