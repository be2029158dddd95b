// Which target runs: the best one this processor has, or the one that was asked for by name; and
// finding rules and storages in a target's table by name.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "table.hpp"

namespace gradstep::dispatch {

const Table& current();
std::vector<std::string> available();    // from the slowest to the fastest

// A target of this build that is not available, and why.
struct Refused {
    std::string name, why;
};
std::vector<Refused> refused();

bool force(const std::string& name);    // false, and nothing changes, if it is not available

}    // namespace gradstep::dispatch

namespace gradstep {

int find_storage(const Table& table, std::string_view name);    // its index; -1: there is none

}    // namespace gradstep
