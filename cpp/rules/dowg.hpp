// Khaled, Mishchenko & Jin, "DoWG unleashed", NeurIPS 2023, in optax's form: DoG with squared
// distances, by which the squared gradients are weighted, too.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct DoWG {
    static constexpr const char* name = "DoWG";
    struct Hyper {
        double lr, init_estim_sq_dist, eps, weight_decay;
    };
    static constexpr const char* hyper_names[] = {"lr", "init_estim_sq_dist", "eps",
                                                  "weight_decay"};
    static constexpr const char* common[] = {"init_estim_sq_dist", "eps"};
    static constexpr State states[] = {
        {"init_params", Role::parameter, nullptr, nullptr, false, /*fixed=*/true}};
    struct Memory {
        double estim_sq_dist, weighted_sq_norm_grads;
    };
    static constexpr const char* memory_names[] = {"estim_sq_dist", "weighted_sq_norm_grads"};

    double lr, least, eps;
    T weight_decay, step;

    // An init_estim_sq_dist below 0 stands for None.
    DoWG(const Hyper& h, const When&, const Memory&)
        : lr(h.lr), least(h.init_estim_sq_dist < 0 ? h.eps : h.init_estim_sq_dist), eps(h.eps),
          weight_decay(T(h.weight_decay)), step(0) {}

    T decayed(T p, T g) const { return g + weight_decay * p; }

    Summands<2> gather(T p, T g, T p0) const { return {square(p0 - p), square(decayed(p, g))}; }

    void settle(Memory& memory, double way, double gradient) {
        const double distance = max(memory.estim_sq_dist > 0 ? memory.estim_sq_dist : least, way);
        memory.estim_sq_dist = distance;
        memory.weighted_sq_norm_grads += distance * gradient;
        const double norm = sqrt(memory.weighted_sq_norm_grads) + eps;
        step = T(norm == 0 ? 0 : lr * (distance / norm));
    }

    void operator()(T& p, T g, T) const { p -= step * decayed(p, g); }
};
