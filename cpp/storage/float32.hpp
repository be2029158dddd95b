// IEEE 754 single precision, as it lies in memory.
#pragma once

struct float32 {
    static constexpr const char* name = "float32";
    using compute = float;    // what a parameter stored so is computed in
    using memory = float;

    template <class T> static T load(const memory* x, int64_t i) { return T(x[i]); }
    template <class T> static void store(memory* x, int64_t i, T value) { x[i] = memory(value); }
};
