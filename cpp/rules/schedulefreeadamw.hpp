// Defazio et al., "The road less scheduled", NeurIPS 2024, as the package schedulefree 1.4 has it.
#pragma once
#include "schedulefree.hpp"

template <class T, unsigned Options> struct ScheduleFreeAdamW {
    static constexpr const char* name = "ScheduleFreeAdamW";
    struct Hyper {
        double lr, beta1, beta2, eps, weight_decay, warmup_steps, r, weight_lr_power;
    };
    static constexpr const char* hyper_names[] = {"lr",  "betas[0]",       "betas[1]",
                                                  "eps", "weight_decay",   "warmup_steps",
                                                  "r",   "weight_lr_power"};
    static constexpr State states[] = {{"z", Role::parameter}, {"exp_avg_sq", Role::second_moment}};
    using Memory = ScheduleFreeMemory;
    static constexpr const char* memory_names[] = {"lr_max", "weight_sum"};

    T beta2, one_minus_beta2, c2, eps, weight_decay;
    ScheduleFree<T> free;

    ScheduleFreeAdamW(const Hyper& h, const When& when, Memory& memory)
        : beta2(T(h.beta2)), one_minus_beta2(T(1 - h.beta2)), c2(T(1 - power(h.beta2, when.t))),
          eps(T(h.eps)), weight_decay(T(h.weight_decay)), free(h, h.beta1, when.t, memory) {}

    static double moment_correction(const Hyper& h, int64_t t) { return 1 - power(h.beta2, t); }

    void operator()(T& y, T g, T& z, T& v) const {
        v = beta2 * v + one_minus_beta2 * g * g;
        free.step(y, z, g / (sqrt(v / c2) + eps) + weight_decay * y);
    }

    struct Shown : ScheduleFreeShown<T> {
        explicit Shown(const Hyper& h) : ScheduleFreeShown<T>(h.beta1) {}
        T operator()(T y, T z, T) const { return ScheduleFreeShown<T>::operator()(y, z); }
    };
};
