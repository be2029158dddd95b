#include "processors.hpp"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace gradstep::parallel {
namespace {

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

}    // namespace

int default_threads(int most) {
    int count = affinity_count();
    if (int quota = quota_count()) count = std::min(count, quota);
    if (const char* text = std::getenv("OMP_NUM_THREADS")) {
        char* end = nullptr;
        const long wanted = std::strtol(text, &end, 10);    // of a list "4,2", the outermost level
        while (*end == ' ') ++end;
        const bool is_number = end != text && (*end == '\0' || *end == ',');    // 1e3 is none
        if (is_number && wanted > 0) count = int(std::min<long>(count, wanted));
    }
    return std::clamp(count, 1, most);
}

}    // namespace gradstep::parallel
