// Taniguchi et al., "ADOPT: modified Adam can converge with any beta2 with the optimal rate",
// NeurIPS 2024, algorithm 2: the gradient is divided by the second moment of those before it, then
// averaged.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct ADOPT {
    static constexpr const char* name = "ADOPT";
    struct Hyper {
        double lr, beta1, beta2, eps, weight_decay, nesterov, use_clipping;
    };
    static constexpr const char* hyper_names[] = {"lr",           "betas[0]", "betas[1]",    "eps",
                                                  "weight_decay", "nesterov", "use_clipping"};
    static constexpr State states[] = {{"exp_avg", Role::momentum},
                                       {"exp_avg_sq", Role::second_moment}};

    T lr, beta1, beta2, one_minus_beta1, one_minus_beta2, eps, decay, limit;
    bool nesterov, first;

    ADOPT(const Hyper& h, const When& when)
        : lr(T(h.lr)), beta1(T(h.beta1)), beta2(T(h.beta2)), one_minus_beta1(T(1 - h.beta1)),
          one_minus_beta2(T(1 - h.beta2)), eps(T(h.eps)), decay(T(1 - h.lr * h.weight_decay)),
          limit(h.use_clipping != 0 ? T(sqrt(sqrt(double(when.t - 1)))) : T(__builtin_inf())),
          nesterov(h.nesterov != 0), first(when.t == 1) {
        if (!first) return;
        // The first gradient makes the second moment, and nothing moves.
        lr = beta2 = one_minus_beta1 = 0;
        beta1 = one_minus_beta2 = decay = 1;
    }

    T clip(T x) const { return x > limit ? limit : x < -limit ? -limit : x; }

    void operator()(T& p, T g, T& m, T& v) const {
        const T u = first ? T(0) : clip(g / max(sqrt(v), eps));
        m = beta1 * m + one_minus_beta1 * u;
        p = p * decay - lr * (nesterov ? beta1 * m + one_minus_beta1 * u : m);
        v = beta2 * v + one_minus_beta2 * g * g;
    }
};
