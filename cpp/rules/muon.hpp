// Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024, in PyTorch's
// form. A matrix moves along its momentum with all singular values made about 1. Between the passes
// the direction goes to Python, which orthogonalises it and says how much longer the step is to be.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct Muon {
    static constexpr const char* name = "Muon";
    static constexpr bool takes_sign = true;    // of a matrix: of its singular values
    struct Hyper {
        double lr, weight_decay, momentum, nesterov;
    };
    static constexpr const char* hyper_names[] = {"lr", "weight_decay", "momentum", "nesterov"};
    static constexpr State states[] = {
        {"momentum_buffer", Role::momentum},
        {"direction", Role::direction, nullptr, nullptr, /*gathered=*/true}};

    double lr;
    T step, decay, momentum, one_minus_momentum;
    bool nesterov;

    Muon(const Hyper& h, const When&)
        : lr(h.lr), step(T(h.lr)), decay(T(1 - h.lr * h.weight_decay)), momentum(T(h.momentum)),
          one_minus_momentum(T(1 - h.momentum)), nesterov(h.nesterov != 0) {}

    T averaged(T g, T b) const { return b + one_minus_momentum * (g - b); }

    // The momentum itself changes in the second pass: if the product fails, nothing has changed, of
    // other rules either.
    Summands<1> gather(T, T g, T b, T& direction) const {
        b = averaged(g, b);
        direction = nesterov ? g + momentum * (b - g) : b;
        return {square(direction)};
    }

    void settle(double factor) { step = T(lr * factor); }

    void operator()(T& p, T g, T& b, T direction) const {
        b = averaged(g, b);
        p *= decay;
        p -= step * direction;
    }
};
