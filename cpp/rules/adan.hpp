// Xie et al., "Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models", TPAMI
// 2024, as the authors' code has it, whose beta is 1 - beta in the paper.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct Adan {
    static constexpr const char* name = "Adan";
    struct Hyper {
        double lr, beta1, beta2, beta3, eps, weight_decay;
    };
    static constexpr const char* hyper_names[] = {"lr",       "betas[0]", "betas[1]",
                                                  "betas[2]", "eps",      "weight_decay"};
    static constexpr State states[] = {{"exp_avg", Role::momentum},
                                       {"exp_avg_sq", Role::second_moment},
                                       {"exp_avg_diff", Role::momentum},
                                       {"neg_pre_grad", Role::momentum}};

    T beta1, beta2, beta3, one_minus_beta1, one_minus_beta2, one_minus_beta3;
    T step, step_of_diff, sqrt_c3, eps, shrink;
    bool first;

    Adan(const Hyper& h, const When& when)
        : beta1(T(h.beta1)), beta2(T(h.beta2)), beta3(T(h.beta3)), one_minus_beta1(T(1 - h.beta1)),
          one_minus_beta2(T(1 - h.beta2)), one_minus_beta3(T(1 - h.beta3)),
          step(T(h.lr / (1 - power(h.beta1, when.t)))),
          step_of_diff(T(h.lr * h.beta2 / (1 - power(h.beta2, when.t)))),
          sqrt_c3(T(sqrt(1 - power(h.beta3, when.t)))), eps(T(h.eps)),
          shrink(T(1 / (1 + h.lr * h.weight_decay))), first(when.t == 1) {}

    static double moment_correction(const Hyper& h, int64_t t) { return 1 - power(h.beta3, t); }

    void operator()(T& p, T g, T& m, T& v, T& m_diff, T& minus_g_before) const {
        const T diff = first ? T(0) : g + minus_g_before;
        const T ahead = g + beta2 * diff;
        m = beta1 * m + one_minus_beta1 * g;
        m_diff = beta2 * m_diff + one_minus_beta2 * diff;
        v = beta3 * v + one_minus_beta3 * ahead * ahead;
        p = (p - (step * m + step_of_diff * m_diff) / (sqrt(v) / sqrt_c3 + eps)) * shrink;
        minus_g_before = -g;
    }
};
