// v_0 before the first milestone m_1, v_i for m_i <= t < m_(i+1): a milestone's own update already
// takes the new value. Arguments: m_1 <= ... <= m_n, then v_0 ... v_n.
#pragma once
#include "math.hpp"

struct Drop {
    static constexpr const char* name = "drop";

    const double *milestones, *values;    // the caller's arguments, which outlive this
    int64_t count;

    static Drop of(const double* arguments, int64_t size) {
        const int64_t count = size / 2;
        return {arguments, arguments + count, count};
    }

    double operator()(double t) const {
        int64_t passed = 0, after = count;    // m_passed <= t < m_(after + 1)
        while (passed < after) {
            const int64_t middle = passed + (after - passed) / 2;
            if (milestones[middle] <= t)
                passed = middle + 1;
            else
                after = middle;
        }
        return values[passed];
    }
};
