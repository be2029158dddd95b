// A number that a rule keeps for each parameter from step to step.
#pragma once

namespace gradstep {
struct State {
    const char* name;                 // PyTorch's name, the one in checkpoints
    const char* option = nullptr;     // the hyperparameter that switches it on; none: always there
    const char* initial = nullptr;    // the hyperparameter it starts from; none: zero
};
}    // namespace gradstep
