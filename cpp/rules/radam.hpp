// Liu et al., "On the variance of the adaptive learning rate and beyond", ICLR 2020, algorithm 2:
// Adam whose step grows as the second moment becomes known, and momentum alone until it is.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct RAdam {
    static constexpr const char* name = "RAdam";
    struct Hyper {
        double lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay;
    };
    static constexpr const char* hyper_names[] = {"lr",  "betas[0]",     "betas[1]",
                                                  "eps", "weight_decay", "decoupled_weight_decay"};
    static constexpr State states[] = {{"exp_avg", Role::momentum},
                                       {"exp_avg_sq", Role::second_moment}};

    T decay, weight_decay, one_minus_beta1, beta2, one_minus_beta2, eps, step;
    bool rectified;    // else the second moment is not used yet

    RAdam(const Hyper& h, const When& when)
        : decay(T(h.decoupled_weight_decay != 0 ? 1 - h.lr * h.weight_decay : 1)),
          weight_decay(T(h.decoupled_weight_decay != 0 ? 0 : h.weight_decay)),
          one_minus_beta1(T(1 - h.beta1)), beta2(T(h.beta2)), one_minus_beta2(T(1 - h.beta2)),
          eps(T(h.eps)) {
        const double left = power(h.beta2, when.t), c2 = 1 - left;
        // How many updates the second moment is an average of, in the end and by now.
        const double most = 2 / (1 - h.beta2) - 1, now = most - 2 * double(when.t) * left / c2;
        const double rate = h.lr / (1 - power(h.beta1, when.t));
        rectified = now > 5;
        step = T(rectified
                     ? rate * sqrt((now - 4) * (now - 2) * most / ((most - 4) * (most - 2) * now)) *
                           sqrt(c2)
                     : rate);
    }

    static double moment_correction(const Hyper& h, int64_t t) { return 1 - power(h.beta2, t); }

    void operator()(T& p, T g, T& m, T& v) const {
        p *= decay;
        g = weight_decay != 0 ? g + weight_decay * p : g;
        m += one_minus_beta1 * (g - m);
        v = beta2 * v + one_minus_beta2 * g * g;
        p -= step * m / (rectified ? sqrt(v) + eps : T(1));
    }
};
