// Linux: affinity, cgroups, large pages.
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "platform.hpp"

namespace gradstep::parallel::platform {

int affinity_count() {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
    return int(std::max(1u, std::thread::hardware_concurrency()));
}

// The cgroup's processor quota, rounded up. Version 2 keeps "quota period" in
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

void keep_off_this_processor(std::vector<std::thread>& workers, int& last) {
    const int processor = sched_getcpu();
    if (processor < 0 || processor == last) return;
    last = processor;
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    CPU_CLR(processor, &allowed);
    if (CPU_COUNT(&allowed) == 0) return;
    for (std::thread& worker : workers)
        pthread_setaffinity_np(worker.native_handle(), sizeof allowed, &allowed);
}

bool call_in_children(void (*function)()) {
    return pthread_atfork(nullptr, nullptr, function) == 0;
}

void want_large_pages(void* data, int64_t bytes) {
    // Those that lie whole within it.
    constexpr uintptr_t page = 2 << 20;
    const uintptr_t first = (uintptr_t(data) + page - 1) & ~(page - 1),
                    end = (uintptr_t(data) + uintptr_t(bytes)) & ~(page - 1);
    if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
}

}    // namespace gradstep::parallel::platform
