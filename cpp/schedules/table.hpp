// value_t, and the last one from there on
#pragma once
#include "math.hpp"

struct Table {
    static constexpr const char* name = "table";

    const double* values;    // the caller's arguments, which outlive this
    int64_t count;

    static Table of(const double* arguments, int64_t count) { return {arguments, count}; }

    double operator()(double t) const { return values[int64_t(least(t, from_integer(count - 1)))]; }

    void range(double start, double* out, int64_t n) const {
        const int64_t first = int64_t(least(start, from_integer(count)));
        const int64_t copied = n < count - first ? n : count - first;
        __builtin_memcpy(out, values + first, size_t(copied) * sizeof(double));
        for (int64_t i = copied; i < n; ++i) out[i] = values[count - 1];
    }
};
