// The step: from lists of arrays to the pipeline's pointers and back.
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "../dispatch.hpp"
#include "../parallel.hpp"
#include "../pipeline.hpp"
#include "arrays.hpp"
#include "bindings.hpp"
#include "dlpack.hpp"

namespace gradstep::bindings {
namespace {

struct Range {
    const char* begin;
    const char* end;
};

// A dictionary finds its own key object without comparing texts.
py::object interned(const char* text) {
    return py::reinterpret_steal<py::object>(PyUnicode_InternFromString(text));
}

ArrayView view(py::handle object) { return ArrayView::Source()(object); }

// The shapes and strides of arrays, one behind the other.
template <class View> class Forms {
public:
    void add(const View& array) {
        array.form([&](int64_t number) { numbers_.push_back(number); });
        ends_.push_back(numbers_.size());
    }
    bool same(size_t i, const View& array) const {
        size_t at = i ? ends_[i - 1] : 0;
        bool is_same = true;
        array.form([&](int64_t number) {
            is_same = is_same && at < ends_[i] && numbers_[at] == number;
            ++at;
        });
        return is_same && at == ends_[i];
    }

private:
    std::vector<int64_t> numbers_;
    std::vector<size_t> ends_;
};

// What an optimizer's step does again and again, prepared once: the parameters and all that is kept
// for them as pointers, and the byte ranges that a step writes. Owns references to the arrays, not
// the arrays: every number in them belongs to Python. View: of NumPy's arrays or of tensors.
template <class View> class Plan {
public:
    static constexpr int64_t done = -1, skipped = -2, first_refused_param = -3;
    static constexpr int64_t count_limit = 1 << 24;    // up to which every integer is a float

    int threads = 0;             // that a step uses; 0: as many as everybody
    bool advances = true;        // the clock: whether a step is one of the optimizer
    bool looks = true;           // at what is kept where others can reach it, and at its counts
    int without_gradient = 0;    // how many parameters had none in the last step

    // tensors: for each parameter (param, low, states, storages, stochastic, group, key, start,
    // average, copy), see _core.pyi. counts: int64, the updates of each parameter, then those of
    // the optimizer. settings: float64, a row for each group of the rule's hyperparameters, the
    // gradient's sign, and whether the group is frozen. controls: clip_norm, clip_value, decay of
    // the averages, whether gradients must be finite, seed. results: a row for the norm of the
    // gradients and the first that was not finite, then one of sums for each group. averages: for
    // what a sample keeps of the gradients, float64, none or sample_elements.
    Plan(const std::string& rule, const py::list& tensors, py::array_t<int64_t> counts,
         py::array_t<int64_t> clock, py::array_t<double> settings, py::array_t<double> controls, py::array_t<double> results,
         py::array_t<double> averages, typename View::Source source = {})
        : view_(std::move(source)), counts_(std::move(counts)), clock_(std::move(clock)), settings_(std::move(settings)),
          controls_(std::move(controls)), results_(std::move(results)),
          averages_(std::move(averages)), rule_(find_rule(rule)) {
        const Table& table = dispatch::current();
        const RuleInfo& info = table.rules[rule_];
        if (settings_.ndim() != 2 || settings_.shape(1) != info.hyper_count + 2 ||
            counts_.size() != py::ssize_t(tensors.size()) || clock_.size() != 1 || controls_.size() != 5 ||
            results_.ndim() != 2 || results_.shape(0) != settings_.shape(0) + 1 ||
            results_.shape(1) != sum_count ||
            (averages_.size() != 0 && averages_.size() != pipeline::sample_blocks * block_elements))
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
    int64_t step(const py::list& gradients, double loss_scale, bool zero_gradients, int measure) {
        if (gradients.size() != tensors_.size())
            throw py::value_error("step: as many gradients as parameters are wanted");
        const Table& table = dispatch::current();
        without_gradient = 0;
        for (size_t i = 0; i < tensors_.size(); ++i) {
            View p;
            // An array can be resized, locked or reinterpreted after it was given to us.
            if (!view_.look(params_[i].ptr(), p) || !is_still(p, tensors_[i].p, i, types_[i]) ||
                (tensors_[i].copy && !copy_is_still(i, p)) ||
                (!own_.empty() && !forms_.same(i, p)) || (looks && !own_is_still(i, p)))
                return first_refused_param - int64_t(i);
            PyObject* const gradient = PyList_GET_ITEM(gradients.ptr(), py::ssize_t(i));
            if (gradient == Py_None) {
                gradients_[i].data = nullptr;
                ++without_gradient;
                continue;
            }
            View g;
            if (!view_.is_plain(gradient) || !view_.look(gradient, g) ||
                !view_.is_exact(gradient, g))
                return int64_t(i);
            const int storage = storage_of(table, g);
            if (storage < 0 || !(zero_gradients ? g.writable() : g.readable()) ||
                !g.same_shape(p) ||
                overlaps(i, g.data(), table.storages[storage].bytes(tensors_[i].n)))
                return int64_t(i);
            static char nothing;    // tensors without elements may have no address
            gradients_[i] = {g.data() ? g.data() : &nothing, storage};
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
            controls[0],
            controls[1],
            1 - controls[2],
            loss_scale,
            uint64_t(controls[4]),
            controls[3] != 0,
            zero_gradients,
            pipeline::Settings::Measure(measure),
            std::max<int64_t>(1, (blocks_ + pipeline::sample_blocks - 1) / pipeline::sample_blocks),
            averages_.size() ? reinterpret_cast<char*>(averages_.mutable_data()) : nullptr};
        double* results = results_.mutable_data();
        Sums* sums = reinterpret_cast<Sums*>(results + sum_count);
        int64_t* counts = counts_.mutable_data();
        py::gil_scoped_release unlocked;
        const parallel::ThreadCount own_threads(threads);
        const pipeline::Result result = pipeline::step(table, rule, tensors_, gradients_, counts,
                                                       groups_, values, scratch_, sums);
        results[0] = result.gradient_norm;
        if (result.not_finite >= 0) {
            results[1] = double(result.not_finite);
            return skipped;
        }
        for (size_t i = 0; i < tensors_.size(); ++i)
            counts[i] += gradients_[i].data && !groups_[size_t(tensors_[i].group)].frozen;
        if (advances) ++*clock_.mutable_data();
        for (size_t i = 0; i < own_.size(); ++i)
            *own_[i].step = float(std::min(counts[i], count_limit));
        return done;
    }

    // Brings the counts in line with the `step` of each tensor's own dictionary. The first that is
    // no count, or -1.
    int64_t read_counts() {
        for (size_t i = 0; i < own_.size(); ++i)
            if (!read_count(i)) return int64_t(i);
        return -1;
    }

    // What is kept for the tensors, if nobody else holds it; else None. Nobody: but for this and
    // `known` other holders of each dictionary, and for this and the dictionary of what is in it.
    py::object unshared(int known) const {
        py::list kept;
        for (const auto& own : own_) {
            PyObject* const dictionary = own.by_name.ptr();
            // Others could be reached by weak references.
            if (!PyDict_CheckExact(dictionary) || Py_REFCNT(dictionary) != 1 + known)
                return py::none();
            auto take = [&](const py::object& name, PyObject* mine) {
                PyObject* const object = PyDict_GetItem(dictionary, name.ptr());
                if (!object || !view_.is_plain(object) || (mine && object != mine) ||
                    Py_REFCNT(object) != (mine ? 2 : 1))
                    return false;
                kept.append(py::handle(object));
                return true;
            };
            for (const auto& array : own.arrays)
                if (!take(array.name, array.object)) return py::none();
            if (!take(step_name_, nullptr)) return py::none();
        }
        return kept;
    }

private:
    // What is kept for a tensor where others can reach and replace it: by name in a dictionary.
    struct Own {
        struct Array {
            py::object name;
            PyObject* object;    // which kept_ holds
            const char* data;
            int64_t bytes;
            int type;
            bool shaped;    // as the parameter
        };
        py::dict by_name;
        std::vector<Array> arrays;
        float* step = nullptr;    // its count, in this very call
    };

    typename View::Source view_;
    const py::object step_name_ = interned("step");
    std::vector<py::object> params_, copies_, kept_;
    std::vector<Own> own_;    // empty, or one a tensor
    py::array_t<int64_t> counts_, clock_;
    py::array_t<double> settings_, controls_, results_, averages_;
    int64_t blocks_ = 0;    // of all tensors
    int rule_;
    std::vector<pipeline::Tensor> tensors_;
    Forms<View> forms_;                      // of parameters with a dictionary
    std::vector<int> types_, copy_types_;    // of parameters and copies, as NumPy numbers them
    std::vector<Range> written_;             // sorted
    std::vector<Range> gaps_;    // for each gradient: unwritten bytes around where it lay last
    Range last_gap_ = {nullptr, nullptr};    // and around the last gradient of all
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
        if (fields.size() != 10 && fields.size() != 11)
            throw py::value_error("10 or 11 fields are wanted");
        const View param = view_(fields[0]);
        if (fields.size() == 11) {
            own_.push_back({fields[10], {}, nullptr});
            forms_.add(param);
        }
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
        tensor.p = keep(fields[0], table.storages[tensor.storage].bytes(tensor.n), nullptr);
        if (!fields[1].is_none()) {
            if (table.storages[tensor.storage].name != std::string("bfloat16"))
                throw py::value_error("only bfloat16 has a low half");
            tensor.storage = find_storage(table, "split");
            tensor.low =
                keep(fields[1], tensor.n * table.storages[tensor.storage].low_bytes, "low");
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
                tensor.state[s] = keep(state, table.storages[storage].bytes(tensor.n),
                                       rule.states[s].name, table.storages[storage].block == 1);
                tensor.state_storage[s] = storage;
                if (optional) tensor.options |= 1u << bit;
            } else if (!optional) {
                throw py::value_error("a state is missing");
            }
            bit += optional;
        }
        const StorageInfo& storage = table.storages[tensor.storage];
        if (!fields[8].is_none())
            tensor.average =
                keep(fields[8],
                     tensor.n * (storage.compute == double_precision ? int64_t(sizeof(double))
                                                                     : sizeof(float)),
                     "average");
        copies_.push_back(fields[9]);
        copy_types_.push_back(fields[9].is_none() ? 0 : view_(fields[9]).type());
        if (!fields[9].is_none()) {
            const View copy = view_(fields[9]);
            tensor.copy_storage = copy.storage(table);
            if (tensor.copy_storage < 0 || !copy.same_shape(param))
                throw py::value_error("the copy does not fit");
            tensor.copy =
                keep(fields[9], table.storages[tensor.copy_storage].bytes(tensor.n), nullptr);
        }
        tensor.first_block = blocks_;
        blocks_ += pipeline::count_blocks(tensor);
        tensors_.push_back(tensor);
    }

    bool is_still(const View& array, const void* data, size_t i, int type) const {
        return array.data() == data && array.size() == tensors_[i].n && array.type() == type &&
               array.writable();
    }

    bool copy_is_still(size_t i, const View& param) {
        const View copy = view_(copies_[i].ptr());
        return is_still(copy, tensors_[i].copy, i, copy_types_[i]) &&
               (own_.empty() || copy.same_shape(param));
    }

    // Whether what is kept in the tensor's dictionary is what it was; reads its count.
    bool own_is_still(size_t i, const View& param) {
        if (own_.empty()) return true;
        for (const auto& array : own_[i].arrays) {
            PyObject* const object = PyDict_GetItem(own_[i].by_name.ptr(), array.name.ptr());
            if (!object || !view_.is_plain(object)) return false;
            View now;
            if (!view_.look(object, now) || now.data() != array.data ||
                (array.shaped
                     ? !now.same_shape(param) || now.type() != array.type
                     : now.bytes() != array.bytes || !now.writable() || !param.in_c_order()))
                return false;
        }
        return read_count(i);
    }

    bool read_count(size_t i) {
        PyObject* const object = PyDict_GetItem(own_[i].by_name.ptr(), step_name_.ptr());
        if (!object || !view_.is_plain(object)) return false;
        View count;
        if (!view_.look(object, count) || !count.is_number(View::float32) || !count.writable())
            return false;
        own_[i].step = reinterpret_cast<float*>(count.data());
        const float value = *own_[i].step;
        if (!(value >= 0 && value <= float(count_limit)) || value != float(int64_t(value)))
            return false;
        // A float cannot count on from there; nothing depends on the count any more.
        int64_t& kept = counts_.mutable_data()[i];
        if (value < float(count_limit) || kept < count_limit) kept = int64_t(value);
        return true;
    }

    // An array that a step writes, as a pointer. name: in the tensor's dictionary, if it is there.
    void* keep(const py::object& object, int64_t bytes, const char* name, bool shaped = true) {
        const View array = view_(object);
        if (!array.writable() || array.bytes() != bytes)
            throw py::value_error("an array of other bytes, or not writable");
        kept_.push_back(object);
        if (bytes > 0) written_.push_back({array.data(), array.data() + bytes});
        if (name && own_.size() > tensors_.size())
            own_.back().arrays.push_back(
                {interned(name), object.ptr(), array.data(), bytes, array.type(), shaped});
        return array.data();
    }

    int storage_of(const Table& table, const View& array) {
        for (const auto& [type, storage] : storages_)
            if (type == array.type()) return storage;
        storages_.emplace_back(array.type(), array.storage(table));
        return storages_.back().second;
    }

    // Whether a gradient of tensor i at `begin` shares bytes with anything a step writes. Loops
    // that allocate alike put a gradient back into the same gap, or next to the one before it, so
    // the search is rare.
    bool overlaps(size_t i, const char* begin, int64_t bytes) {
        const char* end = begin + bytes;
        Range& gap = gaps_[i];
        auto lies_in = [&](const Range& free) { return begin >= free.begin && end <= free.end; };
        if (begin == end || lies_in(last_gap_)) return false;
        if (lies_in(gap)) {
            last_gap_ = gap;
            return false;
        }
        auto after = std::upper_bound(
            written_.begin(), written_.end(), begin,
            [](const char* address, const Range& range) { return address < range.end; });
        if (after != written_.end() && after->begin < end) return true;
        gap.begin = after == written_.begin() ? nullptr : (after - 1)->end;
        gap.end =
            after == written_.end() ? reinterpret_cast<const char*>(UINTPTR_MAX) : after->begin;
        last_gap_ = gap;
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

// The sum of squares over all arrays, or tensors.
template <class View>
double sum_squares(const py::list& arrays, const typename View::Source& view) {
    const Table& table = dispatch::current();
    std::vector<pipeline::Span> spans;
    for (py::handle object : arrays) {
        const View array = view(object);
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

// Copies each source into its target and turns the flag, in one call that no signal divides.
void assign(const std::vector<std::pair<py::array, py::array>>& pairs, py::array_t<int64_t> flag) {
    std::vector<std::pair<char*, const char*>> data;
    std::vector<int64_t> sizes;
    for (const auto& [target, source] : pairs) {
        const ArrayView to(target.ptr()), from(source.ptr());
        if (!to.writable() || !from.readable() || to.bytes() != from.bytes())
            throw py::value_error("assign: a writable and a readable array of as many bytes");
        data.emplace_back(to.data(), from.data());
        sizes.push_back(to.bytes());
    }
    int64_t& turned = *flag.mutable_data();
    py::gil_scoped_release unlocked;
    for (size_t i = 0; i < data.size(); ++i)
        std::memmove(data[i].first, data[i].second, size_t(sizes[i]));
    turned = 1;
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
    using Numbers = py::array_t<double>;
    auto bind = [](auto plan) {
        using P = typename decltype(plan)::type;
        plan.def_readwrite("threads", &P::threads)
            .def_readwrite("advances", &P::advances)
            .def_readonly("without_gradient", &P::without_gradient)
            // Two, since arguments that are not given cost a small step 5%.
            .def(
                "step",
                [](P& p, const py::list& gradients) { return p.step(gradients, 1, false, 0); },
                py::arg("gradients"))
            .def("staged_step", &P::step, py::arg("gradients"), py::arg("loss_scale"),
                 py::arg("zero_grads"), py::arg("stats"));
        return plan;
    };
    bind(py::class_<Plan<ArrayView>>(m, "Plan"))
        .def(py::init<const std::string&, const py::list&, py::array_t<int64_t>, py::array_t<int64_t>,
                      Numbers, Numbers, Numbers, Numbers>(),
             py::arg("rule"), py::arg("tensors"), py::arg("counts").noconvert(), py::arg("clock").noconvert(),
             py::arg("settings").noconvert(), py::arg("controls").noconvert(),
             py::arg("results").noconvert(), py::arg("averages").noconvert());
    bind(py::class_<Plan<TensorView>>(m, "TensorPlan"))
        .def(py::init([](const std::string& rule, const py::list& tensors,
                         py::array_t<int64_t> counts, py::array_t<int64_t> clock,
                         Numbers settings, Numbers controls, Numbers results, Numbers averages,
                         const py::type& type) {
                 return std::make_unique<Plan<TensorView>>(
                     rule, tensors, std::move(counts), std::move(clock), std::move(settings),
                     std::move(controls), std::move(results), std::move(averages), TensorView::Source(type));
             }),
             py::arg("rule"), py::arg("tensors"), py::arg("counts").noconvert(),
             py::arg("clock").noconvert(), py::arg("settings").noconvert(), py::arg("controls").noconvert(),
             py::arg("results").noconvert(), py::arg("averages").noconvert(), py::arg("type"))
        .def_readwrite("looks", &Plan<TensorView>::looks)
        .def("read_counts", &Plan<TensorView>::read_counts)
        .def("unshared", &Plan<TensorView>::unshared, py::arg("known"));
    m.def(
        "sum_squares", [](const py::list& arrays) { return sum_squares<ArrayView>(arrays, {}); },
        py::arg("arrays"));
    m.def(
        "sum_squares_of_tensors",
        [](const py::list& tensors, const py::type& type) {
            return sum_squares<TensorView>(tensors, TensorView::Source(type));
        },
        py::arg("tensors"), py::arg("type"));
    m.attr("sample_elements") = pipeline::sample_blocks * block_elements;
    m.def("swap", &swap, py::arg("pairs"), py::arg("flag").noconvert());
    m.def("assign", &assign, py::arg("pairs"), py::arg("flag").noconvert());
    m.def("move", &move, py::arg("arrays"), py::arg("gradients"));
}

}    // namespace gradstep::bindings
