#include "dispatch.hpp"

#include <atomic>

#include "cpuid.hpp"

namespace gradstep::targets {
extern const Table baseline, sse4, avx2, avx512, neon;
}

namespace gradstep::dispatch {
namespace {

struct Found {
    std::vector<const Table*> tables;    // from the slowest to the fastest
    std::vector<Refused> refused;
};

const Found& found() {
    static const Found once = [] {
        Found found;
#if defined(__x86_64__)
        const cpuid::Registers registers = cpuid::read();
        for (const Table* table :
             {&targets::baseline, &targets::sse4, &targets::avx2, &targets::avx512}) {
            const std::string why = cpuid::refusal(table->name, registers);
            if (why.empty())
                found.tables.push_back(table);
            else
                found.refused.push_back({table->name, why});
        }
#elif defined(__aarch64__)
        found.tables.push_back(&targets::neon);
#else
        found.tables.push_back(&targets::baseline);
#endif
        return found;
    }();
    return once;
}

const std::vector<const Table*>& tables() { return found().tables; }

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

std::vector<Refused> refused() { return found().refused; }

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
