#include "dispatch.hpp"

#include <atomic>

namespace gradstep::targets {
extern const Table baseline, sse4, avx2, avx512, neon;
}

namespace gradstep::dispatch {
namespace {

// From the slowest to the fastest.
const std::vector<const Table*>& tables() {
    static const std::vector<const Table*> list = [] {
        std::vector<const Table*> found;
#if defined(__aarch64__)
        found.push_back(&targets::neon);
#else
        found.push_back(&targets::baseline);
#endif
#if defined(__x86_64__)
        __builtin_cpu_init();
        if (__builtin_cpu_supports("sse4.1")) found.push_back(&targets::sse4);
        if (__builtin_cpu_supports("avx2")) found.push_back(&targets::avx2);
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
            found.push_back(&targets::avx512);
#endif
        return found;
    }();
    return list;
}

std::atomic<const Table*>& selected() {
    static std::atomic<const Table*> table{tables().back()};
    return table;
}

}    // namespace

const Table& current() { return *selected().load(std::memory_order_relaxed); }

std::vector<std::string> available() {
    std::vector<std::string> names;
    for (const Table* table : tables()) names.push_back(table->name);
    return names;
}

bool force(const std::string& name) {
    for (const Table* table : tables()) {
        if (name == table->name) {
            selected() = table;
            return true;
        }
    }
    return false;
}

}    // namespace gradstep::dispatch

namespace gradstep {

int find_storage(const Table& table, std::string_view name) {
    for (int i = 0; i < table.storage_count; ++i)
        if (name == table.storages[i].name) return i;
    return -1;
}

}    // namespace gradstep
