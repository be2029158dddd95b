// end + (value - end) (1 - x)^p,  x = min(t, T) / T
#pragma once
#include "math.hpp"

struct Polynomial {
    static constexpr const char* name = "polynomial";

    Decay path;
    double power;

    static Polynomial of(const double* arguments, int64_t) {
        // (1 - 1 / T)^(2^70) is 0 for every T below 2^52, and so are larger powers.
        return {Decay::of(arguments), least(arguments[3], 0x1p70)};
    }

    double operator()(double t) const {
        return power_share(path.length - least(t, path.length), path.length, power)
            .between(path.value, path.end);
    }
};

// T becomes T max(1, ceil(t / T)): whenever the end is reached, as much again to go as went before.
struct PolynomialCycle {
    static constexpr const char* name = "polynomial_cycle";

    Polynomial form;
    Divisor first;

    static PolynomialCycle of(const double* arguments, int64_t count) {
        return {Polynomial::of(arguments, count), Divisor::of(arguments[2])};
    }

    double operator()(double t) const {
        const double before = first.whole(t) * first.length;
        const double reached = before < t ? before + first.length : before;
        const double length = greatest(reached, first.length);
        return power_share(length - t, length, form.power).between(form.path.value, form.path.end);
    }
};

// end + (value - end) (1 - x^p)
struct PolynomialRise {
    static constexpr const char* name = "polynomial_rise";

    Polynomial form;

    static PolynomialRise of(const double* arguments, int64_t count) {
        return {Polynomial::of(arguments, count)};
    }

    double operator()(double t) const {
        const Decay& path = form.path;
        return power_share(least(t, path.length), path.length, form.power)
            .between(path.end, path.value);
    }
};
