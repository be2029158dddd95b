// New memory.
#pragma once
#include <cstdint>

namespace gradstep::parallel {

// Writes zeros to memory that nobody has touched yet: in large pages where the system offers them,
// and by all threads, so that each page is first touched by one of those that will use it.
void zero_new(void* data, int64_t bytes);

}    // namespace gradstep::parallel
