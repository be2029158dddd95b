#include "measure.hpp"

namespace gradstep::pipeline {

namespace {

struct Range {
    size_t begin, end;
};

// Which sums are a tensor's: its segments', or the sampled blocks among its own.
Range sums_of(const Tensor& tensor, const Scratch::Active& active, const Settings& settings) {
    if (settings.measure == Settings::everything)
        return {active.first_segment, active.first_segment + active.segments};
    const int64_t every = settings.sample_every;
    return {size_t((tensor.first_block + every - 1) / every),
            size_t((tensor.first_block + count_blocks(tensor) + every - 1) / every)};
}

// Scales the sums of a sample to those of all elements.
void extrapolate(int64_t elements, size_t groups, Sums* sums) {
    double measured = 0;
    for (size_t g = 0; g < groups; ++g) measured += sums[g].elements;
    if (measured == 0) return;
    const double factor = double(elements) / measured;
    for (size_t g = 0; g < groups; ++g)
        for (double* sum : {&sums[g].raw_gradient, &sums[g].update, &sums[g].param,
                            &sums[g].gradient_momentum, &sums[g].momentum, &sums[g].gradient})
            *sum *= factor;
}

}    // namespace

void measure(const std::vector<Tensor>& tensors, const std::vector<Group>& groups,
             const int64_t* counts, const Settings& settings, Scratch& scratch, Sums* group_sums) {
    int64_t elements = 0;    // of those that a sample stands for
    for (size_t g = 0; g < groups.size(); ++g) group_sums[g] = {};
    for (const Scratch::Active& active : scratch.active) {
        const Tensor& tensor = tensors[active.tensor];
        if (!active.kernel || tensor.n == 0) continue;
        const Group& group = groups[size_t(tensor.group)];
        elements += tensor.n;
        const double correction =
            group.rule->moment_correction(group.hyper, counts[active.tensor] + 1);
        const Range range = sums_of(tensor, active, settings);
        for (size_t i = range.begin; i < range.end; ++i) {
            scratch.sums[i].ratio *= correction;
            add(scratch.sums[i], group_sums[tensor.group]);
        }
    }
    if (settings.measure == Settings::sample) extrapolate(elements, groups.size(), group_sums);
}

}    // namespace gradstep::pipeline
