// The team of an OpenMP runtime that another library has loaded: PyTorch's. It is found among what
// is in the process and never linked, so there is never a second runtime.
#pragma once
#include <cstdint>
#include <string>

#include "../parallel.hpp"

namespace gradstep::parallel::openmp {

// Looks for the runtime that PyTorch was linked with (any: or another that somebody has loaded);
// whether one is known now. Never in a child of fork: its regions might hang there.
bool find(bool any);

// The file of the runtime that is known; empty: none.
std::string runtime();

// Whether a region may begin here: one is known, and the caller is in none already.
bool is_free();

// Whether the workers that this thread's regions get run at this moment, so that a region of so
// many threads begins at once and closes at once. Only their processor time tells: a runtime does
// not. True also for workers that were never met, since only a region meets them.
bool is_awake(int threads);

// Every thread of the region is waited for, so a worker that sleeps costs what its waking takes.
// pool: how many threads the regions of this thread have; work is shared among `threads` of them.
void run(int64_t chunks, int threads, int pool, Body body, void* context);

}    // namespace gradstep::parallel::openmp
