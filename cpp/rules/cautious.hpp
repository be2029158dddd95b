// What `cautious` and `cautious_weight_decay` make of AdamW and Lion. Each is a kernel of its own,
// so that those of the plain rules have nothing of it.
//
// Liang et al., "Cautious optimizers: improving training with one line of code", 2024: where the
// newest gradient opposes the step, an element stays, and the others go further instead.
// Chen et al., "Cautious weight decay", 2025: a parameter decays only where its step does not lead
// away from 0.
#pragma once
#include "adamw.hpp"
#include "lion.hpp"

template <class T> inline bool agree(T update, T g) { return update * g > 0; }

// spares: whether the decay is cautious, too. p goes down by the update.
template <bool spares, class T> inline T decayed(T p, T update, T decay) {
    return !spares || update * p >= 0 ? p * decay : p;
}

template <class T, unsigned Options> struct SparingAdamW : AdamW<T, Options> {
    static constexpr const char* name = "AdamW cautious_weight_decay";
    static constexpr Loops loops = Loops::few;
    using AdamW<T, Options>::AdamW;

    void operator()(T& p, T g, T& m, T& v, T& v_max) const {
        this->add(g, m, v, v_max);
        const T u = this->direction(m, v, v_max);
        p = decayed<true>(p, u, this->decay) - u;
    }
};

template <class T, unsigned Options, bool spares> struct MaskedAdamW : AdamW<T, Options> {
    static constexpr const char* name =
        spares ? "AdamW cautious cautious_weight_decay" : "AdamW cautious";
    static constexpr Loops loops = Loops::few;
    static constexpr State states[] = {
        {"exp_avg", Role::momentum, nullptr, nullptr, /*gathered=*/true},
        {"exp_avg_sq", Role::second_moment, nullptr, nullptr, /*gathered=*/true},
        {"max_exp_avg_sq", Role::maximum, "amsgrad", nullptr, /*gathered=*/true}};

    T scale = 1;
    using AdamW<T, Options>::AdamW;

    Summands<1> gather(T, T g, T& m, T& v, T& v_max) const {
        this->add(g, m, v, v_max);
        return {agree(m, g) ? 1.0 : 0.0};
    }

    void settle(double agreeing, double elements) {
        const double share = agreeing / elements;
        scale = T(1 / (share > 1e-3 ? share : 1e-3));
    }

    void operator()(T& p, T g, T m, T v, T v_max) const {
        const T u = this->direction(m, v, v_max) * (agree(m, g) ? scale : T(0));
        p = decayed<spares>(p, u, this->decay) - u;
    }
};
template <class T, unsigned Options> using CautiousAdamW = MaskedAdamW<T, Options, false>;
template <class T, unsigned Options> using CautiousSparingAdamW = MaskedAdamW<T, Options, true>;

template <class T, unsigned Options> struct SparingLion : Lion<T, Options> {
    static constexpr const char* name = "Lion cautious_weight_decay";
    using Lion<T, Options>::Lion;

    void operator()(T& p, T g, T& m) const {
        const T u = this->lr * this->direction(g, m);
        p = decayed<true>(p, u, this->decay) - u;
        this->add(g, m);
    }
};

template <class T, unsigned Options, bool spares> struct MaskedLion : Lion<T, Options> {
    using Hyper = typename Lion<T, Options>::Hyper;
    static constexpr const char* name =
        spares ? "Lion cautious cautious_weight_decay" : "Lion cautious";

    double rate;
    T step;

    MaskedLion(const Hyper& h, const When& when)
        : Lion<T, Options>(h, when), rate(h.lr), step(T(h.lr)) {}

    Summands<1> gather(T, T g, T m) const { return {agree(this->direction(g, m), g) ? 1.0 : 0.0}; }

    void settle(double agreeing, double elements) { step = T(rate * (elements / (agreeing + 1))); }

    void operator()(T& p, T g, T& m) const {
        const T direction = this->direction(g, m);
        const T u = direction * (agree(direction, g) ? step : T(0));
        p = decayed<spares>(p, u, this->decay) - u;
        this->add(g, m);
    }
};
template <class T, unsigned Options> using CautiousLion = MaskedLion<T, Options, false>;
template <class T, unsigned Options> using CautiousSparingLion = MaskedLion<T, Options, true>;
