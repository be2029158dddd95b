// value
#pragma once

struct Constant {
    static constexpr const char* name = "constant";

    double value;

    static Constant of(const double* arguments, int64_t) { return {arguments[0]}; }

    double operator()(double) const { return value; }
};
