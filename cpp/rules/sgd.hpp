// Stochastic gradient descent with momentum.
// Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013,
// in PyTorch's form: the rate stays outside the buffer.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct SGD {
    static constexpr const char* name = "SGD";
    struct Hyper {
        double lr, momentum, dampening, weight_decay, nesterov;
    };
    static constexpr Loops loops = Loops::all;
    static constexpr const char* hyper_names[] = {"lr", "momentum", "dampening", "weight_decay",
                                                  "nesterov"};
    static constexpr State states[] = {{"momentum_buffer", Role::momentum, "momentum"}};
    static constexpr const char* moves_every_row[] = {"momentum", "weight_decay"};
    static constexpr bool has_momentum = Options & 1;

    T lr, momentum, one_minus_dampening, weight_decay;
    bool nesterov, first;

    SGD(const Hyper& h, const When& when)
        : lr(T(h.lr)), momentum(T(h.momentum)), one_minus_dampening(T(1 - h.dampening)),
          weight_decay(T(h.weight_decay)), nesterov(h.nesterov != 0), first(when.first) {}

    void operator()(T& p, T g, T& b) const {
        T d = weight_decay != 0 ? g + weight_decay * p : g;
        if (has_momentum) {
            b = first ? d : momentum * b + one_minus_dampening * d;
            d = nesterov ? d + momentum * b : b;
        }
        p -= lr * d;
    }
};
