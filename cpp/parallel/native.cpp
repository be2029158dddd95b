#include "native.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "job.hpp"
#include "platform.hpp"

namespace gradstep::parallel::native {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

// Chosen on two cores with benchmarks/report.py wake: with cold_bytes at 1 MiB, steps of 50,000 to
// 130,000 elements after a pause took 1.2 to 1.5 times as long as on one thread.
constexpr int64_t cold_bytes = 4 << 20;          // from here on sleepers are woken after any pause
constexpr auto recently = microseconds(200);     // so soon after the last call they are, too
constexpr auto spin_time = microseconds(100);    // how long a worker stays awake for the next call

// The caller publishes its chunks as shares and works on them itself; workers that are awake take
// part, and it waits only for chunks that were taken. So a worker that is slow to wake costs
// nothing.
class Team {
public:
    bool run(int64_t chunks, int64_t bytes, int threads, bool eager, Body body, void* context) {
        std::unique_lock<std::mutex> lock(in_use_, std::try_to_lock);
        if (!lock.owns_lock()) return false;
        const bool wake = bytes >= cold_bytes || eager || Clock::now() - last_end_ < recently;
        if (wake) hire(threads - 1);
        if (!wake && asleep_.load() == int(workers_.size())) {
            for (int64_t chunk = 0; chunk < chunks; ++chunk) body(context, chunk);
            last_end_ = Clock::now();
            return true;
        }
        platform::keep_off_this_processor(workers_, caller_processor_);

        job_.begin(chunks, threads, body, context);
        round_.fetch_add(1);
        if (wake && asleep_.load() > 0) wake_one();

        job_.work(0);
        for (int spins = 0; !job_.is_finished(); ++spins) {
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
    Job job_;
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
            job_.work(self);    // it runs nothing else: there is no denormal mode to put back
            if (self >= job_.share_count()) sleep(seen);    // let go
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
};

// Never destroyed: its threads live as long as the process. A child of fork has none of them and
// starts with a team of its own.
std::atomic<Team*> the_team{nullptr};

Team& team() {
    static std::once_flag once;
    std::call_once(once, [] {
        the_team = new Team;
        platform::call_in_children([] { the_team = new Team; });
    });
    return *the_team;
}

}    // namespace

bool run(int64_t chunks, int64_t bytes, int threads, bool eager, Body body, void* context) {
    return team().run(chunks, bytes, threads, eager, body, context);
}

}    // namespace gradstep::parallel::native
