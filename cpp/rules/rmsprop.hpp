// Tieleman & Hinton, "Lecture 6.5: RMSprop", 2012; centered: Graves, "Generating sequences with
// recurrent neural networks", 2013.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct RMSprop {
    static constexpr const char* name = "RMSprop";
    struct Hyper {
        double lr, alpha, eps, weight_decay, momentum, centered;
    };
    static constexpr const char* hyper_names[] = {"lr",           "alpha",    "eps",
                                                  "weight_decay", "momentum", "centered"};
    static constexpr State states[] = {{"square_avg", Role::second_moment},
                                       {"grad_avg", Role::momentum, "centered"},
                                       {"momentum_buffer", Role::momentum, "momentum"}};
    static constexpr bool centered = Options & 1, has_momentum = Options & 2;

    T lr, alpha, one_minus_alpha, eps, weight_decay, momentum;

    RMSprop(const Hyper& h, const When&)
        : lr(T(h.lr)), alpha(T(h.alpha)), one_minus_alpha(T(1 - h.alpha)), eps(T(h.eps)),
          weight_decay(T(h.weight_decay)), momentum(T(h.momentum)) {}

    void operator()(T& p, T g, T& v, T& g_avg, T& b) const {
        g = weight_decay != 0 ? g + weight_decay * p : g;
        v = alpha * v + one_minus_alpha * g * g;
        T variance = v;
        if (centered) {
            g_avg += one_minus_alpha * (g - g_avg);
            variance = max(v - g_avg * g_avg, T(0));    // rounding does make it negative
        }
        T denom = sqrt(variance) + eps;
        if (has_momentum) {
            b = momentum * b + g / denom;
            p -= lr * b;
        } else {
            p -= lr * g / denom;
        }
    }
};
