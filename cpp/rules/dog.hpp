// Ivgi, Hinder & Carmon, "DoG is SGD's best friend", ICML 2023, in optax's form: the rate is the
// largest distance from the start so far over the root of all squared gradients.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct DoG {
    static constexpr const char* name = "DoG";
    struct Hyper {
        double lr, reps_rel, eps, weight_decay;
    };
    static constexpr const char* hyper_names[] = {"lr", "reps_rel", "eps", "weight_decay"};
    static constexpr const char* common[] = {"reps_rel", "eps"};
    static constexpr State states[] = {
        {"init_params", Role::parameter, nullptr, nullptr, false, /*fixed=*/true}};
    struct Memory {
        double max_dist, sum_sq_norm_grads;
    };
    static constexpr const char* memory_names[] = {"max_dist", "sum_sq_norm_grads"};

    double lr, reps_rel, eps;
    T weight_decay, step;

    DoG(const Hyper& h, const When&, const Memory&)
        : lr(h.lr), reps_rel(h.reps_rel), eps(h.eps), weight_decay(T(h.weight_decay)), step(0) {}

    T decayed(T p, T g) const { return g + weight_decay * p; }

    Summands<3> gather(T p, T g, T p0) const {
        return {square(p0 - p), square(p), square(decayed(p, g))};
    }

    void settle(Memory& memory, double way, double param, double gradient) {
        if (memory.max_dist == 0) memory.max_dist = reps_rel * (1 + sqrt(param));    // the start
        memory.max_dist = max(memory.max_dist, sqrt(way));
        memory.sum_sq_norm_grads += gradient;
        const double norm = sqrt(memory.sum_sq_norm_grads + eps);
        step = T(norm == 0 ? 0 : lr * (memory.max_dist / norm));
    }

    void operator()(T& p, T g, T) const { p -= step * decayed(p, g); }
};
