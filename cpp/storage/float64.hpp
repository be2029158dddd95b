// IEEE 754 double precision, as it lies in memory.
#pragma once

struct float64 {
    static constexpr const char* name = "float64";
    using compute = double;    // what a parameter stored so is computed in
    using memory = double;

    template <class T> static T load(const memory* x, int64_t i) { return T(x[i]); }
    template <class T> static void store(memory* x, int64_t i, T value) { x[i] = memory(value); }
};
