// What a rule keeps for each parameter from step to step, and when a step comes.
#pragma once

namespace gradstep {

// What a state means decides how few bits can hold it.
enum class Role {
    momentum,         // an average of signed numbers
    second_moment,    // an average or sum of squares: never negative, and never rounded to nothing
    maximum,          // the largest second moment so far: must not creep up by rounding
    parameter,        // another point among the parameters: it starts as the parameter
    magnitude,        // a size that decays slowly and is divided by, no square
    rate,             // a rate of each element that grows and shrinks by shares of itself
    direction,        // where a step goes: there within that step alone, never saved
};
constexpr int role_count = 7;

// How a state is rounded unless somebody asks for another way. Nearest would stall a second moment
// or a magnitude: what one step changes of it is less than half a unit. (A storage may add to this:
// see q4.)
constexpr bool stochastic_by_default(Role role) {
    return role == Role::second_moment || role == Role::magnitude;
}

// Which numbers a state has. Tensors of two or more dimensions have rows and columns: the last
// dimension counts columns, the one before it rows, and those before that matrices.
enum class Shape {
    same,       // one for each of the parameter
    rows,       // one for each row, where there are rows
    columns,    // one for each column, likewise
    vector,     // one for each of the parameter, where there are no rows
};

struct State {
    const char* name;    // PyTorch's name, the one in checkpoints
    Role role;
    const char* option = nullptr;     // the hyperparameter that it is used with; none: always
    const char* initial = nullptr;    // the hyperparameter it starts from; none: zero
    bool gathered = false;            // changes in the first of two passes, is read in the second
    bool fixed = false;               // no step changes it, such as where the parameter began
    Shape shape = Shape::same;
};

// How many combinations of storages get a loop of their own for a rule; all others go through
// scratch in the first-level cache.
enum class Loops { few, all };

// When a step comes, for one parameter.
struct When {
    int64_t t;                // the parameter's own updates, this one included: from 1
    bool first;               // no update has used the states yet
    bool has_rows = false;    // the parameter has rows, and the rule keeps numbers for them
    double epsilon = 0;       // from 1 to the next number in the parameter's dtype
    double loss = 0;          // what the gradients are of; times -1 with maximize
};

}    // namespace gradstep
