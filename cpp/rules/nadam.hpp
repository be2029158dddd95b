// Dozat, "Incorporating Nesterov momentum into Adam", ICLR 2016 workshop, in PyTorch's form: the
// momentum mu warms up, and the gradient has a part of the step of its own.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct NAdam {
    static constexpr const char* name = "NAdam";
    struct Hyper {
        double lr, beta1, beta2, eps, weight_decay, momentum_decay, decoupled_weight_decay;
    };
    static constexpr const char* hyper_names[] = {"lr",
                                                  "betas[0]",
                                                  "betas[1]",
                                                  "eps",
                                                  "weight_decay",
                                                  "momentum_decay",
                                                  "decoupled_weight_decay"};
    static constexpr State states[] = {{"exp_avg", Role::momentum},
                                       {"exp_avg_sq", Role::second_moment}};
    struct Memory {
        double mu_product;    // of mu at all updates so far
    };
    static constexpr const char* memory_names[] = {"mu_product"};

    T decay, weight_decay, one_minus_beta1, beta2, one_minus_beta2, c2, eps;
    T of_gradient, of_momentum;    // their parts of the step

    NAdam(const Hyper& h, const When& when, Memory& memory)
        : decay(T(h.decoupled_weight_decay != 0 ? 1 - h.lr * h.weight_decay : 1)),
          weight_decay(T(h.decoupled_weight_decay != 0 ? 0 : h.weight_decay)),
          one_minus_beta1(T(1 - h.beta1)), beta2(T(h.beta2)), one_minus_beta2(T(1 - h.beta2)),
          c2(T(1 - power(h.beta2, when.t))), eps(T(h.eps)) {
        const double mu = momentum(h, when.t), next = momentum(h, when.t + 1);
        memory.mu_product = (when.t == 1 ? 1 : memory.mu_product) * mu;
        of_gradient = T(h.lr * (1 - mu) / (1 - memory.mu_product));
        of_momentum = T(h.lr * next / (1 - memory.mu_product * next));
    }

    static double momentum(const Hyper& h, int64_t t) {
        return h.beta1 * (1 - 0.5 * pow(0.96, double(t) * h.momentum_decay));
    }

    static double moment_correction(const Hyper& h, int64_t t) { return 1 - power(h.beta2, t); }

    void operator()(T& p, T g, T& m, T& v) const {
        p *= decay;
        g = weight_decay != 0 ? g + weight_decay * p : g;
        m += one_minus_beta1 * (g - m);
        v = beta2 * v + one_minus_beta2 * g * g;
        p -= (of_gradient * g + of_momentum * m) / (sqrt(v / c2) + eps);
    }
};
