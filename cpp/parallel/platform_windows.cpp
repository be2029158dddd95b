// Windows: there is no fork; large pages take a privilege; threads stay where the system puts them.
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX 1
#include <windows.h>

#include <algorithm>

#include "platform.hpp"

namespace gradstep::parallel::platform {

// Of the processor group that the process is in: its threads leave it only where they are told to.
int affinity_count() {
    DWORD_PTR own = 0, system = 0;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &own, &system) || own == 0)
        return int(std::max(1u, std::thread::hardware_concurrency()));
    int count = 0;
    for (; own != 0; own &= own - 1) ++count;
    return count;
}

int quota_count() { return 0; }
void keep_off_this_processor(std::vector<std::thread>&, int&) {}
bool call_in_children(void (*)()) { return true; }
void want_large_pages(void*, int64_t) {}

}    // namespace gradstep::parallel::platform
