// The thread team. The only place that knows threads, OpenMP, fork, denormal modes and affinity.
#pragma once
#include <cstdint>
#include <string>

namespace gradstep::parallel {

// How many threads a call may use, the caller included. At first: what the affinity mask, the
// cgroup's quota and OMP_NUM_THREADS allow.
constexpr int max_threads = 256;
int threads();
void set_threads(int count);    // 1 to max_threads

// While it lives, the calling thread's calls use another number of threads (0: the same).
class ThreadCount {
public:
    explicit ThreadCount(int count);
    ~ThreadCount();
    ThreadCount(const ThreadCount&) = delete;
    ThreadCount& operator=(const ThreadCount&) = delete;

private:
    int before_;
};

// Who shares a call's work with its caller:
// "auto": the workers of PyTorch's OpenMP runtime if they are awake, else our own threads.
// "native": our own threads alone, which are never waited for unless they took work.
// "openmp": a runtime that somebody has loaded, awake or not; every call waits for all of its
// workers. Nobody, where there is none.
const char* team();
bool force_team(const std::string& name);    // false, and nothing changes: there is no such choice

// Looks for a runtime that may be used among what the process has loaded; whether one is known.
bool find_openmp();
std::string openmp_runtime();    // its file; empty: none is known

// Who did the calls up to now, for tests and measurements.
struct Calls {
    int64_t alone, native, openmp;
};
Calls calls();

// While it lives, the calling thread and those that share its calls compute as IEEE 754 says:
// rounding to nearest, denormals kept.
class PlainFloats {
public:
    PlainFloats();
    ~PlainFloats();
    PlainFloats(const PlainFloats&) = delete;
    PlainFloats& operator=(const PlainFloats&) = delete;

private:
    uint64_t before_;
};

// Tests want every call shared, however small: then chunks are a block or so and sleepers are
// always woken.
void set_eager(bool eager);

// The calling thread does nothing more until the process ends.
[[noreturn]] void wait_for_ever();

// How many chunks to cut `bytes` bytes of work into: enough to share them evenly, and each large
// enough to be worth taking.
int64_t chunks_for(int64_t bytes);

// body(context, chunk) once for each chunk in [0, chunks), and returns when all are done. Each
// thread starts with the same share of the chunks at every call (caches, NUMA) and then helps the
// others. Which thread runs a chunk must not matter to its result. `bytes` of work in all decide
// whether other threads are worth waking. body must not throw.
using Body = void (*)(void* context, int64_t chunk);
void run(int64_t chunks, int64_t bytes, Body body, void* context);

template <class F> void for_chunks(int64_t chunks, int64_t bytes, const F& f) {
    run(
        chunks, bytes,
        [](void* context, int64_t chunk) { (*static_cast<const F*>(context))(chunk); },
        const_cast<F*>(&f));
}

}    // namespace gradstep::parallel
