// The step: from lists of arrays to the pipeline's pointers and back.
#include <pybind11/stl.h>

#include <algorithm>
#include <utility>

#include "../dispatch.hpp"
#include "../pipeline.hpp"
#include "arrays.hpp"
#include "bindings.hpp"

namespace gradstep::bindings {
namespace {

struct Range {
    const char* begin;
    const char* end;
};

ArrayView view(py::handle object) {
    if (!py::isinstance<py::array>(object)) throw py::type_error("an array is wanted");
    return ArrayView(object.ptr());
}

// What an optimizer's step does again and again, prepared once: the parameters and states as
// pointers, and the byte ranges that a step writes. Owns references to the arrays, not the arrays:
// every number in them belongs to Python.
class Plan {
public:
    // states: for each parameter its arrays in the rule's order, None where an optional one is
    // absent. counts: int64, the updates of each parameter, then those of the optimizer. settings:
    // float64, a row for each group of the rule's hyperparameters, the gradient factor, and whether
    // the group is frozen.
    Plan(const std::string& rule, py::list params, py::list states,
         const std::vector<int>& group_of, py::array_t<int64_t> counts,
         py::array_t<double> settings)
        : params_(std::move(params)), states_(std::move(states)), counts_(std::move(counts)),
          settings_(std::move(settings)), rule_(find_rule(rule)) {
        const Table& table = dispatch::current();
        const RuleInfo& info = table.rules[rule_];
        if (settings_.ndim() != 2 || settings_.shape(1) != info.hyper_count + 2 ||
            counts_.size() != py::ssize_t(params_.size()) + 1 ||
            group_of.size() != params_.size() || states_.size() != params_.size())
            throw py::value_error("Plan: sizes do not fit together");
        for (size_t i = 0; i < params_.size(); ++i) {
            const ArrayView array = view(params_[i]);
            pipeline::Tensor tensor;
            tensor.p = array.data();
            tensor.n = array.size();
            tensor.storage = array.storage(table);
            tensor.group = group_of[i];
            if (tensor.storage < 0 || !array.writable() || tensor.group < 0 ||
                tensor.group >= settings_.shape(0))
                throw py::value_error("Plan: params[" + std::to_string(i) + "] does not fit");
            types_.push_back(array.type());
            const int64_t bytes = tensor.n * table.storages[tensor.storage].bytes;
            add_written(array.data(), bytes);
            const py::list own = states_[i];
            int bit = 0;
            for (int s = 0; s < info.state_count; ++s) {
                const bool optional = info.states[s].option != nullptr;
                if (own[size_t(s)].is_none()) {
                    if (!optional) throw py::value_error("Plan: a state is missing");
                } else {
                    const ArrayView state = view(own[size_t(s)]);
                    if (!state.writable() || !state.same_shape(array) || !state.same_dtype(array))
                        throw py::value_error("Plan: a state does not fit its parameter");
                    tensor.state[s] = state.data();
                    add_written(state.data(), bytes);
                    if (optional) tensor.options |= 1u << bit;
                }
                bit += optional;
            }
            tensors_.push_back(tensor);
        }
        std::sort(written_.begin(), written_.end(),
                  [](const Range& a, const Range& b) { return a.begin < b.begin; });
        gaps_.assign(tensors_.size(), {nullptr, nullptr});
        gradients_.resize(tensors_.size());
    }

    // One update. Refuses, with nothing changed, what it cannot take as it is: returns i for
    // gradient i, -2 - i for parameter i; the caller finds the words, and holds the lock that keeps
    // a second step of this plan out. -1: done.
    py::ssize_t step(const py::list& gradients) {
        if (gradients.size() != tensors_.size())
            throw py::value_error("step: as many gradients as parameters are wanted");
        for (size_t i = 0; i < tensors_.size(); ++i) {
            PyObject* const param = PyList_GET_ITEM(params_.ptr(), py::ssize_t(i));
            const ArrayView p(param);
            // NumPy lets an array be resized, locked or reinterpreted after it was given to us.
            if (p.data() != tensors_[i].p || p.size() != tensors_[i].n || p.type() != types_[i] ||
                !p.writable())
                return -2 - py::ssize_t(i);
            PyObject* const gradient = PyList_GET_ITEM(gradients.ptr(), py::ssize_t(i));
            if (gradient == Py_None) {
                gradients_[i] = nullptr;
                continue;
            }
            if (!ArrayView::is_plain_array(gradient)) return py::ssize_t(i);
            const ArrayView g(gradient);
            if (!g.readable() || !g.same_dtype(p) || !g.same_shape(p) || overlaps(i, g.data()))
                return py::ssize_t(i);
            gradients_[i] = g.data();
        }

        const Table& table = dispatch::current();
        const RuleInfo& rule = table.rules[rule_];
        groups_.clear();
        for (py::ssize_t i = 0; i < settings_.shape(0); ++i) {
            const double* row = settings_.data(i, 0);
            groups_.push_back({row, row[rule.hyper_count], row[rule.hyper_count + 1] != 0});
        }
        int64_t* counts = counts_.mutable_data();
        py::gil_scoped_release unlocked;
        pipeline::step(table, rule, tensors_, gradients_, counts, groups_, scratch_);
        for (size_t i = 0; i < tensors_.size(); ++i)
            counts[i] += gradients_[i] != nullptr && !groups_[size_t(tensors_[i].group)].frozen;
        ++counts[tensors_.size()];
        return -1;
    }

private:
    py::list params_, states_;
    py::array_t<int64_t> counts_;
    py::array_t<double> settings_;
    int rule_;
    std::vector<pipeline::Tensor> tensors_;
    std::vector<int> types_;        // of each parameter, as NumPy numbers them
    std::vector<Range> written_;    // sorted
    std::vector<Range> gaps_;       // for each gradient: unwritten bytes around where it lay last
    std::vector<const void*> gradients_;
    std::vector<pipeline::Group> groups_;
    pipeline::Scratch scratch_;

    static int find_rule(const std::string& name) {
        const Table& table = dispatch::current();
        for (int i = 0; i < table.rule_count; ++i)
            if (name == table.rules[i].name) return i;
        throw py::value_error("Plan: no rule is called " + name);
    }

    void add_written(const char* begin, int64_t bytes) {
        if (bytes > 0) written_.push_back({begin, begin + bytes});
    }

    // Whether a gradient of tensor i at `begin` shares bytes with anything a step writes. Loops
    // that allocate alike put a gradient back into the same gap, so the search is rare.
    bool overlaps(size_t i, const char* begin) {
        const int64_t size = dispatch::current().storages[tensors_[i].storage].bytes;
        const char* end = begin + tensors_[i].n * size;
        Range& gap = gaps_[i];
        if (begin == end || (begin >= gap.begin && end <= gap.end && gap.end)) return false;
        auto after = std::upper_bound(
            written_.begin(), written_.end(), begin,
            [](const char* address, const Range& range) { return address < range.end; });
        if (after != written_.end() && after->begin < end) return true;
        gap.begin = after == written_.begin() ? nullptr : (after - 1)->end;
        gap.end =
            after == written_.end() ? reinterpret_cast<const char*>(UINTPTR_MAX) : after->begin;
        return false;
    }
};

// The sum of squares over all arrays.
double sum_squares(const py::list& arrays) {
    const Table& table = dispatch::current();
    std::vector<pipeline::Span> spans;
    for (py::handle object : arrays) {
        const ArrayView array = view(object);
        const int storage = array.storage(table);
        if (storage < 0 || !array.readable()) throw py::value_error("sum_squares: not readable");
        spans.push_back({array.data(), array.size(), storage});
    }
    py::gil_scoped_release unlocked;
    return pipeline::sum_squares(table, spans);
}

// arrays: for each tensor the float32 arrays to read and write; gradients: one each to read.
void move(const std::vector<py::list>& arrays, const py::list& gradients) {
    std::vector<pipeline::Streams> tensors;
    const py::dtype float32 = py::dtype::of<float>();
    auto data = [&](py::handle object, int64_t n) {
        const ArrayView array = view(object);
        if (!array.writable() || array.size() != n || !array.has_dtype(float32))
            throw py::value_error("move: writable float32 arrays of one size a tensor are wanted");
        return reinterpret_cast<float*>(array.data());
    };
    for (size_t i = 0; i < arrays.size(); ++i) {
        const py::handle gradient = gradients[i];
        const int64_t n = view(gradient).size();
        pipeline::Streams streams = {{}, int(arrays[i].size()), data(gradient, n), n};
        if (streams.count < 1 || streams.count > max_states + 1)
            throw py::value_error("move: 1 to " + std::to_string(max_states + 1) + " arrays");
        for (size_t a = 0; a < arrays[i].size(); ++a) streams.arrays[a] = data(arrays[i][a], n);
        tensors.push_back(streams);
    }
    py::gil_scoped_release unlocked;
    pipeline::move(dispatch::current(), tensors);
}

}    // namespace

void bind_optimizer(py::module_& m) {
    py::class_<Plan>(m, "Plan")
        .def(py::init<const std::string&, py::list, py::list, const std::vector<int>&,
                      py::array_t<int64_t>, py::array_t<double>>(),
             py::arg("rule"), py::arg("params"), py::arg("states"), py::arg("group_of"),
             py::arg("counts").noconvert(), py::arg("settings").noconvert())
        .def("step", &Plan::step, py::arg("gradients"));
    m.def("sum_squares", &sum_squares, py::arg("arrays"));
    m.def("move", &move, py::arg("arrays"), py::arg("gradients"));
}

}    // namespace gradstep::bindings
