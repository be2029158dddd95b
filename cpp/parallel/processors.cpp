#include "processors.hpp"

#include <algorithm>
#include <cstdlib>

#include "platform.hpp"

namespace gradstep::parallel {

int default_threads(int most) {
    int count = platform::affinity_count();
    if (int quota = platform::quota_count()) count = std::min(count, quota);
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
