#include "pipeline.hpp"

#include <algorithm>

#include "parallel.hpp"

namespace gradstep::pipeline {

namespace {
// What a tensor costs besides its elements, in elements: finding it, resolving, the loop's ends.
constexpr int64_t tensor_cost = 64;
// A sum's unit: fixed, so that the order of additions does not follow the threads.
constexpr int64_t segment_elements = 128 * block_elements;
}    // namespace

void Flat::clear() {
    size_.clear();
    start_.assign(1, 0);
}

void Flat::add(int64_t n) {
    size_.push_back(n);
    start_.push_back(start_.back() + tensor_cost + n);
}

Flat::Cut Flat::cut(int64_t share, int64_t shares) const {
    // total * share / shares without the overflow of the product
    int64_t at = total() / shares * share + total() % shares * share / shares;
    size_t item = size_t(std::upper_bound(start_.begin(), start_.end(), at) - start_.begin()) - 1;
    if (item == size_.size()) return {item, 0};
    int64_t element = std::max<int64_t>(at - start_[item] - tensor_cost, 0);
    return {item, element / block_elements * block_elements};
}

void step(const Table& table, const RuleInfo& rule, const std::vector<Tensor>& tensors,
          const std::vector<const void*>& gradients, const int64_t* counts,
          const std::vector<Group>& groups, Scratch& scratch) {
    Flat& flat = scratch.flat;
    flat.clear();
    scratch.active.clear();
    scratch.scalars.clear();
    scratch.resolved.assign(groups.size(), {});
    int64_t bytes = 0;
    for (size_t i = 0; i < tensors.size(); ++i) {
        const Tensor& tensor = tensors[i];
        const Group& group = groups[size_t(tensor.group)];
        if (!gradients[i] || group.frozen || tensor.n == 0) continue;
        const Kernel* kernel = &rule.kernel(tensor.storage, tensor.options);
        auto& last = scratch.resolved[size_t(tensor.group)];
        const int64_t t = counts[i] + 1;
        if (last.kernel != kernel || last.t != t) {
            last = {kernel, t, scratch.scalars.size()};
            scratch.scalars.emplace_back();
            kernel->resolve(group.hyper, t, scratch.scalars.back().bytes);
        }
        scratch.active.push_back({i, kernel, last.scalars});
        flat.add(tensor.n);
        int streams = 3;    // p read and written, g read
        for (int s = 0; s < rule.state_count; ++s) streams += 2 * (tensor.state[s] != nullptr);
        bytes += tensor.n * streams * table.storages[tensor.storage].bytes;
    }

    const int64_t chunks = parallel::chunks_for(bytes);
    parallel::for_chunks(chunks, bytes, [&](int64_t chunk) {
        flat.each(chunk, chunks, [&](size_t item, int64_t first, int64_t end) {
            const Scratch::Active& active = scratch.active[item];
            const Tensor& tensor = tensors[active.tensor];
            const int64_t size = table.storages[tensor.storage].bytes;
            auto at = [&](void* start) { return static_cast<char*>(start) + first * size; };
            Piece piece = {at(tensor.p),
                           static_cast<const char*>(gradients[active.tensor]) + first * size,
                           {},
                           end - first};
            for (int s = 0; s < rule.state_count; ++s)
                if (tensor.state[s]) piece.state[s] = at(tensor.state[s]);
            active.kernel->update(scratch.scalars[active.scalars].bytes,
                                  groups[size_t(tensor.group)].gradient_factor, piece);
        });
    });
}

double sum_squares(const Table& table, const std::vector<Span>& spans) {
    std::vector<size_t> first_segment{0};
    int64_t bytes = 0;
    for (const Span& span : spans) {
        first_segment.push_back(first_segment.back() +
                                size_t((span.n + segment_elements - 1) / segment_elements));
        bytes += span.n * table.storages[span.storage].bytes;
    }
    std::vector<double> sums(first_segment.back());
    parallel::for_chunks(int64_t(sums.size()), bytes, [&](int64_t segment) {
        size_t i =
            size_t(std::upper_bound(first_segment.begin(), first_segment.end(), size_t(segment)) -
                   first_segment.begin()) -
            1;
        const Span& span = spans[i];
        const StorageInfo& storage = table.storages[span.storage];
        const int64_t begin = (segment - int64_t(first_segment[i])) * segment_elements;
        const int64_t end = std::min(begin + segment_elements, span.n);
        double sum = 0;
        for (int64_t at = begin; at < end; at += block_elements)
            sum += storage.sum_squares(static_cast<const char*>(span.data) + at * storage.bytes,
                                       std::min(block_elements, end - at));
        sums[size_t(segment)] = sum;
    });
    double total = 0;
    for (double sum : sums) total += sum;
    return total;
}

void move(const Table& table, const std::vector<Streams>& tensors) {
    Flat flat;
    int64_t bytes = 0;
    for (const Streams& tensor : tensors) {
        flat.add(tensor.n);
        bytes += tensor.n * (2 * tensor.count + 1) * int64_t(sizeof(float));
    }
    const int64_t chunks = parallel::chunks_for(bytes);
    parallel::for_chunks(chunks, bytes, [&](int64_t chunk) {
        flat.each(chunk, chunks, [&](size_t item, int64_t first, int64_t end) {
            const Streams& tensor = tensors[item];
            float* arrays[max_states + 1];
            for (int i = 0; i < tensor.count; ++i) arrays[i] = tensor.arrays[i] + first;
            table.move(arrays, tensor.count, tensor.gradient + first, end - first);
        });
    });
}

}    // namespace gradstep::pipeline
