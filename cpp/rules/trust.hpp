// You et al.: a step in proportion to the length of the parameter that it moves.
#pragma once
#include "rule.hpp"

// coefficient ‖p‖ / (‖update‖ + eps) from the sums of squares; 1 where one of them is 0, or the
// parameter would never move.
inline double trust_ratio(double param, double update, double coefficient, double eps) {
    return param > 0 && update > 0 ? coefficient * sqrt(param) / (sqrt(update) + eps) : 1;
}
