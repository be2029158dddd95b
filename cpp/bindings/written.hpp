// The bytes that a step writes, and whether a gradient lies among them.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

namespace gradstep::bindings {

struct Range {
    const char* begin;
    const char* end;
};

class Written {
public:
    void add(const char* begin, int64_t bytes) {
        if (bytes > 0) ranges_.push_back({begin, begin + bytes});
    }

    // To be called when all is added. gradients: how many a step may have.
    void prepare(size_t gradients) {
        std::sort(ranges_.begin(), ranges_.end(),
                  [](const Range& a, const Range& b) { return a.begin < b.begin; });
        gaps_.assign(gradients, {nullptr, nullptr});
    }

    // Whether gradient i shares bytes with anything that a step writes. Loops that allocate alike
    // put a gradient back into the same gap, or next to the one before it, so the search is rare.
    bool overlaps(size_t i, const char* begin, int64_t bytes) {
        const char* end = begin + bytes;
        Range& gap = gaps_[i];
        auto lies_in = [&](const Range& free) { return begin >= free.begin && end <= free.end; };
        if (begin == end || lies_in(last_gap_)) return false;
        if (lies_in(gap)) {
            last_gap_ = gap;
            return false;
        }
        auto after = std::upper_bound(
            ranges_.begin(), ranges_.end(), begin,
            [](const char* address, const Range& range) { return address < range.end; });
        if (after != ranges_.end() && after->begin < end) return true;
        gap.begin = after == ranges_.begin() ? nullptr : (after - 1)->end;
        gap.end =
            after == ranges_.end() ? reinterpret_cast<const char*>(UINTPTR_MAX) : after->begin;
        last_gap_ = gap;
        return false;
    }

private:
    std::vector<Range> ranges_;    // sorted
    std::vector<Range> gaps_;      // per gradient: the unwritten bytes around where it lay last
    Range last_gap_ = {nullptr, nullptr};    // and around the last gradient of all
};

}    // namespace gradstep::bindings
