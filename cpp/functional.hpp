// A step as a pure call, for a host that has only buffers: what stays the same from call to call is
// a text, what changes comes and goes in buffers. Memory is the caller's throughout. Its interface
// is C's, since another module, perhaps built by another compiler, calls it.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gradstep::functional {

// What an element of a buffer is.
enum Type : int32_t { f32, f64, bf16, f16, i32, u32, s16, u8, boolean };

struct Buffer {
    void* data;
    int32_t type;    // a Type
    int32_t rank;
    const int64_t* shape;
};

// The text has a line for each of these, a word and what belongs to it, separated by spaces;
// numbers of double precision are their bits, 16 hexadecimal digits.
//
//   version V              the project's, first of all: both sides speak of the same
//   norm                   no step: the norm of the buffers that come in (u32, two)
//   after                  another buffer follows the count: of a call to be made before
//   begins                 a state may stay unused for some steps: whether one has used it
//                          comes behind the count (a boolean), and goes out there
//   first KEY              of the first leaf, for random bits; 0 without
//   update                 parameters stay, and their changes come out
//   group SIGN KERNELS     a group: 1 or -1, and a name in the catalogue, to the line's end
//   hyper X X ...          of the group before it, in the catalogue's order
//   leaves COUNT GROUP     so many leaves, one after the other, are of that group
//   state STORAGE          of each state: - (none), elements, or the storage of its blocks
//   stochastic TYPE BITS   which buffers of such a parameter are rounded stochastically
//   split                  parameters are bfloat16 with a lower half
//   copy TYPE              each parameter has a copy that the step fills
//   number WHERE SOURCE LEAST MOST SMALLEST WORDS
//                          a number of the step; what is not from LEAST to MOST, or lies
//                          between 0 and SMALLEST, is refused in these WORDS
//   clip_norm X, clip_value X, average X, seed N, skip, stats
//   report NAME ...        what the step says of itself, a number each
//
// WHERE is hyper:GROUP:COLUMN, clip_norm, clip_value, average, loss, loss_scale or norm (of all
// gradients). SOURCE is `input` (f32, f64, or u32, the two halves of an f64) or a schedule, (
// EXPRESSION ).
//
// Buffers that come in: the count of steps (i32); what `after` and `begins` ask for; each number
// that is an input; the rule's memory
// (u32, two for each of a leaf's numbers) where it has such; then of each leaf the parameter, its
// lower half, the gradient, the states, the average, those that there are. Buffers that go out: the
// count; what `begins` asks for; the memory; what is reported (f32, or a boolean); of each leaf the
// parameter (or its change), the lower half, the states, the average, the copy. All but changes,
// reports and copies lie where they came in, or have been copied there.
struct Call {
    const char* text;
    size_t text_size;
    const Buffer* in;
    size_t in_count;
    const Buffer* out;
    size_t out_count;
    char* error;    // filled with words where the call is refused
    size_t error_size;
};

// One step. 0: done; else it was refused, and nothing was changed.
int step(const Call& call);

// What a capsule of the compiled core points to.
struct Functions {
    int32_t version;    // of this interface
    int (*step)(const Call& call);
};
constexpr int32_t interface_version = 1;
constexpr const char* capsule_name = "gradstep.functional";

}    // namespace gradstep::functional
