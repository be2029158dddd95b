// A schedule as an expression: closed forms at the leaves, composition above them. Pure and
// immutable; evaluated without Python, for one step or many, by the target in use.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace gradstep {

// Steps are 0 <= t < step_limit: below it each is a double of its own, with a bit to spare.
constexpr int64_t step_limit = int64_t(1) << 52;

// All steps that are asked for must be within the limits; a step past the end of a schedule that
// refuses it throws std::invalid_argument.
class Schedule {
public:
    virtual ~Schedule() = default;
    virtual double at(int64_t t) const = 0;
    // out[i] = the value at t[i] + offset
    virtual void fill(const int64_t* t, int64_t offset, double* out, int64_t n) const = 0;
};

using SchedulePointer = std::shared_ptr<const Schedule>;

// The schedule of that name in the catalogue; null if there is none. It refuses steps after `last`.
SchedulePointer closed_form(const std::string& name, std::vector<double> arguments, int64_t last);

// children[0] before boundaries[0], then children[i + 1] at t - boundaries[i]. The boundaries do
// not decrease, and there is one child more.
SchedulePointer join(std::vector<SchedulePointer> children, std::vector<int64_t> boundaries);

}    // namespace gradstep
