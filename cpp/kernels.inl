// The loops. Each file in targets/ defines GRADSTEP_TARGET (and GRADSTEP_FEW_LOOPS, if it is for
// old processors) and includes this one, so it is compiled once per instruction set, into an
// unnamed namespace: no function of one target can be chosen by the linker for another. For the
// same reason nothing of std:: that has code may be used here.
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "table.hpp"

namespace {

using gradstep::Coding;
using gradstep::GatherLanes;
using gradstep::Kernel;
using gradstep::lanes;
using gradstep::LaneSums;
using gradstep::Loops;
using gradstep::Measured;
using gradstep::Pairing;
using gradstep::Piece;
using gradstep::Published;
using gradstep::Role;
using gradstep::RuleInfo;
using gradstep::ScheduleInfo;
using gradstep::Shape;
using gradstep::Stages;
using gradstep::State;
using gradstep::StorageInfo;
using gradstep::Sums;
using gradstep::When;

#include "rules/catalogue.hpp"
#include "storage/catalogue.hpp"

// sums: the same bits whatever the width of a vector
#include "kernels/sums.inl"

// storages: numbers as they lie in memory to an array of the compute type and back
#include "kernels/storages.inl"

// rows and columns: sums of squares, and states that have a number for each
#include "kernels/factored.inl"

// rules: each one's equation in a loop for every common combination of storages
#include "kernels/rules.inl"

// stages: what a step does to a block besides the rule
#include "kernels/stages.inl"

// schedules: one value, many, a run of them
#include "kernels/schedules.inl"

// the bare loop that a step's bytes are held against
#include "kernels/move.inl"

}    // namespace

#define GRADSTEP_TEXT_(x) #x
#define GRADSTEP_TEXT(x) GRADSTEP_TEXT_(x)

namespace gradstep::targets {
extern const Table GRADSTEP_TARGET;
const Table GRADSTEP_TARGET = {
    GRADSTEP_TEXT(GRADSTEP_TARGET),
    rules,
    sizeof(rules) / sizeof(RuleInfo),
    storages,
    sizeof(storages) / sizeof(StorageInfo),
    pairings,
    pairing_count,
    stages,
    fold_all,
    fold_gathered,
    schedules::infos,
    sizeof(schedules::infos) / sizeof(ScheduleInfo),
    move,
};
}    // namespace gradstep::targets
