// Loshchilov & Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2:
// the weights decay by themselves, then Adam's step without decay.
#pragma once
#include "adam.hpp"

template <class T, unsigned Options> struct AdamW {
    using Hyper = typename Adam<T, Options>::Hyper;
    static constexpr const char* name = "AdamW";
    static constexpr Loops loops = Loops::all;
    static constexpr unsigned rare = 1;    // amsgrad
    static constexpr auto& hyper_names = Adam<T, Options>::hyper_names;
    static constexpr auto& states = Adam<T, Options>::states;

    static constexpr bool amsgrad = Options & 1;

    T decay;
    Moments<T> moments;

    AdamW(const Hyper& h, const When& when)
        : decay(T(1 - h.lr * h.weight_decay)), moments(h.lr, h.beta1, h.beta2, h.eps, when.t) {}

    static double moment_correction(const Hyper& h, int64_t t) {
        return Adam<T, Options>::moment_correction(h, t);
    }

    void add(T g, T& m, T& v, T& v_max) const {
        moments.add(g, m, v);
        if (amsgrad) v_max = max(v_max, v);
    }

    T direction(T m, T v, T v_max) const { return moments.direction(m, amsgrad ? v_max : v); }

    void operator()(T& p, T g, T& m, T& v, T& v_max) const {
        p *= decay;
        add(g, m, v, v_max);
        p -= direction(m, v, v_max);
    }
};
