// Schedules: one value, many values, a run of values.

namespace schedules {

#include "../schedules/catalogue.hpp"

template <class Schedule> void resolve(const double* arguments, int64_t count, void* memory) {
    const Schedule schedule = Schedule::of(arguments, count);
    static_assert(sizeof schedule <= gradstep::max_schedule_bytes);
    __builtin_memcpy(memory, &schedule, sizeof schedule);
}

template <class Schedule> double at(const void* schedule, double t) {
    return (*static_cast<const Schedule*>(schedule))(t);
}

// Flattened: a call that is not inlined would keep the loop from becoming vectors.
template <class Schedule>
[[gnu::flatten]] void fill(const void* memory, const double* t, double* out, int64_t n) {
    const Schedule schedule = *static_cast<const Schedule*>(memory);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) out[i] = schedule(t[i]);
}

template <class Form>
[[gnu::flatten]] void fill_range(const Form form, double start, double* out, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) out[i] = form(start + from_integer(i));
}

// What a form has besides operator(): see schedules/catalogue.hpp.
template <class Form, class = void> constexpr bool has_pieces = false;
template <class Form> constexpr bool has_pieces<Form, std::void_t<decltype(&Form::piece)>> = true;
template <class Form, class = void> constexpr bool has_range = false;
template <class Form> constexpr bool has_range<Form, std::void_t<decltype(&Form::range)>> = true;

template <class Schedule> void range(const void* memory, double start, double* out, int64_t n) {
    const Schedule schedule = *static_cast<const Schedule*>(memory);
    if constexpr (has_range<Schedule>) {
        schedule.range(start, out, n);
    } else if constexpr (has_pieces<Schedule>) {
        for (int64_t i = 0; i < n;) {
            const double t = start + from_integer(i);
            const auto piece = schedule.piece(t);
            const double steps = piece.until - t;
            const bool worth_it = steps >= 32;    // its constants took as long as 32 elements
            const int64_t most = n - i < 512 || worth_it ? n - i : 512;
            const int64_t run = worth_it ? int64_t(least(from_integer(most), steps)) : most;
            if (worth_it)
                fill_range(piece, t, out + i, run);
            else
                fill_range(schedule, t, out + i, run);
            i += run;
        }
    } else {
        fill_range(schedule, start, out, n);
    }
}

#define GRADSTEP_ROW(schedule)                                                                     \
    {schedule::name, resolve<schedule>, at<schedule>, fill<schedule>, range<schedule>},
constexpr ScheduleInfo infos[] = {GRADSTEP_SCHEDULES(GRADSTEP_ROW)};
#undef GRADSTEP_ROW

}    // namespace schedules
