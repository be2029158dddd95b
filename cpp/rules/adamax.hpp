// Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 2, in PyTorch's
// form: eps inside the maximum, so that nothing is divided by 0.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct Adamax {
    static constexpr const char* name = "Adamax";
    struct Hyper {
        double lr, beta1, beta2, eps, weight_decay;
    };
    static constexpr const char* hyper_names[] = {"lr", "betas[0]", "betas[1]", "eps",
                                                  "weight_decay"};
    static constexpr State states[] = {{"exp_avg", Role::momentum}, {"exp_inf", Role::magnitude}};

    T step, one_minus_beta1, beta2, eps, weight_decay;

    Adamax(const Hyper& h, const When& when)
        : step(T(h.lr / (1 - power(h.beta1, when.t)))), one_minus_beta1(T(1 - h.beta1)),
          beta2(T(h.beta2)), eps(T(h.eps)), weight_decay(T(h.weight_decay)) {}

    void operator()(T& p, T g, T& m, T& u) const {
        g = weight_decay != 0 ? g + weight_decay * p : g;
        m += one_minus_beta1 * (g - m);
        u = max(beta2 * u, max(g, -g) + eps);
        p -= step * m / u;
    }
};
