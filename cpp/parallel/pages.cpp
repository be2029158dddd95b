#include "pages.hpp"

#include <algorithm>
#include <cstring>

#include "../parallel.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gradstep::parallel {

void zero_new(void* data, int64_t bytes) {
    char* const begin = static_cast<char*>(data);
#if defined(MADV_HUGEPAGE)
    // Of those that lie whole within it. A refusal changes nothing.
    constexpr uintptr_t page = 2 << 20;
    const uintptr_t first = (uintptr_t(begin) + page - 1) & ~(page - 1),
                    end = (uintptr_t(begin) + uintptr_t(bytes)) & ~(page - 1);
    if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
    const int64_t chunks = chunks_for(bytes);
    for_chunks(chunks, bytes, [&](int64_t chunk) {
        const int64_t from = bytes * chunk / chunks, to = bytes * (chunk + 1) / chunks;
        std::memset(begin + from, 0, size_t(to - from));
    });
}

}    // namespace gradstep::parallel
