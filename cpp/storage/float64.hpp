// IEEE 754 double precision.
#pragma once
#include "storage.hpp"

struct float64 : Ieee<double> {
    static constexpr const char* name = "float64";
    static constexpr unsigned roles =
        as_param | as_gradient | as_state | as_point | as_rate | as_direction;
};
