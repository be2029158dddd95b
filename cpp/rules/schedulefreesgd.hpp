// Defazio et al., "The road less scheduled", NeurIPS 2024, as the package schedulefree 1.4 has it.
#pragma once
#include "schedulefree.hpp"

template <class T, unsigned Options> struct ScheduleFreeSGD {
    static constexpr const char* name = "ScheduleFreeSGD";
    struct Hyper {
        double lr, momentum, weight_decay, warmup_steps, r, weight_lr_power;
    };
    static constexpr const char* hyper_names[] = {"lr",           "momentum", "weight_decay",
                                                  "warmup_steps", "r",        "weight_lr_power"};
    static constexpr State states[] = {{"z", Role::parameter}};
    using Memory = ScheduleFreeMemory;
    static constexpr const char* memory_names[] = {"lr_max", "weight_sum"};

    T weight_decay;
    ScheduleFree<T> free;

    ScheduleFreeSGD(const Hyper& h, const When& when, Memory& memory)
        : weight_decay(T(h.weight_decay)), free(h, h.momentum, when.t, memory) {}

    void operator()(T& y, T g, T& z) const { free.step(y, z, g + weight_decay * y); }

    struct Shown : ScheduleFreeShown<T> {
        explicit Shown(const Hyper& h) : ScheduleFreeShown<T>(h.momentum) {}
        using ScheduleFreeShown<T>::operator();
    };
};
