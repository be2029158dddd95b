// Wortsman et al., "Stable and low-precision training for large-scale vision-language models",
// NeurIPS 2023, algorithm 2, as the package torch-optimi 0.3 has it: AdamW, whose rate shrinks for
// a tensor whose gradients are larger than its second moment.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct StableAdamW {
    static constexpr const char* name = "StableAdamW";
    struct Hyper {
        double lr, beta1, beta2, weight_decay, eps;
    };
    static constexpr const char* hyper_names[] = {"lr", "betas[0]", "betas[1]", "weight_decay",
                                                  "eps"};
    static constexpr State states[] = {
        {"exp_avg", Role::momentum, nullptr, nullptr, /*gathered=*/true},
        {"exp_avg_sq", Role::second_moment, nullptr, nullptr, /*gathered=*/true}};

    double lr, weight_decay;
    T one_minus_beta1, beta2, one_minus_beta2, eps, eps_squared, step, decay;

    StableAdamW(const Hyper& h, const When& when)
        : lr(h.lr), weight_decay(h.weight_decay),
          one_minus_beta1(T((1 - h.beta1) / (1 - power(h.beta1, when.t)))), eps(T(h.eps)),
          eps_squared(T(h.eps * h.eps)), step(T(h.lr)), decay(T(1 - h.lr * h.weight_decay)) {
        // Means that need no correction: each gradient so far has its share.
        const double new_share = (1 - h.beta2) / (1 - power(h.beta2, when.t));
        beta2 = T(1 - new_share);
        one_minus_beta2 = T(new_share);
    }

    Summands<1> gather(T, T g, T& m, T& v) const {
        m += one_minus_beta1 * (g - m);
        v = beta2 * v + one_minus_beta2 * g * g;
        return {double(g * g / max(v, eps_squared))};
    }

    void settle(double total, double elements) {
        const double rms = sqrt(total / elements), rate = lr / (rms > 1 ? rms : 1);
        step = T(rate);
        decay = T(1 - rate * weight_decay);
    }

    void operator()(T& p, T, T m, T v) const { p = p * decay - step * m / (sqrt(v) + eps); }
};
