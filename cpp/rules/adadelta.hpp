// Zeiler, "ADADELTA: an adaptive learning rate method", 2012, in PyTorch's form: with a rate.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct Adadelta {
    static constexpr const char* name = "Adadelta";
    struct Hyper {
        double lr, rho, eps, weight_decay;
    };
    static constexpr const char* hyper_names[] = {"lr", "rho", "eps", "weight_decay"};
    static constexpr State states[] = {{"square_avg", Role::second_moment},
                                       {"acc_delta", Role::second_moment}};

    T lr, rho, one_minus_rho, eps, weight_decay;

    Adadelta(const Hyper& h, const When&)
        : lr(T(h.lr)), rho(T(h.rho)), one_minus_rho(T(1 - h.rho)), eps(T(h.eps)),
          weight_decay(T(h.weight_decay)) {}

    void operator()(T& p, T g, T& v, T& a) const {
        g = weight_decay != 0 ? g + weight_decay * p : g;
        v = rho * v + one_minus_rho * g * g;
        T delta = sqrt(a + eps) / sqrt(v + eps) * g;
        a = rho * a + one_minus_rho * delta * delta;
        p -= lr * delta;
    }
};
