// Pagliardini, Ablin & Grangier, "The AdEMAMix optimizer: better, faster, older", ICLR 2025: AdamW
// with a second, slow mean of gradients, whose weight alpha and whose beta3 grow from a start.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct AdEMAMix {
    static constexpr const char* name = "AdEMAMix";
    struct Hyper {
        double lr, beta1, beta2, beta3, alpha, eps, weight_decay, alpha_warmup, beta3_warmup;
    };
    static constexpr const char* hyper_names[] = {"lr",           "betas[0]",     "betas[1]",
                                                  "betas[2]",     "alpha",        "eps",
                                                  "weight_decay", "alpha_warmup", "beta3_warmup"};
    static constexpr State states[] = {{"exp_avg_fast", Role::momentum},
                                       {"exp_avg_slow", Role::momentum},
                                       {"exp_avg_sq", Role::second_moment}};

    T beta1, beta2, beta3, one_minus_beta1, one_minus_beta2, one_minus_beta3;
    T step, step_of_slow, sqrt_c2, eps, decay;

    AdEMAMix(const Hyper& h, const When& when)
        : beta1(T(h.beta1)), beta2(T(h.beta2)), one_minus_beta1(T(1 - h.beta1)),
          one_minus_beta2(T(1 - h.beta2)), step(T(h.lr / (1 - power(h.beta1, when.t)))),
          sqrt_c2(T(sqrt(1 - power(h.beta2, when.t)))), eps(T(h.eps)),
          decay(T(1 - h.lr * h.weight_decay)) {
        const double t = double(when.t), slow = slow_beta(h, t);
        beta3 = T(slow);
        one_minus_beta3 = T(1 - slow);
        step_of_slow = T(h.lr * (t < h.alpha_warmup ? t / h.alpha_warmup * h.alpha : h.alpha));
    }

    // From beta1 to beta3 so that the mean's half-life, -1 / log2(beta), grows in a straight line.
    static double slow_beta(const Hyper& h, double t) {
        if (!(t < h.beta3_warmup)) return h.beta3;
        const double x = t / h.beta3_warmup;
        const double minus_half_life = (1 - x) / log2(h.beta1).hi + x / log2(h.beta3).hi;
        return Exp2({1 / minus_half_life, 0}).times(1);
    }

    static double moment_correction(const Hyper& h, int64_t t) { return 1 - power(h.beta2, t); }

    void operator()(T& p, T g, T& fast, T& slow, T& v) const {
        fast = beta1 * fast + one_minus_beta1 * g;
        slow = beta3 * slow + one_minus_beta3 * g;
        v = beta2 * v + one_minus_beta2 * g * g;
        p = p * decay - (step * fast + step_of_slow * slow) / (sqrt(v) / sqrt_c2 + eps);
    }
};
