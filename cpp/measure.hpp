// What the sums of segments, or of a sample of blocks, say of each group.
#pragma once
#include "walk.hpp"

namespace gradstep::pipeline {

// Adds up the statistics of a step, group by group. counts: the updates each tensor had before it.
void measure(const std::vector<Tensor>& tensors, const std::vector<Group>& groups,
             const int64_t* counts, const Settings& settings, Scratch& scratch, Sums* group_sums);

}    // namespace gradstep::pipeline
