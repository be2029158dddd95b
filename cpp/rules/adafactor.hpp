// Shazeer & Stern, "Adafactor: adaptive learning rates with sublinear memory cost", ICML 2018, as
// PyTorch has it: a matrix has a variance for each row and each column, which tell an element's.
#pragma once
#include "rule.hpp"

template <class T, unsigned Options> struct Adafactor {
    static constexpr const char* name = "Adafactor";
    struct Hyper {
        double lr, beta2_decay, eps1, eps2, d, weight_decay;
    };
    static constexpr const char* hyper_names[] = {"lr",     "beta2_decay", "eps[0]",
                                                  "eps[1]", "d",           "weight_decay"};
    static constexpr State states[] = {
        {"row_var", Role::second_moment, nullptr, nullptr, /*gathered=*/false, false, Shape::rows},
        {"col_var", Role::second_moment, nullptr, nullptr, /*gathered=*/false, false,
         Shape::columns},
        {"variance", Role::second_moment, nullptr, nullptr, /*gathered=*/true, false,
         Shape::vector}};

    double rate, eps1, eps2, d;
    T one_minus_beta2, eps, decay, step = 0;
    bool has_rows;

    // An eps[0] below 0 stands for None.
    Adafactor(const Hyper& h, const When& when)
        : rate(least(h.lr, 1 / sqrt(double(when.t)))), eps1(h.eps1 < 0 ? when.epsilon : h.eps1),
          eps2(h.eps2), d(h.d), one_minus_beta2(T(pow(double(when.t), h.beta2_decay))),
          eps(T(eps1)), decay(T(1 - h.lr * h.weight_decay)), has_rows(when.has_rows) {}

    // Of a row or column: the mean of its squared gradients into its variance.
    void average(T& variance, T mean) const { variance += one_minus_beta2 * (mean - variance); }

    // A row's variance over the mean of all rows: times a column's it is an element's variance.
    T relative(T row, double mean) const { return T(double(row) / max(mean, eps1)); }

    T update(T g, T v) const { return g / max(sqrt(v), eps); }

    Summands<2> gather(T p, T g, T, T, T& v) const {
        if (!has_rows) average(v, g * g);
        return {square(p), square(update(g, v))};
    }

    // A sum that is NaN counts as the least that it may be, as in PyTorch.
    void settle(double param, double update, double elements) {
        const double size = greatest(eps2, sqrt(param / elements));
        step = T(size * rate / greatest(1, sqrt(update / elements) / d));
    }

    void operator()(T& p, T g, T, T, T v) const { p = p * decay - step * update(g, v); }
};
