// Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1;
// amsgrad: Reddi, Kale & Kumar, "On the convergence of Adam and beyond", ICLR 2018,
// in PyTorch's form: the maximum is over the raw v.
#pragma once
#include "rule.hpp"

// The running means, and the direction that they give.
template <class T> struct Moments {
    T one_minus_beta1, beta2, one_minus_beta2, eps, step, sqrt_c2;

    Moments(double rate, double beta1_, double beta2_, double eps_, int64_t t)
        : one_minus_beta1(T(1 - beta1_)), beta2(T(beta2_)), one_minus_beta2(T(1 - beta2_)),
          eps(T(eps_)), step(T(rate / (1 - power(beta1_, t)))),
          sqrt_c2(T(sqrt(1 - power(beta2_, t)))) {}

    void add(T g, T& m, T& v) const {
        m += one_minus_beta1 * (g - m);
        v = beta2 * v + one_minus_beta2 * g * g;
    }

    T direction(T m, T v) const { return step * m / (sqrt(v) / sqrt_c2 + eps); }
};

template <class T, unsigned Options> struct Adam {
    static constexpr const char* name = "Adam";
    static constexpr Loops loops = Loops::all;
    static constexpr unsigned rare = 1;    // amsgrad
    struct Hyper {
        double lr, beta1, beta2, eps, weight_decay, amsgrad;
    };
    static constexpr const char* hyper_names[] = {"lr",  "betas[0]",     "betas[1]",
                                                  "eps", "weight_decay", "amsgrad"};
    static constexpr State states[] = {{"exp_avg", Role::momentum},
                                       {"exp_avg_sq", Role::second_moment},
                                       {"max_exp_avg_sq", Role::maximum, "amsgrad"}};
    static constexpr const char* moves_every_row[] = {"weight_decay"};
    static constexpr bool amsgrad = Options & 1;

    T weight_decay;
    Moments<T> moments;

    Adam(const Hyper& h, const When& when)
        : weight_decay(T(h.weight_decay)), moments(h.lr, h.beta1, h.beta2, h.eps, when.t) {}

    static double moment_correction(const Hyper& h, int64_t t) { return 1 - power(h.beta2, t); }

    void operator()(T& p, T g, T& m, T& v, T& v_max) const {
        g = weight_decay != 0 ? g + weight_decay * p : g;
        moments.add(g, m, v);
        if (amsgrad) v_max = max(v_max, v);
        p -= moments.direction(m, amsgrad ? v_max : v);
    }
};
