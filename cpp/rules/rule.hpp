// What a rule may use. Rules are included inside each target's unnamed namespace (see kernels.inl),
// so every name here is private to that target and nothing of it can leak into another.
//
// A rule is a template on the float type T it computes in and on Options, one bit for each of its
// optional states (bit 0 the first state that names an option, and so on): whether it is used in
// this step. One whose option is 0 now, as a momentum may be, is left alone. A rule has
//   name, Hyper (doubles only), hyper_names (in the order of Hyper), states,
//   a constructor (Hyper, When) that resolves every scalar once, in double, and rounds it once to
//   T, operator()(p, g, states...), which is the equation.
// It may have
//   moment_correction(Hyper, t): what its second moment is divided by to correct it for its start
//   (for the statistics);
//   Memory (doubles only) and memory_names: numbers of each tensor that live from step to step. The
//   constructor then takes (Hyper, When, Memory&) and may change them;
//   gather(p, g, states...): a first pass over the whole tensor, in which the states that are
//   marked `gathered` change and p does not. It returns Summands, which are added up in double over
//   the tensor, its shards and processes; settle(sums...), or settle(Memory&, sums...) in a rule
//   that has memory, takes them and, if it has one more argument, the number of elements; then
//   operator() is the second pass, which reads the states as they were stored;
//   common: names of hyperparameters that are the same in all groups of the rule, but for a rate
//   that is 0. The sums are then added up over all tensors that take part in the step, in their
//   order, and all of the rule's tensors share one memory: the constructor only reads it
//   (const Memory&), and settle must change it in the same way whichever tensor it is called for;
//   states of Shape::rows, ::columns and ::vector, one each: a pass over the gradients comes before
//   the others where there are rows, and adds up their squares by row and column.
//   average(state, mean) then takes the mean of a row or column, relative(row, mean) a row and the
//   mean of all rows, and the product of what it returns and the column is what the other passes
//   get as the state of Shape::vector. (As the states of rows and columns they get 0.)
//   a state of Role::direction, the last of the states, which lives only within a step: gather
//   writes it and nothing else. Then, before operator() reads it and before the first pass of any
//   other rule, Python's part of the rule replaces it (see python/gradstep/orthogonal.py) and gives
//   a number, which settle gets as its first sum;
//   takes_loss: true if When::loss is used, which a step is then to be given;
//   Shown: built from Hyper, gives by operator()(p, states...) the point to evaluate, where that is
//   not p; takes_sign: true if a step's size does not depend on the gradient's; scales_moment: true
//   if its second moment is not that of the gradients themselves, so that no ratio to it means
//   anything; moves_every_row: if the rule takes gradients of some rows, which leave the other rows
//   and their states as they are: the hyperparameters that must be 0 for that; loops: Loops::all if
//   every common combination of storages is worth a loop of its own; rare: the options (bits) under
//   which they are not.
// Only + - * / sqrt max, |x| and comparisons: then every instruction set and compiler gives the
// same bits.
#pragma once
#include "../math.hpp"
#include "state.hpp"

inline float sqrt(float x) { return __builtin_sqrtf(x); }
inline double sqrt(double x) { return __builtin_sqrt(x); }

// A NaN on either side is kept.
template <class T> inline T max(T a, T b) { return ((a > b) | (a != a)) ? a : b; }

// −1, 0 or 1; a NaN is kept. Of what is left then, adding 0 changes −0 alone.
template <class T> inline T sign(T x) { return x > 0 ? T(1) : x < 0 ? T(-1) : x + T(0); }

inline float magnitude(float x) { return __builtin_fabsf(x); }
inline double magnitude(double x) { return __builtin_fabs(x); }

// The states of a rule that has none.
struct NoStates {
    constexpr const State* begin() const { return nullptr; }
    constexpr const State* end() const { return nullptr; }
    constexpr const State& operator[](int s) const { return begin()[s]; }
};
constexpr const State* first_state(const NoStates&) { return nullptr; }
constexpr const State* first_state(const State* states) { return states; }

// What one element adds to each sum of a gather.
template <int count> struct Summands {
    double value[count];
};

template <class T> inline double square(T x) { return double(x) * double(x); }

// x to the power n by squaring: the sequence of roundings is part of the specification.
inline double power(double x, int64_t n) {
    double result = 1;
    for (; n > 0; n >>= 1) {
        if (n & 1) result *= x;
        x *= x;
    }
    return result;
}

// x to a power of 0, 1/2, 1, 3/2 and so on.
inline double half_power(double x, double exponent) {
    const int64_t whole = int64_t(exponent);
    return power(x, whole) * (exponent > double(whole) ? sqrt(x) : 1);
}
