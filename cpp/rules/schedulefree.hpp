// Defazio et al., "The road less scheduled", NeurIPS 2024, as the package schedulefree 1.4 has it:
// what both of its rules share. The parameter holds y, where gradients are taken; z takes the
// steps, and the point to evaluate is their average x = y + (1 - 1/beta) (z - y).
#pragma once
#include "rule.hpp"

struct ScheduleFreeMemory {
    double lr_max, weight_sum;    // the largest rate so far, and the sum of all weights
};

template <class T> struct ScheduleFree {
    T c, one_minus_c, ahead, gamma;

    // h: with lr, warmup_steps, r and weight_lr_power.
    template <class Hyper>
    ScheduleFree(const Hyper& h, double beta, int64_t update, ScheduleFreeMemory& memory) {
        const double t = double(update), warm = t < h.warmup_steps ? t / h.warmup_steps : 1;
        const double rate = h.lr * warm;
        memory.lr_max = max(memory.lr_max, rate);
        const double weight = half_power(t, h.r) * half_power(memory.lr_max, h.weight_lr_power);
        memory.weight_sum += weight;
        const double share = memory.weight_sum > 0 ? weight / memory.weight_sum : 0;
        c = T(share);
        one_minus_c = T(1 - share);
        ahead = T(rate * (beta * (1 - share) - 1));
        gamma = T(rate);
    }

    void step(T& y, T& z, T u) const {
        y = one_minus_c * y + c * z + ahead * u;
        z -= gamma * u;
    }
};

template <class T> struct ScheduleFreeShown {
    T weight;
    explicit ScheduleFreeShown(double beta) : weight(T(1 - 1 / beta)) {}
    T operator()(T y, T z) const { return y + weight * (z - y); }
};
