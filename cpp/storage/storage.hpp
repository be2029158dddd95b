// What a storage may use. Storages are included inside each target's unnamed namespace, as rules
// are.
//
// An element storage has
//   name, roles (what it may hold), block = 1, bytes(n) and low_bytes (an element, where there is a
//   second array), compute (what a parameter stored so is computed in),
//   pointer, at(x, low), plus(pointer, n): how its elements are reached,
//   load<T>(x, i), and store<stochastic>(x, i, value, random): stochastic says whether what does
//   not fit is rounded up or down stochastically, in proportion, or to the nearest.
// A block storage is a Blocks<...>, see blocks.hpp.
#pragma once

using gradstep::as_gradient;
using gradstep::as_param;
using gradstep::RandomKey;
constexpr unsigned as_momentum = gradstep::as_role(gradstep::Role::momentum);
constexpr unsigned as_state = as_momentum | gradstep::as_role(gradstep::Role::second_moment) |
                              gradstep::as_role(gradstep::Role::maximum) |
                              gradstep::as_role(gradstep::Role::magnitude);
constexpr unsigned as_point = gradstep::as_role(gradstep::Role::parameter);
constexpr unsigned as_rate = gradstep::as_role(gradstep::Role::rate);
constexpr unsigned as_direction = gradstep::as_role(gradstep::Role::direction);

inline uint32_t to_bits(float x) { return __builtin_bit_cast(uint32_t, x); }
inline float from_bits(uint32_t bits) { return __builtin_bit_cast(float, bits); }

// Random bits for an element of a run, the high ones the better, from element * RandomKey::step. No
// state, so that any thread, target or split draws the same.
inline uint32_t random_bits(RandomKey key, uint32_t steps) {
    uint32_t x = key.begin + steps;
    x ^= x >> 16;
    return x * key.factor;
}

// One array with an element a number.
template <class Memory> struct Elements {
    static constexpr int64_t block = 1, low_bytes = 0;
    static constexpr bool stochastic_momentum = false;
    using memory = Memory;
    using pointer = memory*;
    static constexpr int64_t bytes(int64_t n) { return n * int64_t(sizeof(memory)); }
    static pointer at(void* x, void*) { return static_cast<memory*>(x); }
    static pointer plus(pointer x, int64_t n) { return x + n; }
};

// IEEE 754, as the processor has it.
template <class Memory> struct Ieee : Elements<Memory> {
    using pointer = Memory*;
    using compute = Memory;
    static constexpr bool rounds = false;
    template <class T> static T load(pointer x, int64_t i) { return T(x[i]); }
    template <bool stochastic, class T> static void store(pointer x, int64_t i, T value, uint32_t) {
        x[i] = Memory(value);
    }
};
