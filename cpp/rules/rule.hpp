// What a rule may use. Rules are included inside each target's unnamed namespace (see kernels.inl),
// so every name here is private to that target and nothing of it can leak into another.
//
// A rule is a template on the float type T it computes in and on Options, one bit for each of its
// optional states (bit 0 the first state that names an option, and so on). It has
//   name, Hyper (doubles only), hyper_names (in the order of Hyper), states,
//   a constructor (Hyper, t) that resolves every scalar once, in double, and rounds it once to T,
//   operator()(p, g, states...), which is the equation,
//   moment_correction(Hyper, t), if it corrects its second moment for its start: what v is divided
//   by (for the statistics).
// Only + - * / sqrt max, |x| and comparisons: then every instruction set and compiler gives the
// same bits. t counts the parameter's own updates, this one included: it starts at 1.
#pragma once
#include "state.hpp"

inline float sqrt(float x) { return __builtin_sqrtf(x); }
inline double sqrt(double x) { return __builtin_sqrt(x); }

// A NaN on either side is kept.
template <class T> inline T max(T a, T b) { return ((a > b) | (a != a)) ? a : b; }

// x to the power n by squaring: the sequence of roundings is part of the specification.
inline double power(double x, int64_t n) {
    double result = 1;
    for (; n > 0; n >>= 1) {
        if (n & 1) result *= x;
        x *= x;
    }
    return result;
}
