// Duchi, Hazan & Singer, "Adaptive subgradient methods", JMLR 2011.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct Adagrad {
    static constexpr const char* name = "Adagrad";
    struct Hyper {
        double lr, lr_decay, weight_decay, initial_accumulator_value, eps;
    };
    static constexpr const char* hyper_names[] = {"lr", "lr_decay", "weight_decay",
                                                  "initial_accumulator_value", "eps"};
    static constexpr State states[] = {
        {"sum", Role::second_moment, nullptr, "initial_accumulator_value"}};
    static constexpr const char* moves_every_row[] = {"weight_decay"};

    T clr, weight_decay, eps;

    Adagrad(const Hyper& h, const When& when)
        : clr(T(h.lr / (1 + double(when.t - 1) * h.lr_decay))), weight_decay(T(h.weight_decay)),
          eps(T(h.eps)) {}

    void operator()(T& p, T g, T& s) const {
        g = weight_decay != 0 ? g + weight_decay * p : g;
        s += g * g;
        p -= clr * g / (sqrt(s) + eps);
    }
};
