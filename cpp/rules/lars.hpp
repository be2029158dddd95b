// You, Gitman & Ginsburg, "Large batch training of convolutional networks", 2017, in optax's form:
// the gradient with decay, as long as the parameter times coefficient and rate, then momentum.
#pragma once
#include "trust.hpp"

template <class T, unsigned Options> struct LARS {
    static constexpr const char* name = "LARS";
    struct Hyper {
        double lr, momentum, weight_decay, trust_coefficient, eps, nesterov;
    };
    static constexpr const char* hyper_names[] = {
        "lr", "momentum", "weight_decay", "trust_coefficient", "eps", "nesterov"};
    static constexpr State states[] = {{"momentum_buffer", Role::momentum, "momentum"}};
    static constexpr bool has_momentum = Options & 1;

    double lr, trust_coefficient, eps;
    T scale, momentum, weight_decay;
    bool nesterov;

    LARS(const Hyper& h, const When&)
        : lr(h.lr), trust_coefficient(h.trust_coefficient), eps(h.eps), scale(T(h.lr)),
          momentum(T(h.momentum)), weight_decay(T(h.weight_decay)), nesterov(h.nesterov != 0) {}

    T decayed(T p, T g) const { return g + weight_decay * p; }

    Summands<2> gather(T p, T g, T) const { return {square(p), square(decayed(p, g))}; }

    void settle(double param, double update) {
        scale = T(lr * trust_ratio(param, update, trust_coefficient, eps));
    }

    void operator()(T& p, T g, T& b) const {
        T d = scale * decayed(p, g);
        if (has_momentum) {
            b = momentum * b + d;
            d = nesterov ? momentum * b + d : b;
        }
        p -= d;
    }
};
