// A schedule as an expression: closed forms at the leaves, composition above them. Pure and
// immutable; evaluated without Python, for one step or many, by the target in use.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace gradstep {

// Steps are 0 <= t < step_limit: below it each is a double of its own, with a bit to spare.
constexpr int64_t step_limit = int64_t(1) << 52;

// All steps that are asked for must be within the limits. Within an expression they are doubles,
// which hold them exactly, as the closed forms take them.
class Schedule {
public:
    virtual ~Schedule() = default;
    // Throws what check() throws.
    virtual double at(double t) const = 0;
    // out[i] = the value at t[i], for at most block_elements steps.
    virtual void fill(const double* t, double* out, int64_t n) const = 0;
    // out[i] = the value at start + i
    virtual void range(double start, double* out, int64_t n) const = 0;
    // Throws std::invalid_argument if a step from first to last is past the end of a schedule that
    // refuses it.
    virtual void check(int64_t first, int64_t last) const = 0;
    // Whether there is such a schedule in it.
    virtual bool ends() const = 0;
};

using SchedulePointer = std::shared_ptr<const Schedule>;
using Schedules = std::vector<SchedulePointer>;

// The form of that name in the catalogue; null if there is none.
SchedulePointer closed_form(const std::string& name, std::vector<double> arguments);

// The same up to the step `last`, after which it throws.
SchedulePointer until(SchedulePointer child, int64_t last);
// children[0] before boundaries[0], then children[i + 1] at t - boundaries[i]. The boundaries do
// not decrease, and there is one child more.
SchedulePointer join(Schedules children, std::vector<int64_t> boundaries);
SchedulePointer add(SchedulePointer a, SchedulePointer b);
SchedulePointer multiply(SchedulePointer a, SchedulePointer b);
SchedulePointer scale(SchedulePointer child, double factor);
SchedulePointer clamp(SchedulePointer child, double lower, double upper);
SchedulePointer shift(SchedulePointer child, int64_t by);        // at max(0, t - by)
SchedulePointer repeat(SchedulePointer child, int64_t every);    // at t mod every
SchedulePointer stairs(SchedulePointer child, int64_t every);    // at floor(t / every)

// An expression: an operation of the above by its name, with numbers, which are integers where they
// are steps. Throws std::invalid_argument where there is no such operation.
SchedulePointer composed(const std::string& operation, Schedules children,
                         const std::vector<double>& numbers);

// A number from a text: its 64 bits as hexadecimal digits, which no locale writes otherwise.
double read_number(std::string_view word);

// A schedule from a text: a form or an operation by its name, how many children it has, how many
// numbers, the numbers, and each child likewise, separated by spaces.
SchedulePointer read_schedule(std::string_view text);

// Whether each is a step, 0 <= t < step_limit.
bool are_steps(const int64_t* t, int64_t n);

// out[i] = the value at t[i], or at start + i, by all threads. Throws as check() does, before
// anything is written.
void evaluate(const Schedule& schedule, const int64_t* t, double* out, int64_t n);
void evaluate_range(const Schedule& schedule, int64_t start, double* out, int64_t n);

}    // namespace gradstep
