#include "schedule.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "dispatch.hpp"
#include "parallel.hpp"

namespace gradstep {
namespace {

#include "schedules/math.hpp"

// From here on a stretch of equal or consecutive steps is worth a call of its own.
constexpr int64_t long_run = 32;

class ClosedForm : public Schedule {
public:
    ClosedForm(int index, std::vector<double> arguments)
        : index_(index), arguments_(std::move(arguments)) {
        info().resolve(arguments_.data(), int64_t(arguments_.size()), resolved_);
    }

    // What is resolved may point into the arguments.
    ClosedForm(const ClosedForm&) = delete;
    ClosedForm& operator=(const ClosedForm&) = delete;

    double at(double t) const override { return info().at(resolved_, t); }
    void fill(const double* t, double* out, int64_t n) const override {
        info().fill(resolved_, t, out, n);
    }
    void range(double start, double* out, int64_t n) const override {
        info().range(resolved_, start, out, n);
    }
    void check(int64_t, int64_t) const override {}
    bool ends() const override { return false; }

private:
    int index_;
    std::vector<double> arguments_;
    alignas(double) unsigned char resolved_[max_schedule_bytes];

    const ScheduleInfo& info() const { return dispatch::current().schedules[index_]; }
};

class Until : public Schedule {
public:
    Until(SchedulePointer child, int64_t last) : child_(std::move(child)), last_(last) {}

    double at(double t) const override {
        check(int64_t(t), int64_t(t));
        return child_->at(t);
    }
    void fill(const double* t, double* out, int64_t n) const override { child_->fill(t, out, n); }
    void range(double start, double* out, int64_t n) const override {
        child_->range(start, out, n);
    }
    void check(int64_t first, int64_t last) const override {
        if (last > last_)
            throw std::invalid_argument("t: got " + std::to_string(std::max(first, last_ + 1)) +
                                        ", wanted 0 to " + std::to_string(last_) +
                                        ": the schedule ends there (past_end=\"raise\")");
        child_->check(first, last);
    }
    bool ends() const override { return true; }

private:
    SchedulePointer child_;
    int64_t last_;
};

class Join : public Schedule {
public:
    Join(Schedules children, std::vector<int64_t> boundaries) : children_(std::move(children)) {
        begins_.push_back(0);
        begins_.insert(begins_.end(), boundaries.begin(), boundaries.end());
        begins_.push_back(double(step_limit));
    }

    double at(double t) const override {
        const size_t child = child_at(t);
        return children_[child]->at(t - begins_[child]);
    }

    // Steps in a row that fall to the same child are its to fill.
    void fill(const double* t, double* out, int64_t n) const override {
        double own[block_elements];
        for (int64_t i = 0; i < n;) {
            const size_t child = child_at(t[i]);
            const double begin = begins_[child], end = begins_[child + 1];
            int64_t run = 0;
            for (; i + run < n && begin <= t[i + run] && t[i + run] < end; ++run)
                own[run] = t[i + run] - begin;
            children_[child]->fill(own, out + i, run);
            i += run;
        }
    }

    void range(double start, double* out, int64_t n) const override {
        for (int64_t i = 0; i < n;) {
            const double t = start + double(i);
            const size_t child = child_at(t);
            const int64_t run = std::min(n - i, int64_t(begins_[child + 1] - t));
            children_[child]->range(t - begins_[child], out + i, run);
            i += run;
        }
    }

    void check(int64_t first, int64_t last) const override {
        for (size_t child = child_at(double(first)); child <= child_at(double(last)); ++child) {
            const int64_t begin = int64_t(begins_[child]), end = int64_t(begins_[child + 1]);
            if (begin < end)
                children_[child]->check(std::max(first, begin) - begin,
                                        std::min(last, end - 1) - begin);
        }
    }

    bool ends() const override {
        return std::any_of(children_.begin(), children_.end(),
                           [](const SchedulePointer& child) { return child->ends(); });
    }

private:
    Schedules children_;
    std::vector<double> begins_;    // each child's first step, and the step limit

    size_t child_at(double t) const {
        return size_t(std::upper_bound(begins_.begin() + 1, begins_.end() - 1, t) -
                      begins_.begin()) -
               1;
    }
};

// Two children's values, one operation.
template <class Operation> class Combined : public Schedule {
public:
    Combined(SchedulePointer a, SchedulePointer b) : a_(std::move(a)), b_(std::move(b)) {}

    double at(double t) const override {
        const double a = a_->at(t);
        return Operation()(a, b_->at(t));
    }
    void fill(const double* t, double* out, int64_t n) const override {
        double b[block_elements];
        a_->fill(t, out, n);
        b_->fill(t, b, n);
        for (int64_t i = 0; i < n; ++i) out[i] = Operation()(out[i], b[i]);
    }
    void range(double start, double* out, int64_t n) const override {
        double b[block_elements];
        for (int64_t i = 0; i < n; i += block_elements) {
            const int64_t m = std::min(n - i, block_elements);
            a_->range(start + double(i), out + i, m);
            b_->range(start + double(i), b, m);
            for (int64_t j = 0; j < m; ++j) out[i + j] = Operation()(out[i + j], b[j]);
        }
    }
    void check(int64_t first, int64_t last) const override {
        a_->check(first, last);
        b_->check(first, last);
    }
    bool ends() const override { return a_->ends() || b_->ends(); }

private:
    SchedulePointer a_, b_;
};

// A function of the child's value.
template <class Function> class Mapped : public Schedule {
public:
    Mapped(SchedulePointer child, Function function)
        : child_(std::move(child)), function_(function) {}

    double at(double t) const override { return function_(child_->at(t)); }
    void fill(const double* t, double* out, int64_t n) const override {
        child_->fill(t, out, n);
        for (int64_t i = 0; i < n; ++i) out[i] = function_(out[i]);
    }
    void range(double start, double* out, int64_t n) const override {
        for (int64_t i = 0; i < n; i += block_elements) {    // while it is in the cache
            const int64_t m = std::min(n - i, block_elements);
            child_->range(start + double(i), out + i, m);
            for (int64_t j = 0; j < m; ++j) out[i + j] = function_(out[i + j]);
        }
    }
    void check(int64_t first, int64_t last) const override { child_->check(first, last); }
    bool ends() const override { return child_->ends(); }

private:
    SchedulePointer child_;
    Function function_;
};

struct Times {
    double factor;
    double operator()(double x) const { return x * factor; }
};

struct Within {
    double lower, upper;
    double operator()(double x) const { return x < lower ? lower : x > upper ? upper : x; }
};

// The child at another step.
class Warped : public Schedule {
public:
    explicit Warped(SchedulePointer child) : child_(std::move(child)) {}

    double at(double t) const override { return child_->at(warped(t)); }
    void fill(const double* t, double* out, int64_t n) const override {
        double own[block_elements];
        warp(t, own, n);
        child_->fill(own, out, n);
    }
    bool ends() const override { return child_->ends(); }

protected:
    SchedulePointer child_;

    virtual double warped(double t) const = 0;
    virtual void warp(const double* t, double* out, int64_t n) const = 0;

    // A range of which no two neighbours may be neighbours after it.
    void broken_range(double start, double* out, int64_t n) const {
        double t[block_elements];
        for (int64_t i = 0; i < n; i += block_elements) {
            const int64_t m = std::min(n - i, block_elements);
            for (int64_t j = 0; j < m; ++j) t[j] = start + double(i + j);
            fill(t, out + i, m);
        }
    }
};

class Shift : public Warped {
public:
    Shift(SchedulePointer child, double by) : Warped(std::move(child)), by_(by) {}

    void range(double start, double* out, int64_t n) const override {
        if (start + double(n) - by_ > double(step_limit)) return broken_range(start, out, n);
        const double before = by_ - start;    // steps that hold the first value
        const int64_t held = before > 0 ? std::min(n, int64_t(before)) : 0;
        if (held > 0) std::fill(out, out + held, child_->at(0));
        if (held < n) child_->range(start + double(held) - by_, out + held, n - held);
    }
    void check(int64_t first, int64_t last) const override {
        const auto own = [this](int64_t t) {
            return std::min(int64_t(warped(double(t))), step_limit - 1);
        };
        child_->check(own(first), own(last));
    }

protected:
    // A shift to the left leaves the steps at the upper limit where they are legal.
    double warped(double t) const override {
        return least(greatest(t - by_, 0), double(step_limit - 1));
    }
    void warp(const double* t, double* out, int64_t n) const override {
        for (int64_t i = 0; i < n; ++i) out[i] = Shift::warped(t[i]);
    }

private:
    double by_;
};

class Repeat : public Warped {
public:
    Repeat(SchedulePointer child, double every)
        : Warped(std::move(child)), every_(Divisor::of(every)) {}

    void range(double start, double* out, int64_t n) const override {
        if (every_.length < double(long_run)) return broken_range(start, out, n);
        for (int64_t i = 0; i < n;) {
            const double own = warped(start + double(i));
            const int64_t run = std::min(n - i, int64_t(every_.length - own));
            child_->range(own, out + i, run);
            i += run;
        }
    }
    void check(int64_t first, int64_t last) const override {
        const int64_t every = int64_t(every_.length), from = first % every;
        child_->check(from, std::min(from + (last - first), every - 1));
        if (from + (last - first) >= every)
            child_->check(0, last - first >= every ? every - 1 : last % every);
    }

protected:
    double warped(double t) const override { return every_.remainder(t); }
    void warp(const double* t, double* out, int64_t n) const override {
        for (int64_t i = 0; i < n; ++i) out[i] = every_.remainder(t[i]);
    }

private:
    Divisor every_;
};

class Stairs : public Warped {
public:
    Stairs(SchedulePointer child, double every)
        : Warped(std::move(child)), every_(Divisor::of(every)) {}

    void range(double start, double* out, int64_t n) const override {
        if (every_.length < double(long_run)) return broken_range(start, out, n);
        for (int64_t i = 0; i < n;) {
            const double t = start + double(i), stair = every_.whole(t);
            const int64_t run = std::min(n - i, int64_t((stair + 1) * every_.length - t));
            std::fill(out + i, out + i + run, child_->at(stair));
            i += run;
        }
    }
    void check(int64_t first, int64_t last) const override {
        const int64_t every = int64_t(every_.length);
        child_->check(first / every, last / every);
    }

protected:
    double warped(double t) const override { return every_.whole(t); }
    void warp(const double* t, double* out, int64_t n) const override {
        for (int64_t i = 0; i < n; ++i) out[i] = every_.whole(t[i]);
    }

private:
    Divisor every_;
};

struct Plus {
    double operator()(double a, double b) const { return a + b; }
};
struct Multiplied {
    double operator()(double a, double b) const { return a * b; }
};

// Whether t[0], t[1], ... are consecutive.
bool in_a_row(const int64_t* t, int64_t n) {
    int64_t differences = 0;    // no branch, so that this becomes vectors
    for (int64_t i = 0; i < n; ++i) differences |= t[i] - t[0] - i;
    return differences == 0;
}

int64_t parts(int64_t n) { return parallel::chunks_for(n * int64_t(sizeof(double))); }

// Calls f(part, begin, end) for parts of 0 ... n, by all threads.
template <class F> void in_parts(int64_t n, const F& f) {
    const int64_t count = parts(n);
    parallel::for_chunks(count, n * int64_t(sizeof(double)),
                         [&](int64_t part) { f(part, n * part / count, n * (part + 1) / count); });
}

}    // namespace

SchedulePointer closed_form(const std::string& name, std::vector<double> arguments) {
    const Table& table = dispatch::current();
    for (int i = 0; i < table.schedule_count; ++i)
        if (name == table.schedules[i].name)
            return std::make_shared<ClosedForm>(i, std::move(arguments));
    return nullptr;
}

SchedulePointer until(SchedulePointer child, int64_t last) {
    return std::make_shared<Until>(std::move(child), last);
}

SchedulePointer join(Schedules children, std::vector<int64_t> boundaries) {
    return std::make_shared<Join>(std::move(children), std::move(boundaries));
}

SchedulePointer add(SchedulePointer a, SchedulePointer b) {
    return std::make_shared<Combined<Plus>>(std::move(a), std::move(b));
}

SchedulePointer multiply(SchedulePointer a, SchedulePointer b) {
    return std::make_shared<Combined<Multiplied>>(std::move(a), std::move(b));
}

SchedulePointer scale(SchedulePointer child, double factor) {
    return std::make_shared<Mapped<Times>>(std::move(child), Times{factor});
}

SchedulePointer clamp(SchedulePointer child, double lower, double upper) {
    return std::make_shared<Mapped<Within>>(std::move(child), Within{lower, upper});
}

SchedulePointer shift(SchedulePointer child, int64_t by) {
    return std::make_shared<Shift>(std::move(child), double(by));
}

SchedulePointer repeat(SchedulePointer child, int64_t every) {
    return std::make_shared<Repeat>(std::move(child), double(every));
}

SchedulePointer stairs(SchedulePointer child, int64_t every) {
    return std::make_shared<Stairs>(std::move(child), double(every));
}

SchedulePointer composed(const std::string& operation, Schedules children,
                         const std::vector<double>& numbers) {
    const auto is = [&](const char* name, size_t schedules, size_t count) {
        return operation == name && children.size() == schedules && numbers.size() == count;
    };
    const auto integer = [&](size_t i) { return int64_t(numbers[i]); };
    if (operation == "join" && children.size() == numbers.size() + 1)
        return join(std::move(children), {numbers.begin(), numbers.end()});
    if (is("until", 1, 1)) return until(children[0], integer(0));
    if (is("add", 2, 0)) return add(children[0], children[1]);
    if (is("multiply", 2, 0)) return multiply(children[0], children[1]);
    if (is("scale", 1, 1)) return scale(children[0], numbers[0]);
    if (is("clamp", 1, 2)) return clamp(children[0], numbers[0], numbers[1]);
    if (is("shift", 1, 1)) return shift(children[0], integer(0));
    if (is("repeat", 1, 1)) return repeat(children[0], integer(0));
    if (is("stairs", 1, 1)) return stairs(children[0], integer(0));
    throw std::invalid_argument("operation: got '" + operation + "' of " +
                                std::to_string(children.size()) + " schedules and " +
                                std::to_string(numbers.size()) + " numbers, no such operation");
}

namespace {

std::string next_word(std::string_view& text) {
    const size_t begin = std::min(text.find_first_not_of(' '), text.size());
    const size_t end = std::min(text.find(' ', begin), text.size());
    std::string word(text.substr(begin, end - begin));
    text.remove_prefix(end);
    return word;
}

SchedulePointer read_next(std::string_view& text) {
    const std::string name = next_word(text);
    Schedules children(size_t(std::atoi(next_word(text).c_str())));
    std::vector<double> numbers(size_t(std::atoi(next_word(text).c_str())));
    for (double& number : numbers) number = read_number(next_word(text));
    for (SchedulePointer& child : children) child = read_next(text);
    if (children.empty())
        if (SchedulePointer form = closed_form(name, numbers)) return form;
    return composed(name, std::move(children), numbers);
}

}    // namespace

double read_number(std::string_view word) {
    const uint64_t bits = std::strtoull(std::string(word).c_str(), nullptr, 16);
    double number;
    std::memcpy(&number, &bits, sizeof number);
    return number;
}

SchedulePointer read_schedule(std::string_view text) { return read_next(text); }

void evaluate(const Schedule& schedule, const int64_t* t, double* out, int64_t n) {
    if (n == 0) return;
    if (schedule.ends()) {
        const auto [first, last] = std::minmax_element(t, t + n);
        try {
            schedule.check(*first, *last);
        } catch (const std::invalid_argument&) {
            for (int64_t i = 0; i < n; ++i) schedule.check(t[i], t[i]);    // it may lie in a gap
        }
    }
    in_parts(n, [&](int64_t, int64_t begin, int64_t end) {
        double block[block_elements];
        for (int64_t i = begin; i < end; i += block_elements) {
            const int64_t m = std::min(end - i, block_elements);
            if (in_a_row(t + i, m)) {
                schedule.range(double(t[i]), out + i, m);
                continue;
            }
            for (int64_t j = 0; j < m; ++j) block[j] = double(t[i + j]);
            schedule.fill(block, out + i, m);
        }
    });
}

bool are_steps(const int64_t* t, int64_t n) {
    std::vector<uint64_t> bits(size_t(parts(n)));    // of all together, in each part
    in_parts(n, [&](int64_t part, int64_t begin, int64_t end) {
        uint64_t all = 0;
        for (int64_t i = begin; i < end; ++i) all |= uint64_t(t[i]);
        bits[size_t(part)] = all;
    });
    return std::all_of(bits.begin(), bits.end(),
                       [](uint64_t all) { return all < uint64_t(step_limit); });
}

void evaluate_range(const Schedule& schedule, int64_t start, double* out, int64_t n) {
    if (n == 0) return;
    schedule.check(start, start + n - 1);
    in_parts(n, [&](int64_t, int64_t begin, int64_t end) {
        schedule.range(double(start + begin), out + begin, end - begin);
    });
}

}    // namespace gradstep
