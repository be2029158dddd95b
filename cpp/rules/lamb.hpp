// You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", ICLR 2020,
// algorithm 2: Adam's direction with decay, as long as the parameter times the rate.
#pragma once
#include "adam.hpp"
#include "trust.hpp"

template <class T, unsigned Options> struct LAMB {
    static constexpr const char* name = "LAMB";
    struct Hyper {
        double lr, beta1, beta2, eps, weight_decay;
    };
    static constexpr const char* hyper_names[] = {"lr", "betas[0]", "betas[1]", "eps",
                                                  "weight_decay"};
    static constexpr State states[] = {
        {"exp_avg", Role::momentum, nullptr, nullptr, /*gathered=*/true},
        {"exp_avg_sq", Role::second_moment, nullptr, nullptr, /*gathered=*/true}};

    double lr;
    T step, weight_decay;
    Moments<T> moments;

    LAMB(const Hyper& h, const When& when)
        : lr(h.lr), step(T(h.lr)), weight_decay(T(h.weight_decay)),
          moments(1, h.beta1, h.beta2, h.eps, when.t) {}

    static double moment_correction(const Hyper& h, int64_t t) { return 1 - power(h.beta2, t); }

    T update(T p, T m, T v) const { return moments.direction(m, v) + weight_decay * p; }

    Summands<2> gather(T p, T g, T& m, T& v) const {
        moments.add(g, m, v);
        return {square(p), square(update(p, m, v))};
    }

    void settle(double param, double update) { step = T(lr * trust_ratio(param, update, 1, 0)); }

    void operator()(T& p, T, T m, T v) const { p -= step * update(p, m, v); }
};
