#include "parallel.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif

namespace gradstep::parallel {
namespace {

constexpr uint64_t share_mask = 0xffffffffu;    // see Share

// ---- how many processors this process may use ----

int affinity_count() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
    return std::max(1u, std::thread::hardware_concurrency());
}

// The cgroup's processor quota, rounded up; 0 if there is none. Version 2 keeps "quota period" in
// cpu.max of each ancestor, version 1 has two files.
int quota_count() {
    double least = 0;
    auto take = [&](double quota, double period) {
        if (quota > 0 && period > 0 && (least == 0 || quota / period < least))
            least = quota / period;
    };
    std::ifstream groups("/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {
        size_t first = line.find(':'), second = line.find(':', first + 1);
        if (second == std::string::npos) continue;
        std::string controllers = line.substr(first + 1, second - first - 1);
        bool version2 = controllers.empty();
        if (!version2 && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
        std::string root = version2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
        std::string path = line.substr(second + 1);
        while (true) {
            std::string folder = root + (path == "/" ? "" : path);
            if (version2) {
                double quota = 0, period = 0;
                std::ifstream(folder + "/cpu.max") >> quota >> period;    // "max": stays 0
                take(quota, period);
            } else {
                double quota = 0, period = 0;
                std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
                std::ifstream(folder + "/cpu.cfs_period_us") >> period;
                take(quota, period);
            }
            if (path.empty() || path == "/") break;
            path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
        }
    }
    return int(least + 0.999);
}

int default_threads() {
    int count = affinity_count();
    if (int quota = quota_count()) count = std::min(count, quota);
    if (const char* text = std::getenv("OMP_NUM_THREADS")) {
        char* end = nullptr;
        const long wanted = std::strtol(text, &end, 10);    // of a list "4,2", the outermost level
        while (*end == ' ') ++end;
        const bool is_number = end != text && (*end == '\0' || *end == ',');    // 1e3 is none
        if (is_number && wanted > 0) count = int(std::min<long>(count, wanted));
    }
    return std::clamp(count, 1, max_threads);
}

std::atomic<int>& thread_count() {
    static std::atomic<int> count{default_threads()};
    return count;
}

// ---- how the processor treats denormals: the caller's mode holds for the whole step ----

#if defined(__x86_64__)
using FloatMode = unsigned;
FloatMode float_mode() { return _mm_getcsr(); }
void set_float_mode(FloatMode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
using FloatMode = uint64_t;
FloatMode float_mode() {
    FloatMode mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
void set_float_mode(FloatMode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
using FloatMode = int;
FloatMode float_mode() { return 0; }
void set_float_mode(FloatMode) {}
#endif

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// ---- our own team ----

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

// Chosen on two cores with benchmarks/report.py wake: with cold_bytes at 1 MiB, steps of 50,000 to
// 130,000 elements after a pause took 1.2 to 1.5 times as long as on one thread.
constexpr int64_t hot_bytes = 128 << 10;    // below this nobody is called, awake or not
constexpr int64_t cold_bytes = 4 << 20;     // from here on sleepers are woken after any pause
constexpr auto recently =
    microseconds(200);    // a call this soon after the last one wakes them too
constexpr auto spin_time = microseconds(100);    // how long a worker stays awake for the next call

std::atomic<bool> eager{false};

// Whether a call is too small to be shared with anybody.
bool too_small(int64_t chunks, int64_t bytes, int threads) {
    return threads < 2 || chunks < 2 || (bytes < hot_bytes && !eager);
}

// A share of the chunks, [next, end), in one word, so that taking one is a single exchange: the
// owner takes from the front and helpers from the back.
struct alignas(64) Share {
    std::atomic<uint64_t> word{0};

    static uint64_t pack(uint64_t next, uint64_t end) { return next << 32 | end; }

    int64_t take(bool front) {
        uint64_t old = word.load(std::memory_order_acquire);
        while (true) {
            uint64_t next = old >> 32, end = old & share_mask;
            if (next >= end) return -1;
            uint64_t now = front ? pack(next + 1, end) : pack(next, end - 1);
            if (word.compare_exchange_weak(old, now, std::memory_order_acq_rel))
                return int64_t(front ? next : end - 1);
        }
    }
};

void run_alone(int64_t chunks, Body body, void* context) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) body(context, chunk);
}

// The caller publishes its chunks as shares and works on them itself; workers that are awake take
// part, and it waits only for chunks that were taken. So a worker that is slow to wake costs
// nothing. Whoever takes a chunk sees the job it belongs to: a job cannot end before its chunks.
class Team {
public:
    // False: it is too small to share, or another caller has the team.
    bool run(int64_t chunks, int64_t bytes, int threads, Body body, void* context) {
        if (too_small(chunks, bytes, threads)) return false;
        std::unique_lock<std::mutex> lock(in_use_, std::try_to_lock);
        if (!lock.owns_lock()) return false;
        const bool wake = bytes >= cold_bytes || eager || Clock::now() - last_end_ < recently;
        if (wake) hire(threads - 1);
        if (!wake && asleep_.load() == int(workers_.size())) {
            run_alone(chunks, body, context);
            last_end_ = Clock::now();
            return true;
        }
        leave_this_processor();

        body_ = body;
        context_ = context;
        mode_ = float_mode();
        unfinished_.store(chunks, std::memory_order_relaxed);
        for (int i = 0; i < threads; ++i)
            shares_[i].word.store(Share::pack(chunks * i / threads, chunks * (i + 1) / threads),
                                  std::memory_order_release);
        share_count_.store(threads, std::memory_order_relaxed);
        round_.fetch_add(1);
        if (wake && asleep_.load() > 0) wake_one();

        work(0);
        for (int spins = 0; unfinished_.load(std::memory_order_acquire) > 0; ++spins) {
            if (spins < 20000)
                pause();
            else
                std::this_thread::yield();    // a worker lost its processor within a chunk
        }
        last_end_ = Clock::now();
        return true;
    }

private:
    std::mutex in_use_;
    Body body_ = nullptr;
    void* context_ = nullptr;
    FloatMode mode_ = 0;
    std::atomic<int64_t> unfinished_{0};
    std::atomic<int> share_count_{0};
    Share shares_[max_threads];
    std::atomic<uint32_t> round_{0};
    std::atomic<int> asleep_{0};
    std::mutex bed_;
    std::condition_variable alarm_;
    std::vector<std::thread> workers_;
    Clock::time_point last_end_{};
    int caller_processor_ = -1;

    void hire(int count) {
        try {
            while (int(workers_.size()) < count) {
                int self = int(workers_.size()) + 1;
                workers_.emplace_back([this, self] { live(self); });
                caller_processor_ = -1;    // the newcomer must be told, too
            }
        } catch (const std::system_error&) {
            // The system gives no more threads: those that exist share the work.
        }
    }

    void live(int self) {
        uint32_t seen = round_.load() - 1;
        while (true) {
            auto until = Clock::now() + spin_time;
            for (int spins = 1; round_.load(std::memory_order_acquire) == seen; ++spins) {
                pause();
                if (spins % 64 == 0 && Clock::now() > until) sleep(seen);
            }
            seen = round_.load(std::memory_order_acquire);
            work(self);
            if (self >= share_count_.load(std::memory_order_relaxed)) sleep(seen);    // let go
        }
    }

    // Sleeps until the round is no longer `seen`. The caller counts sleepers after it has begun a
    // round and a sleeper looks at the round after it has counted itself: one sees the other.
    void sleep(uint32_t seen) {
        {
            std::unique_lock<std::mutex> lock(bed_);
            asleep_.fetch_add(1);
            alarm_.wait(lock, [&] { return round_.load() != seen; });
            asleep_.fetch_sub(1);
        }
        if (asleep_.load() > 0) wake_one();    // the caller wakes one, each wakes the next
    }

    void wake_one() {
        { std::lock_guard<std::mutex> lock(bed_); }
        alarm_.notify_one();
    }

    void work(int self) {
        const int count = share_count_.load(std::memory_order_relaxed);
        if (self >= count) return;    // more were hired once than may work now
        for (int i = 0; i < count; ++i) {
            Share& share = shares_[(self + i) % count];
            for (int64_t chunk; (chunk = share.take(i == 0)) >= 0;) {
                // A worker runs nothing but chunks: there is no mode of its own to put back.
                if (float_mode() != mode_) set_float_mode(mode_);
                body_(context_, chunk);
                unfinished_.fetch_sub(1, std::memory_order_acq_rel);
            }
        }
    }

    // A woken worker must not be put on the processor its caller is busy on. The caller itself is
    // never bound.
    void leave_this_processor() {
#if defined(__linux__)
        int processor = sched_getcpu();
        if (processor < 0 || processor == caller_processor_) return;
        caller_processor_ = processor;
        cpu_set_t allowed;
        if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
        CPU_CLR(processor, &allowed);
        if (CPU_COUNT(&allowed) == 0) return;
        for (std::thread& worker : workers_)
            pthread_setaffinity_np(worker.native_handle(), sizeof allowed, &allowed);
#endif
    }
};

// Never destroyed: its threads live as long as the process. A child of fork has none of them and
// starts with a team of its own.
std::atomic<Team*> the_team{nullptr};

Team& native_team() {
    static std::once_flag once;
    std::call_once(once, [] {
        the_team = new Team;
#if defined(__unix__) || defined(__APPLE__)
        pthread_atfork(nullptr, nullptr, [] { the_team = new Team; });
#endif
    });
    return *the_team;
}

// ---- the OpenMP runtime's team ----

std::atomic<bool> use_openmp{false};
// libgomp hangs in a child if its parent ever ran a region, ours or not: the child works alone.
std::atomic<bool> forked{false};

bool run_openmp([[maybe_unused]] int64_t chunks, [[maybe_unused]] int64_t bytes,
                [[maybe_unused]] int threads, [[maybe_unused]] Body body,
                [[maybe_unused]] void* context) {
#if defined(_OPENMP)
    if (forked || too_small(chunks, bytes, threads)) return false;
    const FloatMode mode = float_mode();
#pragma omp parallel num_threads(threads)
    {
        const FloatMode own = float_mode();
        set_float_mode(mode);
#pragma omp for schedule(static)
        for (int64_t chunk = 0; chunk < chunks; ++chunk) body(context, chunk);
        set_float_mode(own);
    }
    return true;
#else
    return false;
#endif
}

}    // namespace

namespace {
thread_local int own_count = 0;    // 0: the count of the whole process
}

ThreadCount::ThreadCount(int count) : before_(own_count) {
    if (count > 0) own_count = std::min(count, max_threads);
}
ThreadCount::~ThreadCount() { own_count = before_; }

int threads() { return own_count > 0 ? own_count : int(thread_count()); }
void set_threads(int count) { thread_count() = count; }

void set_eager(bool value) { eager = value; }
const char* team() { return use_openmp ? "openmp" : "native"; }

bool force_team(const std::string& name) {
#if defined(_OPENMP)
    static const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
    if (name == "openmp" && registered == 0) return use_openmp = true;
#endif
    if (name != "native") return false;
    use_openmp = false;
    return true;
}

int64_t chunks_for(int64_t bytes) {
    const int64_t smallest = eager ? 8 << 10 : 64 << 10;
    return std::clamp<int64_t>(bytes / smallest, 1, 16 * int64_t(threads()));
}

void run(int64_t chunks, int64_t bytes, Body body, void* context) {
    const int count = int(std::min<int64_t>(threads(), chunks));
    const bool shared = use_openmp ? run_openmp(chunks, bytes, count, body, context)
                                   : native_team().run(chunks, bytes, count, body, context);
    if (!shared) run_alone(chunks, body, context);
}

}    // namespace gradstep::parallel
