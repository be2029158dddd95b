// Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1;
// amsgrad: Reddi, Kale & Kumar, "On the convergence of Adam and beyond", ICLR 2018,
// in PyTorch's form: the maximum is over the raw v.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct Adam {
    static constexpr const char* name = "Adam";
    struct Hyper {
        double lr, beta1, beta2, eps, weight_decay, amsgrad;
    };
    static constexpr const char* hyper_names[] = {"lr",  "betas[0]",     "betas[1]",
                                                  "eps", "weight_decay", "amsgrad"};
    static constexpr State states[] = {{"exp_avg", Role::momentum},
                                       {"exp_avg_sq", Role::second_moment},
                                       {"max_exp_avg_sq", Role::maximum, "amsgrad"}};
    static constexpr bool amsgrad = Options & 1;

    T one_minus_beta1, beta2, one_minus_beta2, eps, weight_decay, step, sqrt_c2;

    Adam(const Hyper& h, int64_t t)
        : one_minus_beta1(T(1 - h.beta1)), beta2(T(h.beta2)), one_minus_beta2(T(1 - h.beta2)),
          eps(T(h.eps)), weight_decay(T(h.weight_decay)), step(T(h.lr / (1 - power(h.beta1, t)))),
          sqrt_c2(T(sqrt(1 - power(h.beta2, t)))) {}

    static double moment_correction(const Hyper& h, int64_t t) { return 1 - power(h.beta2, t); }

    void operator()(T& p, T g, T& m, T& v, T& v_max) const {
        g = weight_decay != 0 ? g + weight_decay * p : g;
        m += one_minus_beta1 * (g - m);
        v = beta2 * v + one_minus_beta2 * g * g;
        if (amsgrad) v_max = max(v_max, v);
        T denom = sqrt(amsgrad ? v_max : v) / sqrt_c2 + eps;
        p -= step * m / denom;
    }
};
