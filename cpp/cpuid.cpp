#include "cpuid.hpp"

namespace gradstep::cpuid {
namespace {

// What the flags of a target in CMakeLists.txt let a compiler use, from the least target up: each
// has those before it, too.
enum Target { sse4, avx2, avx512 };

const struct Feature {
    const char* name;
    uint32_t Registers::* leaf;
    int bit;
    Target needed_by;
} features[] = {
    {"SSE3", &Registers::ecx1, 0, sse4},        {"SSSE3", &Registers::ecx1, 9, sse4},
    {"SSE4.1", &Registers::ecx1, 19, sse4},     {"SSE4.2", &Registers::ecx1, 20, avx2},
    {"POPCNT", &Registers::ecx1, 23, avx2},     {"AVX", &Registers::ecx1, 28, avx2},
    {"AVX2", &Registers::ebx7, 5, avx2},        {"FMA", &Registers::ecx1, 12, avx512},
    {"F16C", &Registers::ecx1, 29, avx512},     {"AVX512F", &Registers::ebx7, 16, avx512},
    {"AVX512BW", &Registers::ebx7, 30, avx512}, {"AVX512DQ", &Registers::ebx7, 17, avx512},
    {"AVX512VL", &Registers::ebx7, 31, avx512},
};

// Bits of XCR0. SSE's need not be asked for: x86-64 has none without.
const struct State {
    const char* name;
    uint64_t bits;
    Target needed_by;
} states[] = {
    {"YMM", 1 << 2, avx2},
    {"opmask", 1 << 5, avx512},
    {"ZMM", 3 << 6, avx512},
};

void add(std::string& list, const char* name) {
    if (!list.empty()) list += ", ";
    list += name;
}

}    // namespace

#if defined(__x86_64__)

namespace {

struct Answer {
    uint32_t eax, ebx, ecx, edx;
};

Answer ask(uint32_t leaf) {
    Answer found;
    asm volatile("cpuid"
                 : "=a"(found.eax), "=b"(found.ebx), "=c"(found.ecx), "=d"(found.edx)
                 : "a"(leaf), "c"(0));
    return found;
}

}    // namespace

Registers read() {
    constexpr uint32_t xgetbv_is_there = 1 << 27;    // OSXSAVE
    Registers found = {};
    found.ecx1 = ask(1).ecx;
    if (ask(0).eax >= 7) found.ebx7 = ask(7).ebx;
    if (found.ecx1 & xgetbv_is_there) {
        uint32_t low, high;
        asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        found.xcr0 = uint64_t(high) << 32 | low;
#if defined(__APPLE__)
        // It begins to save AVX-512's registers when a program first uses them.
        found.xcr0 |= 7 << 5;
#endif
    }
    return found;
}

#endif

std::string refusal(std::string_view name, const Registers& registers) {
    if (name == "baseline") return "";
    const Target target = name == "sse4" ? sse4 : name == "avx2" ? avx2 : avx512;
    std::string missing;
    for (const Feature& feature : features)
        if (feature.needed_by <= target && !(registers.*feature.leaf >> feature.bit & 1))
            add(missing, feature.name);
    if (!missing.empty()) return "this processor lacks " + missing;
    for (const State& state : states)
        if (state.needed_by <= target && (registers.xcr0 & state.bits) != state.bits)
            add(missing, state.name);
    if (!missing.empty()) return "the operating system does not save the registers " + missing;
    return "";
}

}    // namespace gradstep::cpuid
