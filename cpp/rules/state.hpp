// A number that a rule keeps for each parameter from step to step.
#pragma once

namespace gradstep {

// What a state means decides how few bits can hold it.
enum class Role {
    momentum,         // an average of signed numbers
    second_moment,    // an average or sum of squares: never negative, and never rounded to nothing
    maximum,          // the largest second moment so far: must not creep up by rounding
};

struct State {
    const char* name;    // PyTorch's name, the one in checkpoints
    Role role;
    const char* option = nullptr;     // the hyperparameter that switches it on; none: always there
    const char* initial = nullptr;    // the hyperparameter it starts from; none: zero
};

}    // namespace gradstep
