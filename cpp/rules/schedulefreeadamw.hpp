// Defazio et al., "The road less scheduled", NeurIPS 2024, as the package schedulefree 1.4 has it.
// The parameter holds y, where gradients are taken; z takes the steps, and the point to evaluate is
// their average x = y + (1 - 1/beta1) (z - y).
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct ScheduleFreeAdamW {
    static constexpr const char* name = "ScheduleFreeAdamW";
    struct Hyper {
        double lr, beta1, beta2, eps, weight_decay, warmup_steps, r, weight_lr_power;
    };
    static constexpr const char* hyper_names[] = {"lr",  "betas[0]",       "betas[1]",
                                                  "eps", "weight_decay",   "warmup_steps",
                                                  "r",   "weight_lr_power"};
    static constexpr State states[] = {{"z", Role::parameter}, {"exp_avg_sq", Role::second_moment}};
    struct Memory {
        double lr_max, weight_sum;    // the largest rate so far, and the sum of all weights
    };
    static constexpr const char* memory_names[] = {"lr_max", "weight_sum"};

    T beta2, one_minus_beta2, c2, eps, weight_decay, c, one_minus_c, ahead, gamma;

    ScheduleFreeAdamW(const Hyper& h, const When& when, Memory& memory)
        : beta2(T(h.beta2)), one_minus_beta2(T(1 - h.beta2)), c2(T(1 - power(h.beta2, when.t))),
          eps(T(h.eps)), weight_decay(T(h.weight_decay)) {
        const double t = double(when.t), warm = t < h.warmup_steps ? t / h.warmup_steps : 1;
        const double rate = h.lr * warm;
        memory.lr_max = max(memory.lr_max, rate);
        const double weight = half_power(t, h.r) * half_power(memory.lr_max, h.weight_lr_power);
        memory.weight_sum += weight;
        const double share = memory.weight_sum > 0 ? weight / memory.weight_sum : 0;
        c = T(share);
        one_minus_c = T(1 - share);
        ahead = T(rate * (h.beta1 * (1 - share) - 1));
        gamma = T(rate);
    }

    static double moment_correction(const Hyper& h, int64_t t) { return 1 - power(h.beta2, t); }

    void operator()(T& y, T g, T& z, T& v) const {
        v = beta2 * v + one_minus_beta2 * g * g;
        T u = g / (sqrt(v / c2) + eps) + weight_decay * y;
        y = one_minus_c * y + c * z + ahead * u;
        z -= gamma * u;
    }

    struct Shown {
        T weight;
        explicit Shown(const Hyper& h) : weight(T(1 - 1 / h.beta1)) {}
        T operator()(T y, T z, T) const { return y + weight * (z - y); }
    };
};
