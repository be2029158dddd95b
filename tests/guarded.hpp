// Memory between pages that may not be touched, for the self-test.
#pragma once
#include <cstddef>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX 1
#include <windows.h>
#undef near    // words that it takes for itself
#undef far
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

// An array lies against the last or the first of its pages.
class Guarded {
public:
    explicit Guarded(size_t bytes) {
        inner_ = (bytes + page_ - 1) / page_ * page_ + page_;
        base_ = static_cast<char*>(allocate(inner_ + 2 * page_));
        forbid(base_);
        forbid(base_ + page_ + inner_);
    }
    ~Guarded() { free(base_, inner_ + 2 * page_); }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;

    void* place(size_t bytes, bool at_end) { return base_ + page_ + (at_end ? inner_ - bytes : 0); }

private:
    const size_t page_ = page_size();
    char* base_;
    size_t inner_;

#if defined(_WIN32)
    static size_t page_size() {
        SYSTEM_INFO info;
        GetSystemInfo(&info);
        return info.dwPageSize;
    }
    static void* allocate(size_t bytes) {
        return VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
    }
    void forbid(char* at) {
        DWORD before;
        VirtualProtect(at, page_, PAGE_NOACCESS, &before);
    }
    static void free(void* base, size_t) { VirtualFree(base, 0, MEM_RELEASE); }
#else
    static size_t page_size() { return size_t(sysconf(_SC_PAGESIZE)); }
    static void* allocate(size_t bytes) {
        return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    }
    void forbid(char* at) { mprotect(at, page_, PROT_NONE); }
    static void free(void* base, size_t bytes) { munmap(base, bytes); }
#endif
};
