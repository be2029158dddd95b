// Defazio & Mishchenko, "Learning-rate-free learning by D-adaptation", ICML 2023, in optax's form:
// AdamW whose rate is an estimate of the distance to the solution, which only grows.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct DAdaptAdamW {
    static constexpr const char* name = "DAdaptAdamW";
    struct Hyper {
        double lr, beta1, beta2, eps, estim_lr0, weight_decay;
    };
    static constexpr const char* hyper_names[] = {"lr",  "betas[0]",  "betas[1]",
                                                  "eps", "estim_lr0", "weight_decay"};
    static constexpr const char* common[] = {"lr", "betas[0]", "betas[1]", "estim_lr0"};
    static constexpr State states[] = {
        {"exp_avg", Role::momentum, nullptr, nullptr, /*gathered=*/true},
        {"exp_avg_sq", Role::second_moment, nullptr, nullptr, /*gathered=*/true},
        {"grad_sum", Role::momentum, nullptr, nullptr, /*gathered=*/true}};
    struct Memory {
        double estim_lr, numerator_weighted, k;    // k: steps made
    };
    static constexpr const char* memory_names[] = {"estim_lr", "numerator_weighted", "k"};

    bool moves;
    double estim_lr0, root_beta2;
    double weight;    // of the products of gradients
    T beta1, share1, beta2, one_minus_beta2, kept, share3, eps, decay;

    DAdaptAdamW(const Hyper& h, const When&, const Memory& memory)
        : moves(h.lr > 0), estim_lr0(h.estim_lr0), root_beta2(sqrt(h.beta2)), beta1(T(h.beta1)),
          beta2(T(h.beta2)), one_minus_beta2(T(1 - h.beta2)), kept(T(root_beta2)), eps(T(h.eps)) {
        const int64_t t = int64_t(memory.k) + 1;
        const double correction = sqrt(1 - power(h.beta2, t)) / (1 - power(h.beta1, t));
        const double dlr = (memory.k > 0 ? memory.estim_lr : estim_lr0) * h.lr * correction;
        weight = (1 - root_beta2) * dlr;
        share1 = T((1 - h.beta1) * dlr);
        share3 = T(weight);
        decay = T(h.weight_decay * dlr);
    }

    static double moment_correction(const Hyper& h, int64_t t) { return 1 - power(h.beta2, t); }

    // A group whose rate is 0 has no part in the sums.
    Summands<2> gather(T, T g, T& m, T& v, T& s) const {
        if (!moves) return {0, 0};
        const double product = double(g) * double(s / (sqrt(v) + eps));
        m = beta1 * m + share1 * g;
        v = beta2 * v + one_minus_beta2 * g * g;
        s = kept * s + share3 * g;
        return {weight * product, double(magnitude(s))};
    }

    // The step has the old estimate.
    void settle(Memory& memory, double product, double length) {
        if (length == 0) {    // no gradient yet, or no rate: nothing moves
            moves = false;
            return;
        }
        memory.numerator_weighted = root_beta2 * memory.numerator_weighted + product;
        const double estimate = memory.numerator_weighted / ((1 - root_beta2) * length);
        memory.estim_lr = greatest(memory.k > 0 ? memory.estim_lr : estim_lr0, estimate);
        memory.k += 1;
    }

    void operator()(T& p, T, T m, T v, T) const {
        if (moves) p = p - decay * p - m / (sqrt(v) + eps);
    }
};
