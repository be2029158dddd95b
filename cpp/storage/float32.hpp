// IEEE 754 single precision.
#pragma once
#include "storage.hpp"

struct float32 : Ieee<float> {
    static constexpr const char* name = "float32";
    static constexpr unsigned roles =
        as_param | as_gradient | as_state | as_point | as_rate | as_direction;
};
