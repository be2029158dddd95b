// Polyak's step from the loss: Loizou et al., "Stochastic Polyak step-size for SGD", AISTATS 2021,
// in optax's form; positive: Garrigos et al., "Function value learning", 2023.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct PolyakSGD {
    static constexpr const char* name = "PolyakSGD";
    struct Hyper {
        double lr, max_learning_rate, f_min, eps, positive;
    };
    static constexpr const char* hyper_names[] = {"lr", "max_learning_rate", "f_min", "eps",
                                                  "positive"};
    static constexpr const char* common[] = {"f_min", "eps", "positive"};
    static constexpr bool takes_loss = true;
    static constexpr NoStates states = {};

    double lr, most, gap, eps;
    T step;

    PolyakSGD(const Hyper& h, const When& when)
        : lr(h.lr), most(h.max_learning_rate), gap(when.loss - h.f_min), eps(h.eps), step(0) {
        if (h.positive && gap < 0) gap = 0;
    }

    Summands<1> gather(T, T g) const { return {square(g)}; }

    // As optax: so small a gradient counts as none.
    void settle(double squares) {
        const double length = squares + eps;
        step = T(length <= 0x1p-52 ? 0 : lr * least(gap / length, most));
    }

    void operator()(T& p, T g) const { p -= step * g; }
};
