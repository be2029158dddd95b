// The loops. Each file in targets/ defines GRADSTEP_TARGET and includes this one, so it is compiled
// once per instruction set, into an unnamed namespace: no function of one target can be chosen by
// the linker for another. For the same reason nothing of std:: that has code may be used here.
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "table.hpp"

namespace {

using gradstep::Coding;
using gradstep::GatherLanes;
using gradstep::Kernel;
using gradstep::LaneSums;
using gradstep::lanes;
using gradstep::Loops;
using gradstep::Measured;
using gradstep::Pairing;
using gradstep::Piece;
using gradstep::Role;
using gradstep::RuleInfo;
using gradstep::ScheduleInfo;
using gradstep::Stages;
using gradstep::State;
using gradstep::StorageInfo;
using gradstep::Sums;
using gradstep::When;

#include "rules/catalogue.hpp"
#include "storage/catalogue.hpp"

#include "kernels/sums.inl"
#include "kernels/storages.inl"
#include "kernels/rules.inl"
#include "kernels/stages.inl"
#include "kernels/schedules.inl"
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
