// Riedmiller & Braun, "A direct adaptive method for faster backpropagation learning: the RPROP
// algorithm", ICNN 1993, in PyTorch's form: where the gradient turns, the parameter waits.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct Rprop {
    static constexpr const char* name = "Rprop";
    static constexpr bool takes_sign = true;
    struct Hyper {
        double lr, shrink, grow, least, most;
    };
    static constexpr const char* hyper_names[] = {"lr", "etas[0]", "etas[1]", "step_sizes[0]",
                                                  "step_sizes[1]"};
    static constexpr State states[] = {{"prev", Role::momentum},
                                       {"step_size", Role::rate, nullptr, "lr"}};

    T shrink, grow, least, most;

    Rprop(const Hyper& h, const When&)
        : shrink(T(h.shrink)), grow(T(h.grow)), least(T(h.least)), most(T(h.most)) {}

    void operator()(T& p, T g, T& before, T& step) const {
        T same = g * before;
        T size = step * (same > 0 ? grow : same < 0 ? shrink : T(1));
        size = size < least ? least : size;
        step = size > most ? most : size;
        before = same < 0 ? T(0) : g;
        p -= sign(before) * step;
    }
};
