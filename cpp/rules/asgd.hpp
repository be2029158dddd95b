// Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control
// Optim. 1992, as PyTorch has it after Bottou's sgd: eta and mu are those of the update before.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct ASGD {
    static constexpr const char* name = "ASGD";
    struct Hyper {
        double lr, lambd, alpha, t0, weight_decay;
    };
    static constexpr const char* hyper_names[] = {"lr", "lambd", "alpha", "t0", "weight_decay"};
    static constexpr State states[] = {{"ax", Role::parameter}};
    struct Memory {
        double eta, mu;    // the rate, and the weight in the average, of the next update
    };
    static constexpr const char* memory_names[] = {"eta", "mu"};

    T decay, eta, mu, weight_decay;
    bool averages;    // else the average is the parameter still

    ASGD(const Hyper& h, const When& when, Memory& memory) : weight_decay(T(h.weight_decay)) {
        const double t = double(when.t), rate = when.t == 1 ? h.lr : memory.eta,
                     weight = when.t == 1 ? 1 : memory.mu;
        decay = T(1 - h.lambd * rate);
        eta = T(rate);
        mu = T(weight);
        averages = weight != 1;
        memory.eta = h.lr / pow(1 + h.lambd * h.lr * t, h.alpha);
        memory.mu = 1 / max(1.0, t - h.t0);
    }

    void operator()(T& p, T g, T& ax) const {
        g = weight_decay != 0 ? g + weight_decay * p : g;
        p = p * decay - eta * g;
        ax = averages ? ax + mu * (p - ax) : p;
    }

    struct Shown {
        explicit Shown(const Hyper&) {}
        T operator()(T, T ax) const { return ax; }
    };
};
