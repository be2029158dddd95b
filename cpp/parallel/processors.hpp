// What this process may run on, and how a processor treats denormals.
#pragma once
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gradstep::parallel {

// What the affinity mask, the cgroup's quota and OMP_NUM_THREADS allow; at most `most`.
int default_threads(int most);

#if defined(__x86_64__)
using FloatMode = unsigned;
constexpr FloatMode plain_floats = 0x1f80;    // all exceptions masked
inline FloatMode float_mode() { return _mm_getcsr(); }
inline void set_float_mode(FloatMode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
using FloatMode = uint64_t;
constexpr FloatMode plain_floats = 0;
inline FloatMode float_mode() {
    FloatMode mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
inline void set_float_mode(FloatMode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
using FloatMode = int;
constexpr FloatMode plain_floats = 0;
inline FloatMode float_mode() { return 0; }
inline void set_float_mode(FloatMode) {}
#endif

// A moment of waiting, for a loop that looks again.
inline void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}    // namespace gradstep::parallel
