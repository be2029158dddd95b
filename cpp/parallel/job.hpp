// One call's chunks, in shares that threads take from.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>

#include "../parallel.hpp"
#include "processors.hpp"

namespace gradstep::parallel {

// A share of the chunks, [next, end), in one word, so that taking one is a single exchange: the
// owner takes from the front and helpers from the back.
struct alignas(64) Share {
    std::atomic<uint64_t> word{0};

    static uint64_t pack(uint64_t next, uint64_t end) { return next << 32 | end; }

    int64_t take(bool front) {
        constexpr uint64_t mask = 0xffffffffu;
        uint64_t old = word.load(std::memory_order_acquire);
        while (true) {
            uint64_t next = old >> 32, end = old & mask;
            if (next >= end) return -1;
            uint64_t now = front ? pack(next + 1, end) : pack(next, end - 1);
            if (word.compare_exchange_weak(old, now, std::memory_order_acq_rel))
                return int64_t(front ? next : end - 1);
        }
    }
};

// Each thread begins with its own share, the same at every call, and then helps the others. The
// caller's denormal mode holds in all of them. Whoever takes a chunk sees the job it belongs to: a
// job cannot end before its chunks.
class Job {
public:
    // From the caller, before any thread may work on it.
    void begin(int64_t chunks, int threads, Body body, void* context) {
        body_ = body;
        context_ = context;
        mode_ = float_mode();
        unfinished_.store(chunks, std::memory_order_relaxed);
        for (int i = 0; i < threads; ++i)
            shares_[i].word.store(Share::pack(chunks * i / threads, chunks * (i + 1) / threads),
                                  std::memory_order_release);
        share_count_.store(threads, std::memory_order_relaxed);
    }

    // Works on all that nobody has taken yet. self: 0, the caller, and up.
    void work(int self) {
        const int count = share_count();
        if (self >= count) return;    // there are more threads than may work now
        for (int i = 0; i < count; ++i) {
            Share& share = shares_[(self + i) % count];
            for (int64_t chunk; (chunk = share.take(i == 0)) >= 0;) {
                if (float_mode() != mode_) set_float_mode(mode_);
                body_(context_, chunk);
                unfinished_.fetch_sub(1, std::memory_order_acq_rel);
            }
        }
    }

    int share_count() const { return share_count_.load(std::memory_order_relaxed); }
    bool is_finished() const { return unfinished_.load(std::memory_order_acquire) == 0; }

private:
    Body body_ = nullptr;
    void* context_ = nullptr;
    FloatMode mode_ = 0;
    std::atomic<int64_t> unfinished_{0};
    std::atomic<int> share_count_{0};
    Share shares_[max_threads];
};

}    // namespace gradstep::parallel
