#include "openmp.hpp"

#include <dlfcn.h>
#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "job.hpp"
#include "platform.hpp"

namespace gradstep::parallel::openmp {

namespace {

// ---- the runtime ----

// The entry that GNU's, LLVM's and Intel's runtimes have, and OpenMP's own functions.
using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
using Number = int (*)();

std::atomic<Parallel> begin_parallel{nullptr};
Number thread_number = nullptr, thread_count = nullptr, in_parallel = nullptr;

// A runtime hangs in a child if its parent ever ran a region, ours or not: it is left alone there.
std::atomic<bool> forked{false};

template <class F> F entry(void* library, const char* name) {
    return reinterpret_cast<F>(dlsym(library, name));
}

// Of a loaded library and all that it was linked with; of these, the first that has it.
bool take_from(const char* library) {
    void* const handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    if (!handle) return false;
    const auto parallel = entry<Parallel>(handle, "GOMP_parallel");
    thread_number = entry<Number>(handle, "omp_get_thread_num");
    thread_count = entry<Number>(handle, "omp_get_num_threads");
    in_parallel = entry<Number>(handle, "omp_in_parallel");
    if (!parallel || !thread_number || !thread_count || !in_parallel) return false;
    begin_parallel.store(parallel, std::memory_order_release);
    return true;    // and keep the handle: the library stays
}

bool is_known() { return begin_parallel.load(std::memory_order_acquire) != nullptr; }

// ---- the workers of a thread's regions ----

using Nanoseconds = int64_t;

// −1: there is no such clock, for its thread has ended.
Nanoseconds read(clockid_t clock) {
    timespec time;
    if (clock_gettime(clock, &time) != 0) return -1;
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

Nanoseconds now() { return read(CLOCK_MONOTONIC); }

// How much processor time a worker had spent at a time.
struct Look {
    Nanoseconds time = 0, spent = 0;
};

struct Pool {
    Job job;
    int size = 0;        // threads of the last region, the caller included; 0: there was none
    int asked = 0;       // for how many
    int next = 0;        // the worker to look at next, less 1
    int refusals = 0;    // since the workers that were known have ended
    int patience = 0;    // how many of these there are before they are met again
    clockid_t clocks[max_threads] = {};    // processor time of each worker; 0: the caller's
    Look looks[max_threads];
};

Pool& this_pool() {
    thread_local std::unique_ptr<Pool> pool;
    if (!pool) pool = std::make_unique<Pool>();
    return *pool;
}

void enter(void* given) {
    Pool& pool = *static_cast<Pool*>(given);
    const int self = thread_number();
    if (self == 0) pool.size = std::min(thread_count(), max_threads);
    if (self < max_threads) pthread_getcpuclockid(pthread_self(), &pool.clocks[self]);
    const FloatMode own = float_mode();
    pool.job.work(self);
    if (float_mode() != own) set_float_mode(own);
}

// A worker that has spent all the time since it was last looked at, but for so much, is awake.
constexpr Nanoseconds slack = 20000;
// Else it is looked at twice: one that runs has spent the time between, one that sleeps has not.
constexpr Nanoseconds glance = 1000;

Look look(clockid_t worker) {
    Look found;
    found.spent = read(worker);    // first: a first call takes its time before the clock is read
    found.time = now();
    return found;
}

bool runs(Pool& pool, int worker, bool& ended) {
    Look& last = pool.looks[worker];
    const Look first = look(pool.clocks[worker]);
    ended = first.spent < 0;
    if (ended) return false;
    const Nanoseconds slept = first.time - last.time - (first.spent - last.spent);
    last = first;
    if (slept < slack && slept > -slack) return true;
    while (now() - first.time < glance) pause();
    last = look(pool.clocks[worker]);
    return last.spent - first.spent > glance / 2;
}

}    // namespace

bool find(bool any) {
    static const bool registered = platform::call_in_children([] { forked = true; });
    static std::mutex finding;
    if (!registered || forked) return false;
    if (is_known()) return true;
    std::lock_guard<std::mutex> lock(finding);
    if (is_known() || take_from("libtorch_cpu.so")) return true;
    if (any)
        for (const char* library : {"libgomp.so.1", "libiomp5.so", "libomp.so.5", "libomp.so"})
            if (take_from(library)) return true;
    return false;
}

std::string runtime() {
    Dl_info found;
    if (!is_known() || !dladdr(reinterpret_cast<void*>(begin_parallel.load()), &found)) return "";
    return found.dli_fname;
}

bool is_free() { return is_known() && !forked && !in_parallel(); }

bool is_awake(int threads) {
    Pool& pool = this_pool();
    if (pool.asked != threads) return true;    // not met yet
    if (pool.size < 2) return false;           // the runtime gives no more
    pool.next = (pool.next + 1) % (pool.size - 1);
    bool ended;
    const bool awake = runs(pool, 1 + pool.next, ended);
    if (!ended) {
        if (awake) pool.patience = 0;
        return awake;
    }
    // The runtime has other workers now. Where that happens again and again, it is seldom asked.
    if (pool.refusals++ < pool.patience) return false;
    pool.refusals = 0;
    pool.patience = std::min(2 * pool.patience + 1, 63);
    return true;
}

void run(int64_t chunks, int threads, int pool_threads, Body body, void* context) {
    Pool& pool = this_pool();
    pool.asked = pool_threads;
    pool.job.begin(chunks, threads, body, context);
    // All threads, also where some have no share: a runtime ends those that a region leaves out.
    begin_parallel.load(std::memory_order_acquire)(enter, &pool, unsigned(pool_threads), 0);
}

}    // namespace gradstep::parallel::openmp
