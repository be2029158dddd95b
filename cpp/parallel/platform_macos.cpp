// macOS, and whatever else has POSIX threads and nothing of its own here: threads cannot be bound,
// there are no quotas, and pages have one size.
#include <pthread.h>

#include <algorithm>

#include "platform.hpp"

namespace gradstep::parallel::platform {

int affinity_count() { return int(std::max(1u, std::thread::hardware_concurrency())); }
int quota_count() { return 0; }
void keep_off_this_processor(std::vector<std::thread>&, int&) {}
bool call_in_children(void (*function)()) {
    return pthread_atfork(nullptr, nullptr, function) == 0;
}
void want_large_pages(void*, int64_t) {}

}    // namespace gradstep::parallel::platform
