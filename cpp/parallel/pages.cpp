#include "pages.hpp"

#include <cstring>

#include "../parallel.hpp"
#include "platform.hpp"

namespace gradstep::parallel {

void zero_new(void* data, int64_t bytes) {
    char* const begin = static_cast<char*>(data);
    platform::want_large_pages(data, bytes);
    const int64_t chunks = chunks_for(bytes);
    for_chunks(chunks, bytes, [&](int64_t chunk) {
        const int64_t from = bytes * chunk / chunks, to = bytes * (chunk + 1) / chunks;
        std::memset(begin + from, 0, size_t(to - from));
    });
}

}    // namespace gradstep::parallel
