// Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023, algorithm 2.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct Lion {
    static constexpr const char* name = "Lion";
    static constexpr bool takes_sign = true;
    struct Hyper {
        double lr, beta1, beta2, weight_decay;
    };
    static constexpr const char* hyper_names[] = {"lr", "betas[0]", "betas[1]", "weight_decay"};
    static constexpr State states[] = {{"exp_avg", Role::momentum}};

    T lr, decay, one_minus_beta1, one_minus_beta2;

    Lion(const Hyper& h, const When&)
        : lr(T(h.lr)), decay(T(1 - h.lr * h.weight_decay)), one_minus_beta1(T(1 - h.beta1)),
          one_minus_beta2(T(1 - h.beta2)) {}

    T direction(T g, T m) const { return sign(m + one_minus_beta1 * (g - m)); }
    void add(T g, T& m) const { m += one_minus_beta2 * (g - m); }

    void operator()(T& p, T g, T& m) const {
        p = p * decay - lr * direction(g, m);
        add(g, m);
    }
};
