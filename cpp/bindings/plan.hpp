// What an optimizer's step does again and again, prepared once: the parameters and all that is kept
// for them as pointers, and the byte ranges that a step writes.
#pragma once
#include <pybind11/numpy.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../dispatch.hpp"
#include "../parallel.hpp"
#include "../pipeline.hpp"
#include "arrays.hpp"
#include "own_states.hpp"
#include "row_gradient.hpp"
#include "unlocked.hpp"
#include "written.hpp"

namespace gradstep::bindings {

// A parameter and what a step keeps for it, as Python says it. None: it has no such thing.
struct TensorSpec {
    py::object param, low;
    py::list states;                      // in the rule's order
    std::vector<std::string> storages;    // of each state
    py::list memory;                      // in the rule's order
    unsigned stochastic = 0;    // which buffers are rounded stochastically: bit 0 the parameter
    int group = 0;
    uint64_t key = 0;
    int64_t start = 0;
    bool first = true;    // no step has used its states yet
    py::object average, copy, own;
    py::object direction =
        py::none();    // where the rule has one: room for it, in the compute type
};

// The stages of a step, as Python sets them.
struct Controls {
    double clip_norm = __builtin_inf(), clip_value = __builtin_inf(), decay = 0;
    bool check_finite = false;
    uint64_t seed = 0;
};

// The columns of a group's settings: the rule's hyperparameters follow.
enum Column { sign_column, frozen_column, first_hyper };

// Owns references to the arrays, not the arrays: every number in them belongs to Python. View: of
// NumPy's arrays or of tensors.
template <class View> class Plan {
public:
    static constexpr int64_t done = -1, skipped = -2, first_refused_param = -3;

    int threads = 0;             // that a step uses; 0: as many as everybody
    bool advances = true;        // the clock: whether a step is one of the optimizer
    bool looks = true;           // at what is kept where others can reach it, and at its counts
    double loss = 0;             // of the next step, for rules that take it
    double norm = -1;            // of the next step's gradients and others'; negative: nobody knows
    int without_gradient = 0;    // how many parameters had none in the last step
    double gradient_norm = 0;    // of the last step; NaN where nothing wanted it
    int64_t not_finite = -1;     // the first gradient that was not in the last step; -1: none
    // Between the passes, adds up over processes: gets `gathered`; see pipeline::Between.
    py::object add_up = py::none();
    // Between the passes, before anything else has changed: gets the positions of the tensors in
    // this step whose rule has a direction, replaces their directions, and writes to `gathered`
    // what settle is to get for them.
    py::object redirect = py::none();
    std::string refusal;    // why a gradient of some rows, well formed, was refused

    // rules: of each group. counts: int64, the updates of each parameter; clock: of the optimizer.
    // settings: float64, a row for each group: see Column. sums: a row for each group. gathered: a
    // row for each tensor. averages: for what a sample keeps of the gradients, none or
    // sample_elements.
    Plan(const std::vector<std::string>& rules, const std::vector<TensorSpec>& tensors,
         py::array_t<int64_t> counts, py::array_t<int64_t> clock, py::array_t<double> settings,
         std::shared_ptr<Controls> controls, py::array_t<double> sums, py::array_t<double> gathered,
         py::array_t<double> averages, typename View::Source source = {})
        : view_(std::move(source)), own_(view_), counts_(std::move(counts)),
          clock_(std::move(clock)), settings_(std::move(settings)), controls_(std::move(controls)),
          sums_(std::move(sums)), gathered_(std::move(gathered)), averages_(std::move(averages)) {
        const Table& table = dispatch::current();
        for (const std::string& rule : rules) rules_.push_back(find_rule(rule));
        check_sizes(table, tensors.size());
        for (size_t i = 0; i < tensors.size(); ++i) {
            try {
                add(table, tensors[i]);
            } catch (const py::value_error& error) {
                throw py::value_error("Plan: tensor " + std::to_string(i) + ": " + error.what());
            }
        }
        written_.prepare(tensors_.size());
        gradients_.resize(tensors_.size());
        seen_.resize(tensors_.size());
        rows_.resize(tensors_.size());
    }

    // One update. Refuses, with nothing changed, what it cannot take as it is: returns i for
    // gradient i, first_refused_param - i for parameter i; the caller finds the words, and holds
    // the lock that keeps a second step of this plan out. skipped: a gradient is not finite.
    int64_t step(const py::list& gradients, double loss_scale, bool zero_gradients, int measure) {
        const Table& table = dispatch::current();
        const int64_t refused = look(table, gradients, zero_gradients, measure);
        if (refused != done) return refused;
        collect_groups(table);
        if (has_directions_) note_directed();
        const pipeline::Settings settings = settings_of(loss_scale, zero_gradients, measure);
        int64_t* const counts = counts_.mutable_data();
        Sums* const sums = reinterpret_cast<Sums*>(sums_.mutable_data());
        const pipeline::Between between = visits_of_python();
        const Unlocked unlocked;
        const parallel::ThreadCount own_threads(threads);
        const pipeline::Result result = pipeline::step(table, tensors_, gradients_, counts, groups_,
                                                       settings, scratch_, sums, between);
        gradient_norm = result.gradient_norm;
        not_finite = result.not_finite;
        if (result.not_finite >= 0) return skipped;
        for (size_t i = 0; i < tensors_.size(); ++i)
            counts[i] += gradients_[i].data && !groups_[size_t(tensors_[i].group)].frozen;
        if (advances) ++*clock_.mutable_data();
        own_.write_counts(counts);
        return done;
    }

    // Brings the counts in line with the `step` of each tensor's own dictionary. The first that is
    // no count, or -1.
    int64_t read_counts() {
        for (size_t i = 0; !own_.empty() && i < tensors_.size(); ++i)
            if (!own_.read_count(i, counts_.mutable_data()[i])) return int64_t(i);
        return -1;
    }

    bool are_alone(int known) { return own_.are_alone(known); }
    py::object unshared(int known) const { return own_.unshared(known); }

    // Writes the point to evaluate of parameter i into an array like it.
    void show(size_t i, const py::object& out) {
        const Table& table = dispatch::current();
        const View array = view_(out);
        const StorageInfo& storage = table.storages[tensors_[i].storage];
        if (!array.writable() || array.bytes() != storage.bytes(tensors_[i].n))
            throw py::value_error("show: an array like the parameter is wanted");
        collect_groups(table);
        const pipeline::Group& group = groups_[size_t(tensors_[i].group)];
        if (!group.rule->shown[storage.compute])
            throw py::value_error("show: the rule evaluates the parameter itself");
        void* const data = array.data();
        const Unlocked unlocked;
        pipeline::show(table, tensors_[i], group, data);
    }

    // Whether each parameter of the last step had a loop of its own, without scratch.
    std::vector<bool> direct() const {
        std::vector<bool> found;
        for (const pipeline::Choice& choice : scratch_.choices) found.push_back(choice.direct);
        return found;
    }

private:
    typename View::Source view_;
    OwnStates<View> own_;    // empty, or of each tensor
    std::vector<py::object> params_, copies_, kept_;
    py::array_t<int64_t> counts_, clock_;
    py::array_t<double> settings_;
    std::shared_ptr<Controls> controls_;
    py::array_t<double> sums_, gathered_, averages_;
    int64_t blocks_ = 0;    // of all tensors
    bool has_directions_ = false;
    py::list directed_;         // the tensors of this step that have one
    std::vector<int> rules_;    // of each group
    std::vector<pipeline::Tensor> tensors_;
    std::vector<int> types_, copy_types_;    // of parameters and copies, as NumPy numbers them
    Written written_;
    std::vector<pipeline::Gradient> gradients_;
    std::vector<std::unique_ptr<Rows>> rows_;    // of each that has had some
    // What was last looked at closely and taken. The gradient's stands beside the parameter's.
    struct Seen {
        typename View::Source::Image param, copy, gradient;
        int storage = -1;    // of the gradient
        int64_t bytes = 0;
        uintptr_t alignment = 1;
    };
    std::vector<Seen> seen_;
    std::vector<pipeline::Group> groups_;
    std::vector<std::pair<int, int>> storages_;    // of each NumPy type seen so far
    pipeline::Scratch scratch_;

    static int find_rule(const std::string& name) {
        const Table& table = dispatch::current();
        for (int i = 0; i < table.rule_count; ++i)
            if (name == table.rules[i].name) return i;
        throw py::value_error("Plan: no rule is called " + name);
    }

    void check_sizes(const Table& table, size_t tensors) const {
        const auto rows = py::ssize_t(rules_.size()), count = py::ssize_t(tensors);
        bool fit =
            settings_.ndim() == 2 && settings_.shape(0) == rows && counts_.size() == count &&
            clock_.size() == 1 && sums_.ndim() == 2 && sums_.shape(0) == rows &&
            sums_.shape(1) == sum_count && gathered_.ndim() == 2 && gathered_.shape(0) == count &&
            gathered_.shape(1) == max_gathered &&
            (averages_.size() == 0 || averages_.size() == pipeline::sample_blocks * block_elements);
        for (int rule : rules_)
            fit = fit && settings_.shape(1) >= first_hyper + table.rules[rule].hyper_count;
        if (!fit) throw py::value_error("Plan: sizes do not fit together");
    }

    // ---- building ----

    void add(const Table& table, const TensorSpec& spec) {
        const View param = view_(spec.param);
        if (!spec.own.is_none()) own_.add(spec.own, param);
        pipeline::Tensor tensor;
        tensor.n = param.size();
        tensor.storage = param.storage(table);
        tensor.stochastic = spec.stochastic;
        tensor.group = spec.group;
        tensor.key = spec.key;
        tensor.start = spec.start;
        tensor.first = spec.first;
        if (tensor.storage < 0 || tensor.group < 0 || size_t(tensor.group) >= rules_.size() ||
            tensor.start < 0)
            throw py::value_error("the parameter does not fit");
        params_.push_back(spec.param);
        types_.push_back(param.type());
        tensor.p = keep(spec.param, table.storages[tensor.storage].bytes(tensor.n));
        if (!spec.low.is_none()) add_low(table, spec, tensor);
        const RuleInfo& rule = table.rules[rules_[size_t(tensor.group)]];
        const bool by_rows = rule.factored >= 0 && param.ndim() >= 2;
        if (by_rows) add_matrices(table, rule, spec, param, tensor);
        add_states(table, rule, spec, by_rows, tensor);
        for (int k = 0; k < rule.memory_count; ++k)
            tensor.memory[k] = static_cast<double*>(
                keep(spec.memory[size_t(k)], sizeof(double), rule.memory_names[k], Layout::number));
        if (!spec.average.is_none()) {
            const bool is_double = table.storages[tensor.storage].compute == double_precision;
            tensor.average = keep(spec.average, tensor.n * (is_double ? 8 : 4), "average");
        }
        add_copy(table, spec, param, tensor);
        tensor.first_block = blocks_;
        blocks_ += pipeline::count_blocks(tensor);
        tensors_.push_back(tensor);
    }

    void add_low(const Table& table, const TensorSpec& spec, pipeline::Tensor& tensor) {
        if (table.storages[tensor.storage].name != std::string("bfloat16"))
            throw py::value_error("only bfloat16 has a low half");
        tensor.storage = find_storage(table, "split");
        tensor.low = keep(spec.low, tensor.n * table.storages[tensor.storage].low_bytes, "low");
    }

    // Where a rule's numbers for the rows and columns of a parameter lie.
    void add_matrices(const Table& table, const RuleInfo& rule, const TensorSpec& spec,
                      const View& param, pipeline::Tensor& tensor) {
        if (!param.in_c_order()) throw py::value_error("rows are wanted one behind the other");
        pipeline::Matrices& of = tensor.matrices;
        of.rows = param.length(param.ndim() - 2);
        of.columns = param.length(param.ndim() - 1);
        int64_t matrices = 1;
        for (int i = 0; i + 2 < param.ndim(); ++i) matrices *= param.length(i);
        const int64_t bytes = table.storages[tensor.storage].compute == double_precision ? 8 : 4;
        for (int s = 0; s < rule.state_count; ++s) {
            const State& state = rule.states[s];
            const bool is_row = state.shape == Shape::rows;
            if (!is_row && state.shape != Shape::columns) continue;
            void* const kept =
                keep(spec.states[size_t(s)], bytes * matrices * (is_row ? of.rows : of.columns),
                     state.name, Layout::by_rows);
            (is_row ? of.row : of.column) = kept;
        }
    }

    void add_states(const Table& table, const RuleInfo& rule, const TensorSpec& spec, bool by_rows,
                    pipeline::Tensor& tensor) {
        int bit = 0;
        for (int s = 0; s < rule.state_count; ++s) {
            if (rule.states[s].role == Role::direction) {
                add_direction(table, spec, tensor, s);
                continue;
            }
            const Shape shape = rule.states[s].shape;
            if (shape != Shape::same && (shape != Shape::vector || by_rows)) continue;
            const bool optional = rule.states[s].option != nullptr;
            const py::object state = spec.states[size_t(s)];
            if (!state.is_none()) {
                const int index = find_storage(table, spec.storages[size_t(s)]);
                if (index < 0 || !(table.storages[index].roles & as_role(rule.states[s].role)) ||
                    tensor.start % table.storages[index].block != 0)
                    throw py::value_error("a state cannot be stored so");
                const StorageInfo& storage = table.storages[index];
                tensor.state[s] =
                    keep(state, storage.bytes(tensor.n), rule.states[s].name,
                         storage.block == 1 ? Layout::as_parameter : Layout::in_blocks);
                tensor.state_storage[s] = index;
                if (optional) tensor.options |= 1u << bit;
            } else if (!optional) {
                throw py::value_error("a state is missing");
            }
            bit += optional;
        }
    }

    void add_direction(const Table& table, const TensorSpec& spec, pipeline::Tensor& tensor,
                       int s) {
        const bool is_double = table.storages[tensor.storage].compute == double_precision;
        if (spec.direction.is_none()) throw py::value_error("a direction is missing");
        tensor.state[s] = keep(spec.direction, tensor.n * (is_double ? 8 : 4));
        tensor.state_storage[s] = find_storage(table, is_double ? "float64" : "float32");
        has_directions_ = true;
    }

    void add_copy(const Table& table, const TensorSpec& spec, const View& param,
                  pipeline::Tensor& tensor) {
        copies_.push_back(spec.copy);
        copy_types_.push_back(spec.copy.is_none() ? 0 : view_(spec.copy).type());
        if (spec.copy.is_none()) return;
        const View copy = view_(spec.copy);
        tensor.copy_storage = copy.storage(table);
        if (tensor.copy_storage < 0 || !copy.same_shape(param))
            throw py::value_error("the copy does not fit");
        tensor.copy = keep(spec.copy, table.storages[tensor.copy_storage].bytes(tensor.n));
    }

    // An array that a step writes, as a pointer. name: in the tensor's dictionary, if it is there.
    void* keep(const py::object& object, int64_t bytes, const char* name = nullptr,
               Layout layout = Layout::as_parameter) {
        const View array = view_(object);
        if (!array.writable() || array.bytes() != bytes)
            throw py::value_error("an array of other bytes, or not writable");
        kept_.push_back(object);
        written_.add(array.data(), bytes);
        if (name && !own_.empty()) own_.add_array(name, object.ptr(), array, layout);
        return array.data();
    }

    // ---- a step ----

    // Whether every array is where it was; takes the gradients. What is refused, or done.
    int64_t look(const Table& table, const py::list& gradients, bool zero_gradients, int measure) {
        if (gradients.size() != tensors_.size())
            throw py::value_error("step: as many gradients as parameters are wanted");
        without_gradient = 0;
        refusal.clear();
        for (size_t i = 0; i < tensors_.size(); ++i) {
            if (!param_is_still(i)) return first_refused_param - int64_t(i);
            PyObject* const gradient = PyList_GET_ITEM(gradients.ptr(), py::ssize_t(i));
            if (gradient == Py_None) {
                gradients_[i].data = nullptr;
                ++without_gradient;
            } else if (!take_gradient(table, i, gradient, zero_gradients) &&
                       !take_rows(table, i, gradient, zero_gradients, measure)) {
                return int64_t(i);
            }
        }
        const int64_t shared = zero_gradients ? shared_gradient(table) : -1;
        return shared >= 0 ? shared : done;
    }

    // An array can be resized, locked or reinterpreted after it was given to us.
    bool param_is_still(size_t i) {
        PyObject* const param = params_[i].ptr();
        Seen& seen = seen_[i];
        const bool same = view_.is_same(param, seen.param) &&
                          (!tensors_[i].copy || view_.is_same(copies_[i].ptr(), seen.copy));
        if (!same) {
            View p, copy;
            own_.forget(i);
            seen.gradient.forget();
            if (!view_.look(param, p) || !is_still(p, tensors_[i].p, i, types_[i]) ||
                (tensors_[i].copy && !copy_is_still(i, p, copy)) ||
                (!own_.empty() && !own_.same_form(i, p)))
                return false;
            view_.keep(param, p, seen.param);
            if (tensors_[i].copy) view_.keep(copies_[i].ptr(), copy, seen.copy);
        }
        return !looks || own_.empty() || own_.is_still(i, param, counts_.mutable_data()[i]);
    }

    bool take_gradient(const Table& table, size_t i, PyObject* gradient, bool zero_gradients) {
        if (!view_.is_plain(gradient)) return false;
        Seen& seen = seen_[i];
        // Who is to be zeroed is looked at closely: it must be writable, too.
        char* const data = zero_gradients ? nullptr : view_.find_alike(gradient, seen.gradient);
        if (data) {
            if (reinterpret_cast<uintptr_t>(data) % seen.alignment == 0 &&
                !written_.overlaps(i, data, seen.bytes)) {
                gradients_[i] = {data, seen.storage};
                return true;
            }
        }
        View p, g;
        if (!view_.look(params_[i].ptr(), p) || !view_.look(gradient, g) ||
            !view_.is_exact(gradient, g) || !view_.has_memory(gradient, g))
            return false;
        const int storage = storage_of(table, g);
        if (storage < 0 || !(zero_gradients ? g.writable() : g.readable()) || !g.same_shape(p))
            return false;
        const int64_t bytes = table.storages[storage].bytes(tensors_[i].n);
        if (written_.overlaps(i, g.data(), bytes)) return false;
        static char nothing;    // tensors without elements may have no address
        gradients_[i] = {g.data() ? g.data() : &nothing, storage};
        view_.keep(gradient, g, seen.gradient);
        seen.storage = storage;
        seen.bytes = bytes;
        seen.alignment =
            uintptr_t(std::max<int64_t>(1, bytes / std::max<int64_t>(1, tensors_[i].n)));
        return true;
    }

    // Reads a gradient of some rows; false: it is not one, or is refused.
    bool take_rows(const Table& table, size_t i, PyObject* gradient, bool zero_gradients,
                   int measure) {
        if (!py::isinstance<RowGradient>(gradient)) return false;
        const RowGradient& given = py::cast<const RowGradient&>(py::handle(gradient));
        View p, indices, values;
        if (!view_.is_plain(given.indices.ptr()) || !view_.is_plain(given.values.ptr()) ||
            !view_.look(params_[i].ptr(), p) || !view_.look(given.indices.ptr(), indices) ||
            !view_.look(given.values.ptr(), values) ||
            !view_.is_exact(given.values.ptr(), values) ||
            !view_.has_memory(given.values.ptr(), values) ||
            !view_.has_memory(given.indices.ptr(), indices))
            return false;
        if (!rows_[i]) rows_[i] = std::make_unique<Rows>();
        Rows& rows = *rows_[i];
        if (!read_rows(table, indices, values, rows) || (zero_gradients && !values.writable()) ||
            !are_rows_of(p, values))
            return false;
        refusal = refusal_of_tensor(table, i, p, measure);
        if (refusal.empty()) refusal = refusal_of_indices(rows, p.length(0), given.coalesced);
        if (!refusal.empty() || written_.overlaps(i, values.data(), values.bytes()) ||
            written_.overlaps(i, indices.data(), indices.bytes()))
            return false;
        gradients_[i] = {rows.values, rows.storage, &rows};
        return true;
    }

    static bool are_rows_of(const View& param, const View& values) {
        if (param.ndim() != values.ndim()) return false;
        for (int d = 1; d < param.ndim(); ++d)
            if (param.length(d) != values.length(d)) return false;
        return true;
    }

    // Why a tensor cannot take a gradient of some rows in this step; empty: it can.
    std::string refusal_of_tensor(const Table& table, size_t i, const View& param,
                                  int measure) const {
        const pipeline::Tensor& tensor = tensors_[i];
        const RuleInfo& rule = table.rules[rules_[size_t(tensor.group)]];
        const double* const row = settings_.data(tensor.group, 0);
        if (row[frozen_column] != 0) return {};
        for (int s = 0; s < rule.state_count; ++s) {
            const StorageInfo& storage = table.storages[tensor.state_storage[s]];
            if (tensor.state[s] && storage.block > 1)
                return "got some rows for " + std::string(rule.states[s].name) + " in " +
                       storage.name + ", whose blocks are no rows, wanted another storage for it";
        }
        if (!param.in_c_order())
            return "got some rows of a parameter whose rows are no runs of memory, wanted a "
                   "contiguous one";
        if (measure == pipeline::Settings::sample)
            return "got some rows with stats='sample', whose blocks may be in others, wanted "
                   "stats=True or False";
        return refusal_of_rows(rule, row + first_hyper);
    }

    void collect_groups(const Table& table) {
        groups_.clear();
        for (size_t i = 0; i < rules_.size(); ++i) {
            const double* row = settings_.data(py::ssize_t(i), 0);
            groups_.push_back({&table.rules[rules_[i]], row + first_hyper, row[sign_column],
                               row[frozen_column] != 0});
        }
    }

    pipeline::Settings settings_of(double loss_scale, bool zero_gradients, int measure) {
        pipeline::Settings settings;
        settings.clip_norm = controls_->clip_norm;
        settings.clip_value = controls_->clip_value;
        settings.average_weight = 1 - controls_->decay;
        settings.loss_scale = loss_scale;
        settings.loss = loss;
        settings.norm = norm;
        settings.seed = controls_->seed;
        settings.check_finite = controls_->check_finite;
        settings.zero_gradients = zero_gradients;
        settings.measure = pipeline::Settings::Measure(measure);
        settings.sample_every =
            std::max<int64_t>(1, (blocks_ + pipeline::sample_blocks - 1) / pipeline::sample_blocks);
        if (averages_.size()) settings.averages = reinterpret_cast<char*>(averages_.mutable_data());
        return settings;
    }

    // The tensors that this step moves in a direction that Python is to replace.
    void note_directed() {
        if (redirect.is_none()) throw py::value_error("step: nothing redirects");
        directed_ = py::list();
        for (size_t i = 0; i < tensors_.size(); ++i) {
            const pipeline::Group& group = groups_[size_t(tensors_[i].group)];
            if (gradients_[i].data && !group.frozen && group.rule->direction >= 0)
                directed_.append(i);
        }
    }

    // Between the passes the sums go to Python and come back.
    pipeline::Between visits_of_python() {
        pipeline::Between between;
        if (!add_up.is_none())
            between.add_up = [this](double* sums) { visit(sums, [&] { add_up(gathered_); }); };
        if (!directed_.empty())
            between.redirect = [this](double* sums) { visit(sums, [&] { redirect(directed_); }); };
        return between;
    }

    template <class Call> void visit(double* sums, const Call& call) {
        double* const shared = gathered_.mutable_data();
        std::copy(sums, sums + gathered_.size(), shared);
        {
            const py::gil_scoped_acquire locked;
            call();
        }
        std::copy(shared, shared + gathered_.size(), sums);
    }

    bool is_still(const View& array, const void* data, size_t i, int type) const {
        return array.data() == data && array.size() == tensors_[i].n && array.type() == type &&
               array.writable();
    }

    bool copy_is_still(size_t i, const View& param, View& copy) {
        copy = view_(copies_[i].ptr());
        return is_still(copy, tensors_[i].copy, i, copy_types_[i]) &&
               (own_.empty() || copy.same_shape(param));
    }

    int storage_of(const Table& table, const View& array) {
        for (const auto& [type, storage] : storages_)
            if (type == array.type()) return storage;
        storages_.emplace_back(array.type(), array.storage(table));
        return storages_.back().second;
    }

    // A gradient that shares bytes with one before it; -1: none. One would be zeroed before the
    // other is read.
    int64_t shared_gradient(const Table& table) const {
        std::vector<std::pair<Range, int64_t>> ranges;
        for (size_t i = 0; i < gradients_.size(); ++i) {
            if (!gradients_[i].data || tensors_[i].n == 0) continue;
            const char* begin = static_cast<const char*>(gradients_[i].data);
            const Rows* const rows = gradients_[i].rows;
            const int64_t n = rows ? int64_t(rows->given.size()) * rows->width : tensors_[i].n;
            ranges.push_back(
                {{begin, begin + table.storages[gradients_[i].storage].bytes(n)}, int64_t(i)});
        }
        std::sort(ranges.begin(), ranges.end(),
                  [](const auto& a, const auto& b) { return a.first.begin < b.first.begin; });
        for (size_t i = 1; i < ranges.size(); ++i)
            if (ranges[i].first.begin < ranges[i - 1].first.end)
                return std::max(ranges[i].second, ranges[i - 1].second);
        return -1;
    }
};

}    // namespace gradstep::bindings
