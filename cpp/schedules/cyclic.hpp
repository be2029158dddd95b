// Each cycle rises from lower to upper in `up` updates, then falls back in `down`.
// Triangular: Smith, "Cyclical learning rates", WACV 2017: lower + (upper - lower) max(0, 1 - y),
// y = |t / s - 2 c + 1|, c = floor(1 + t / (2 s)), with up = down = s.
// Annealing: up = 0, so each cycle falls from upper, linearly or as a cosine, and jumps back up.
#pragma once
#include "math.hpp"

struct Cyclic {
    static constexpr const char* name = "cyclic";

    double lower, upper, up, down, cycle;
    double cosine;    // 0 or 1

    static Cyclic of(const double* arguments, int64_t) {
        Cyclic c = {arguments[0], arguments[1], arguments[2],
                    arguments[3], arguments[4], arguments[5]};
        // A cycle of one update that already ends there.
        if (c.up == 0 && c.down == 0) c.upper = c.lower, c.down = 1;
        return c;
    }

    double operator()(double t) const {
        const double in_cycle = remainder(t, cycle);
        const bool rising = in_cycle < up;
        const double n = rising ? in_cycle : in_cycle - up;
        const double length = rising ? up : down;
        const double start = rising ? lower : upper, end = rising ? upper : lower;
        const double on_wave = cosine_share(n, length).between(start, end);
        const double on_line = line(n, length, start, end);
        return cosine != 0 ? on_wave : on_line;
    }
};
