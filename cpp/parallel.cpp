#include "parallel.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "parallel/native.hpp"
#include "parallel/openmp.hpp"
#include "parallel/processors.hpp"

namespace gradstep::parallel {
namespace {

// Below this a call is not shared, awake as others may be: to share takes a microsecond or two,
// and to look whether a runtime's workers are awake as much again (9,600 parameters of AdamW right
// after a product, 270 KiB: shared in 0.88 of one thread's time, with the look in 1.00).
constexpr int64_t hot_bytes = 128 << 10, look_bytes = 320 << 10;

enum class Choice { automatic, native, openmp };
std::atomic<Choice> choice{Choice::automatic};
std::atomic<bool> eager{false};

std::atomic<int>& thread_count() {
    static std::atomic<int> count{default_threads(max_threads)};
    return count;
}

thread_local int own_count = 0;    // 0: the count of the whole process

std::atomic<int64_t> calls_alone{0}, calls_native{0}, calls_openmp{0};

void note(std::atomic<int64_t>& counter) { counter.fetch_add(1, std::memory_order_relaxed); }

bool run_openmp(int64_t chunks, int64_t bytes, int threads_wanted, Body body, void* context) {
    const Choice chosen = choice;
    if (chosen == Choice::native) return false;
    if (chosen == Choice::automatic && (eager || bytes < look_bytes)) return false;
    if (chosen == Choice::openmp && !openmp::find(true)) return false;
    const int pool = threads();
    if (!openmp::is_free() || (chosen == Choice::automatic && !openmp::is_awake(pool)))
        return false;
    openmp::run(chunks, threads_wanted, pool, body, context);
    return true;
}

}    // namespace

ThreadCount::ThreadCount(int count) : before_(own_count) {
    if (count > 0) own_count = std::min(count, max_threads);
}
ThreadCount::~ThreadCount() { own_count = before_; }

PlainFloats::PlainFloats() : before_(float_mode()) { set_float_mode(plain_floats); }
PlainFloats::~PlainFloats() { set_float_mode(FloatMode(before_)); }

int threads() { return own_count > 0 ? own_count : int(thread_count()); }
void set_threads(int count) { thread_count() = count; }

void set_eager(bool value) { eager = value; }

const char* team() {
    const Choice chosen = choice;
    return chosen == Choice::automatic ? "auto" : chosen == Choice::native ? "native" : "openmp";
}

bool force_team(const std::string& name) {
    if (name == "auto")
        choice = Choice::automatic;
    else if (name == "native")
        choice = Choice::native;
    else if (name == "openmp")
        choice = Choice::openmp;
    else
        return false;
    return true;
}

bool find_openmp() { return openmp::find(choice == Choice::openmp); }
std::string openmp_runtime() { return openmp::runtime(); }

int64_t chunks_for(int64_t bytes) {
    const int64_t smallest = eager ? 8 << 10 : 64 << 10;
    return std::clamp<int64_t>(bytes / smallest, 1, 16 * int64_t(threads()));
}

void wait_for_ever() {
    while (true) std::this_thread::sleep_for(std::chrono::hours(1));
}

Calls calls() { return {calls_alone, calls_native, calls_openmp}; }

void run(int64_t chunks, int64_t bytes, Body body, void* context) {
    const int count = int(std::min<int64_t>(threads(), chunks));
    if (count >= 2 && (bytes >= hot_bytes || eager)) {
        if (run_openmp(chunks, bytes, count, body, context)) return note(calls_openmp);
        if (choice != Choice::openmp && native::run(chunks, bytes, count, eager, body, context))
            return note(calls_native);
    }
    for (int64_t chunk = 0; chunk < chunks; ++chunk) body(context, chunk);
    note(calls_alone);
}

}    // namespace gradstep::parallel
