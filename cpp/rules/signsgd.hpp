// Bernstein et al., "signSGD: compressed optimisation for non-convex problems", ICML 2018:
// algorithm 1, and with a momentum Signum.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct SignSGD {
    static constexpr const char* name = "SignSGD";
    static constexpr bool takes_sign = true;
    struct Hyper {
        double lr, momentum, weight_decay;
    };
    static constexpr const char* hyper_names[] = {"lr", "momentum", "weight_decay"};
    static constexpr State states[] = {{"momentum_buffer", Role::momentum, "momentum"}};
    static constexpr bool has_momentum = Options & 1;

    T lr, momentum, one_minus_momentum, decay;

    SignSGD(const Hyper& h, const When&)
        : lr(T(h.lr)), momentum(T(h.momentum)), one_minus_momentum(T(1 - h.momentum)),
          decay(T(1 - h.lr * h.weight_decay)) {}

    void operator()(T& p, T g, T& m) const {
        if (has_momentum) m = momentum * m + one_minus_momentum * g;
        p = p * decay - lr * sign(has_momentum ? m : g);
    }
};
