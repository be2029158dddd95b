// What each operating system does in its own way: platform_linux.cpp, platform_macos.cpp,
// platform_windows.cpp, of which CMakeLists.txt compiles one.
#pragma once
#include <cstdint>
#include <thread>
#include <vector>

namespace gradstep::parallel::platform {

// How many processors this process may run on (at least 1), and how many it may use up, rounded up
// (0: there is no such quota).
int affinity_count();
int quota_count();

// A woken worker must not be put on the processor its caller is busy on. The caller itself is never
// bound. last: the processor that the workers keep off already, −1 at first.
void keep_off_this_processor(std::vector<std::thread>& workers, int& last);

// Has every child of fork call it, where there is fork; false: it was not registered.
bool call_in_children(void (*function)());

// Asks for large pages under new memory; a refusal changes nothing.
void want_large_pages(void* data, int64_t bytes);

}    // namespace gradstep::parallel::platform
