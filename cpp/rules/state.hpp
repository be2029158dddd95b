// What a rule keeps for each parameter from step to step, and when a step comes.
#pragma once

namespace gradstep {

// What a state means decides how few bits can hold it.
enum class Role {
    momentum,         // an average of signed numbers
    second_moment,    // an average or sum of squares: never negative, and never rounded to nothing
    maximum,          // the largest second moment so far: must not creep up by rounding
    parameter,        // another point among the parameters: it starts as the parameter
    direction,        // where a step is to go, within that step alone: no state, never saved
};
constexpr int role_count = 5;

// How a state is rounded unless somebody asks for another way. Nearest would stall a second moment:
// what one step adds to it is less than half a unit. (A storage may add to this: see q4.)
constexpr bool stochastic_by_default(Role role) { return role == Role::second_moment; }

struct State {
    const char* name;    // PyTorch's name, the one in checkpoints
    Role role;
    const char* option = nullptr;     // the hyperparameter that it is used with; none: always
    const char* initial = nullptr;    // the hyperparameter it starts from; none: zero
    bool gathered =
        false;    // in a rule of two passes: changes in the first, is read in the second
};

// How many combinations of storages get a loop of their own for a rule; all others go through
// scratch in the first-level cache.
enum class Loops { few, all };

// When a step comes, for one parameter.
struct When {
    int64_t t;     // the parameter's own updates, this one included: from 1
    bool first;    // none of them has used the states yet
};

}    // namespace gradstep
