#include "schedule.hpp"

#include <algorithm>
#include <stdexcept>

#include "dispatch.hpp"
#include "parallel.hpp"

namespace gradstep {
namespace {

class ClosedForm : public Schedule {
public:
    ClosedForm(int index, std::vector<double> arguments, int64_t last)
        : index_(index), last_(last), arguments_(std::move(arguments)) {
        info().resolve(arguments_.data(), int64_t(arguments_.size()), resolved_);
    }

    // What is resolved may point into the arguments.
    ClosedForm(const ClosedForm&) = delete;
    ClosedForm& operator=(const ClosedForm&) = delete;

    double at(int64_t t) const override {
        check(t);
        return info().at(resolved_, t);
    }

    void fill(const int64_t* t, int64_t offset, double* out, int64_t n) const override {
        if (last_ < step_limit - 1)
            for (int64_t i = 0; i < n; ++i) check(t[i] + offset);
        const ScheduleInfo& schedule = info();
        const int64_t bytes = n * int64_t(sizeof(double)), chunks = parallel::chunks_for(bytes);
        parallel::for_chunks(chunks, bytes, [&](int64_t chunk) {
            const int64_t begin = n * chunk / chunks, end = n * (chunk + 1) / chunks;
            schedule.fill(resolved_, t + begin, offset, out + begin, end - begin);
        });
    }

private:
    int index_;
    int64_t last_;
    std::vector<double> arguments_;
    alignas(double) unsigned char resolved_[max_schedule_bytes];

    const ScheduleInfo& info() const { return dispatch::current().schedules[index_]; }

    void check(int64_t t) const {
        if (t > last_)
            throw std::invalid_argument("t: got " + std::to_string(t) + ", wanted 0 to " +
                                        std::to_string(last_) +
                                        ": the schedule ends there (past_end=\"raise\")");
    }
};

class Join : public Schedule {
public:
    Join(std::vector<SchedulePointer> children, std::vector<int64_t> boundaries)
        : children_(std::move(children)), boundaries_(std::move(boundaries)) {}

    double at(int64_t t) const override {
        const size_t child = child_at(t);
        return children_[child]->at(t - begin(child));
    }

    // Runs of steps that fall to the same child are its to fill.
    void fill(const int64_t* t, int64_t offset, double* out, int64_t n) const override {
        for (int64_t i = 0; i < n;) {
            const size_t child = child_at(t[i] + offset);
            const int64_t first = begin(child) - offset, last = end(child) - offset;
            int64_t run = 1;
            while (i + run < n && first <= t[i + run] && t[i + run] < last) ++run;
            children_[child]->fill(t + i, -first, out + i, run);
            i += run;
        }
    }

private:
    std::vector<SchedulePointer> children_;
    std::vector<int64_t> boundaries_;

    size_t child_at(int64_t t) const {
        return size_t(std::upper_bound(boundaries_.begin(), boundaries_.end(), t) -
                      boundaries_.begin());
    }
    int64_t begin(size_t child) const { return child > 0 ? boundaries_[child - 1] : 0; }
    int64_t end(size_t child) const {
        return child < boundaries_.size() ? boundaries_[child] : step_limit;
    }
};

}    // namespace

SchedulePointer closed_form(const std::string& name, std::vector<double> arguments, int64_t last) {
    const Table& table = dispatch::current();
    for (int i = 0; i < table.schedule_count; ++i)
        if (name == table.schedules[i].name)
            return std::make_shared<ClosedForm>(i, std::move(arguments), last);
    return nullptr;
}

SchedulePointer join(std::vector<SchedulePointer> children, std::vector<int64_t> boundaries) {
    return std::make_shared<Join>(std::move(children), std::move(boundaries));
}

}    // namespace gradstep
