// Mishchenko & Defazio, "Prodigy: an expeditiously adaptive parameter-free learner", ICML 2024, as
// the package prodigyopt 1.1 has it: AdamW whose rate d grows to the distance from the start.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct Prodigy {
    static constexpr const char* name = "Prodigy";
    struct Hyper {
        double lr, beta1, beta2, beta3, eps, weight_decay, decouple, use_bias_correction,
            safeguard_warmup, d0, d_coef, growth_rate;
    };
    static constexpr const char* hyper_names[] = {"lr",
                                                  "betas[0]",
                                                  "betas[1]",
                                                  "beta3",
                                                  "eps",
                                                  "weight_decay",
                                                  "decouple",
                                                  "use_bias_correction",
                                                  "safeguard_warmup",
                                                  "d0",
                                                  "d_coef",
                                                  "growth_rate"};
    static constexpr const char* common[] = {
        "lr", "betas[0]", "betas[1]",   "beta3", "use_bias_correction", "safeguard_warmup",
        "d0", "d_coef",   "growth_rate"};
    static constexpr bool scales_moment = true;
    static constexpr State states[] = {
        {"exp_avg", Role::momentum, nullptr, nullptr, /*gathered=*/true},
        {"exp_avg_sq", Role::second_moment, nullptr, nullptr, /*gathered=*/true},
        {"s", Role::momentum, nullptr, nullptr, /*gathered=*/true},
        {"p0", Role::parameter, nullptr, nullptr, false, /*fixed=*/true}};
    struct Memory {
        double d, d_max, d_numerator, k;    // k: steps made
    };
    static constexpr const char* memory_names[] = {"d", "d_max", "d_numerator", "k"};

    bool moves, coupled;
    double d0, d_coef, growth_rate, beta3, eps;
    double weight;    // of <g, p0 - p>
    T beta1, share1, beta2, share2, kept, share3, weight_decay, rate, decay, d_eps;

    // A beta3 below 0 stands for None.
    Prodigy(const Hyper& h, const When&, const Memory& memory)
        : moves(h.lr > 0), coupled(h.decouple == 0), d0(h.d0), d_coef(h.d_coef),
          growth_rate(h.growth_rate), beta3(h.beta3 < 0 ? sqrt(h.beta2) : h.beta3), eps(h.eps),
          beta1(T(h.beta1)), beta2(T(h.beta2)), kept(T(beta3)), weight_decay(T(h.weight_decay)) {
        const double d = memory.k > 0 ? memory.d : d0;
        const int64_t t = int64_t(memory.k) + 1;
        const double correction =
            h.use_bias_correction ? sqrt(1 - power(h.beta2, t)) / (1 - power(h.beta1, t)) : 1;
        const double dlr = d * h.lr * correction;
        share1 = T(d * (1 - h.beta1));
        share2 = T(d * d * (1 - h.beta2));
        weight = d / d0 * dlr;
        share3 = T(h.safeguard_warmup ? d / d0 * d : weight);
        rate = T(dlr);
        decay = T(h.weight_decay * dlr);
        d_eps = T(d * eps);
    }

    // A group whose rate is 0 has no part in the sums.
    Summands<2> gather(T p, T g, T& m, T& v, T& s, T p0) const {
        if (!moves) return {0, 0};
        g = coupled ? g + weight_decay * p : g;
        m = beta1 * m + share1 * g;
        v = beta2 * v + share2 * g * g;
        s = kept * s + share3 * g;
        return {weight * (double(g) * double(p0 - p)), double(magnitude(s))};
    }

    void settle(Memory& memory, double way, double length) {
        if (length == 0) {    // no gradient yet, or no rate: nothing moves
            moves = false;
            return;
        }
        const bool first = memory.k == 0;
        double d = first ? d0 : memory.d;
        memory.d_numerator = beta3 * memory.d_numerator + way;
        const double d_hat = d_coef * memory.d_numerator / length;
        if (d == d0) d = greatest(d, d_hat);
        memory.d_max = greatest(first ? d0 : memory.d_max, d_hat);
        memory.d = least(memory.d_max, d * growth_rate);
        memory.k += 1;
        d_eps = T(memory.d * eps);
    }

    void operator()(T& p, T, T m, T v, T, T) const {
        if (!moves) return;
        p -= coupled ? T(0) : decay * p;
        p -= rate * m / (sqrt(v) + d_eps);
    }
};
