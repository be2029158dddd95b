// Our own team: workers that are never waited for unless they took work.
#pragma once
#include <cstdint>

#include "../parallel.hpp"

namespace gradstep::parallel::native {

// False, and nothing was done: another caller has the team. eager: sleepers are woken for anything.
bool run(int64_t chunks, int64_t bytes, int threads, bool eager, Body body, void* context);

}    // namespace gradstep::parallel::native
