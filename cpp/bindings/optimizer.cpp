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

// What an optimizer's step does again and again, prepared once: the parameters and all that is kept
// for them as pointers, and the byte ranges that a step writes. Owns references to the arrays, not
// the arrays: every number in them belongs to Python.
class Plan {
public:
    static constexpr int64_t done = -1, skipped = -2, first_refused_param = -3;

    // tensors: for each parameter (param, low, states, storages, stochastic, group, key, start,
    // average, copy), see _core.pyi. counts: int64, the updates of each parameter, then those of
    // the optimizer. settings: float64, a row for each group of the rule's hyperparameters, the
    // gradient's sign, and whether the group is frozen. controls: clip_norm, clip_value, decay of
    // the averages, whether gradients must be finite, seed. results: a row for the norm of the
    // gradients and the first that was not finite, then one of sums for each group.
    Plan(const std::string& rule, const py::list& tensors, py::array_t<int64_t> counts,
         py::array_t<double> settings, py::array_t<double> controls, py::array_t<double> results)
        : counts_(std::move(counts)), settings_(std::move(settings)),
          controls_(std::move(controls)), results_(std::move(results)), rule_(find_rule(rule)) {
        const Table& table = dispatch::current();
        const RuleInfo& info = table.rules[rule_];
        if (settings_.ndim() != 2 || settings_.shape(1) != info.hyper_count + 2 ||
            counts_.size() != py::ssize_t(tensors.size()) + 1 || controls_.size() != 5 ||
            results_.ndim() != 2 || results_.shape(0) != settings_.shape(0) + 1 ||
            results_.shape(1) != sum_count)
            throw py::value_error("Plan: sizes do not fit together");
        for (size_t i = 0; i < tensors.size(); ++i) {
            try {
                add(info, tensors[i]);
            } catch (const py::value_error& error) {
                throw py::value_error("Plan: tensor " + std::to_string(i) + ": " + error.what());
            }
        }
        std::sort(written_.begin(), written_.end(),
                  [](const Range& a, const Range& b) { return a.begin < b.begin; });
        gaps_.assign(tensors_.size(), {nullptr, nullptr});
        gradients_.resize(tensors_.size());
    }

    // One update. Refuses, with nothing changed, what it cannot take as it is: returns i for
    // gradient i, first_refused_param - i for parameter i; the caller finds the words, and holds
    // the lock that keeps a second step of this plan out. skipped: a gradient is not finite.
    int64_t step(const py::list& gradients, double loss_scale, bool zero_gradients, bool measure) {
        if (gradients.size() != tensors_.size())
            throw py::value_error("step: as many gradients as parameters are wanted");
        const Table& table = dispatch::current();
        for (size_t i = 0; i < tensors_.size(); ++i) {
            const ArrayView p(params_[i].ptr());
            // NumPy lets an array be resized, locked or reinterpreted after it was given to us.
            if (!is_still(p, tensors_[i].p, i, types_[i]) ||
                (tensors_[i].copy &&
                 !is_still(ArrayView(copies_[i].ptr()), tensors_[i].copy, i, copy_types_[i])))
                return first_refused_param - int64_t(i);
            PyObject* const gradient = PyList_GET_ITEM(gradients.ptr(), py::ssize_t(i));
            if (gradient == Py_None) {
                gradients_[i].data = nullptr;
                continue;
            }
            if (!ArrayView::is_plain_array(gradient)) return int64_t(i);
            const ArrayView g(gradient);
            const int storage = storage_of(table, g);
            if (storage < 0 || !(zero_gradients ? g.writable() : g.readable()) ||
                !g.same_shape(p) ||
                overlaps(i, g.data(), table.storages[storage].bytes(tensors_[i].n)))
                return int64_t(i);
            gradients_[i] = {g.data(), storage};
        }
        if (zero_gradients) {
            const int64_t shared = shared_gradient(table);
            if (shared >= 0) return shared;
        }

        const RuleInfo& rule = table.rules[rule_];
        groups_.clear();
        for (py::ssize_t i = 0; i < settings_.shape(0); ++i) {
            const double* row = settings_.data(i, 0);
            groups_.push_back({row, row[rule.hyper_count], row[rule.hyper_count + 1] != 0});
        }
        const double* controls = controls_.data();
        const pipeline::Settings values = {
            controls[0],           controls[1],      1 - controls[2], loss_scale,
            uint64_t(controls[4]), controls[3] != 0, zero_gradients,  measure};
        double* results = results_.mutable_data();
        Sums* sums = reinterpret_cast<Sums*>(results + sum_count);
        int64_t* counts = counts_.mutable_data();
        py::gil_scoped_release unlocked;
        const pipeline::Result result = pipeline::step(table, rule, tensors_, gradients_, counts,
                                                       groups_, values, scratch_, sums);
        results[0] = result.gradient_norm;
        if (result.not_finite >= 0) {
            results[1] = double(result.not_finite);
            return skipped;
        }
        for (size_t i = 0; i < tensors_.size(); ++i)
            counts[i] += gradients_[i].data && !groups_[size_t(tensors_[i].group)].frozen;
        ++counts[tensors_.size()];
        return done;
    }

private:
    std::vector<py::object> params_, copies_, kept_;
    py::array_t<int64_t> counts_;
    py::array_t<double> settings_, controls_, results_;
    int rule_;
    std::vector<pipeline::Tensor> tensors_;
    std::vector<int> types_, copy_types_;    // of parameters and copies, as NumPy numbers them
    std::vector<Range> written_;             // sorted
    std::vector<Range> gaps_;    // for each gradient: unwritten bytes around where it lay last
    std::vector<pipeline::Gradient> gradients_;
    std::vector<pipeline::Group> groups_;
    std::vector<std::pair<int, int>> storages_;    // of each NumPy type seen so far
    pipeline::Scratch scratch_;

    static int find_rule(const std::string& name) {
        const Table& table = dispatch::current();
        for (int i = 0; i < table.rule_count; ++i)
            if (name == table.rules[i].name) return i;
        throw py::value_error("Plan: no rule is called " + name);
    }

    void add(const RuleInfo& rule, const py::tuple& fields) {
        const Table& table = dispatch::current();
        if (fields.size() != 10) throw py::value_error("10 fields are wanted");
        const ArrayView param = view(fields[0]);
        pipeline::Tensor tensor;
        tensor.n = param.size();
        tensor.storage = param.storage(table);
        tensor.stochastic = fields[4].cast<unsigned>();
        tensor.group = fields[5].cast<int>();
        tensor.key = fields[6].cast<uint64_t>();
        tensor.start = fields[7].cast<int64_t>();
        if (tensor.storage < 0 || tensor.group < 0 || tensor.group >= settings_.shape(0) ||
            tensor.start < 0)
            throw py::value_error("the parameter does not fit");
        params_.push_back(fields[0]);
        types_.push_back(param.type());
        tensor.p = keep(fields[0], table.storages[tensor.storage].bytes(tensor.n));
        if (!fields[1].is_none()) {
            if (table.storages[tensor.storage].name != std::string("bfloat16"))
                throw py::value_error("only bfloat16 has a low half");
            tensor.storage = find_storage(table, "split");
            tensor.low = keep(fields[1], tensor.n * table.storages[tensor.storage].low_bytes);
        }
        const py::list states = fields[2], storages = fields[3];
        int bit = 0;
        for (int s = 0; s < rule.state_count; ++s) {
            const bool optional = rule.states[s].option != nullptr;
            const py::object state = states[size_t(s)];
            if (!state.is_none()) {
                const int storage = find_storage(table, storages[size_t(s)].cast<std::string>());
                if (storage < 0 ||
                    !(table.storages[storage].roles & as_role(rule.states[s].role)) ||
                    tensor.start % table.storages[storage].block != 0)
                    throw py::value_error("a state cannot be stored so");
                tensor.state[s] = keep(state, table.storages[storage].bytes(tensor.n));
                tensor.state_storage[s] = storage;
                if (optional) tensor.options |= 1u << bit;
            } else if (!optional) {
                throw py::value_error("a state is missing");
            }
            bit += optional;
        }
        const StorageInfo& storage = table.storages[tensor.storage];
        if (!fields[8].is_none())
            tensor.average = keep(fields[8], tensor.n * (storage.compute == double_precision
                                                             ? int64_t(sizeof(double))
                                                             : sizeof(float)));
        copies_.push_back(fields[9]);
        copy_types_.push_back(fields[9].is_none() ? 0 : view(fields[9]).type());
        if (!fields[9].is_none()) {
            tensor.copy_storage = view(fields[9]).storage(table);
            if (tensor.copy_storage < 0) throw py::value_error("the copy does not fit");
            tensor.copy = keep(fields[9], table.storages[tensor.copy_storage].bytes(tensor.n));
        }
        tensors_.push_back(tensor);
    }

    bool is_still(const ArrayView& array, const void* data, size_t i, int type) const {
        return array.data() == data && array.size() == tensors_[i].n && array.type() == type &&
               array.writable();
    }

    // An array that a step writes, as a pointer.
    void* keep(const py::object& object, int64_t bytes) {
        const ArrayView array = view(object);
        if (!array.writable() || array.bytes() != bytes)
            throw py::value_error("an array of other bytes, or not writable");
        kept_.push_back(object);
        if (bytes > 0) written_.push_back({array.data(), array.data() + bytes});
        return array.data();
    }

    int storage_of(const Table& table, const ArrayView& array) {
        for (const auto& [type, storage] : storages_)
            if (type == array.type()) return storage;
        storages_.emplace_back(array.type(), array.storage(table));
        return storages_.back().second;
    }

    // Whether a gradient of tensor i at `begin` shares bytes with anything a step writes. Loops
    // that allocate alike put a gradient back into the same gap, so the search is rare.
    bool overlaps(size_t i, const char* begin, int64_t bytes) {
        const char* end = begin + bytes;
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

    // A gradient that shares bytes with one before it; -1: none. One would be zeroed before the
    // other is read.
    int64_t shared_gradient(const Table& table) const {
        std::vector<std::pair<Range, int64_t>> ranges;
        for (size_t i = 0; i < gradients_.size(); ++i) {
            if (!gradients_[i].data || tensors_[i].n == 0) continue;
            const char* begin = static_cast<const char*>(gradients_[i].data);
            ranges.push_back(
                {{begin, begin + table.storages[gradients_[i].storage].bytes(tensors_[i].n)},
                 int64_t(i)});
        }
        std::sort(ranges.begin(), ranges.end(),
                  [](const auto& a, const auto& b) { return a.first.begin < b.first.begin; });
        for (size_t i = 1; i < ranges.size(); ++i)
            if (ranges[i].first.begin < ranges[i - 1].first.end)
                return std::max(ranges[i].second, ranges[i - 1].second);
        return -1;
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

// Swaps the bytes of each pair of arrays and turns the flag, in one call that no signal divides.
void swap(const std::vector<std::pair<py::array, py::array>>& pairs, py::array_t<int64_t> flag) {
    std::vector<std::pair<char*, char*>> data;
    std::vector<int64_t> sizes;
    for (const auto& [first, second] : pairs) {
        const ArrayView a(first.ptr()), b(second.ptr());
        if (!a.writable() || !b.writable() || a.bytes() != b.bytes())
            throw py::value_error("swap: writable arrays of as many bytes are wanted");
        data.emplace_back(a.data(), b.data());
        sizes.push_back(a.bytes());
    }
    int64_t& turned = *flag.mutable_data();
    py::gil_scoped_release unlocked;
    for (size_t i = 0; i < data.size(); ++i)
        std::swap_ranges(data[i].first, data[i].first + sizes[i], data[i].second);
    turned = !turned;
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
        .def(py::init<const std::string&, const py::list&, py::array_t<int64_t>,
                      py::array_t<double>, py::array_t<double>, py::array_t<double>>(),
             py::arg("rule"), py::arg("tensors"), py::arg("counts").noconvert(),
             py::arg("settings").noconvert(), py::arg("controls").noconvert(),
             py::arg("results").noconvert())
        // Two, since arguments that are not given cost a small step 5%.
        .def(
            "step",
            [](Plan& plan, const py::list& gradients) {
                return plan.step(gradients, 1, false, false);
            },
            py::arg("gradients"))
        .def("staged_step", &Plan::step, py::arg("gradients"), py::arg("loss_scale"),
             py::arg("zero_grads"), py::arg("stats"));
    m.def("sum_squares", &sum_squares, py::arg("arrays"));
    m.def("swap", &swap, py::arg("pairs"), py::arg("flag").noconvert());
    m.def("move", &move, py::arg("arrays"), py::arg("gradients"));
}

}    // namespace gradstep::bindings
