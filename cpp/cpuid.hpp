// Which x86-64 targets a processor runs, asked of it directly: what a compiler's own functions know
// differs between compilers and their versions.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace gradstep::cpuid {

// What CPUID and XGETBV answer, as far as targets depend on it.
struct Registers {
    uint32_t ecx1;    // leaf 1, ECX
    uint32_t ebx7;    // leaf 7, EBX; 0: there is no such leaf
    uint64_t xcr0;    // which registers the operating system saves; 0: it does not say
};

#if defined(__x86_64__)
Registers read();
#endif

// Why a target is not offered where the registers are these; empty: it is.
std::string refusal(std::string_view target, const Registers& registers);

}    // namespace gradstep::cpuid
