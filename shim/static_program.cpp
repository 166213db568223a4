#include "shim/static_program.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "shim/environment.h"
#include "shim/instruction_length.h"
#include "shim/program_image.h"
#include "shim/report.h"

namespace bitnet::shim {

namespace {

constexpr int kHooksMax = 16;
constexpr int kSitesMax = 512;  // a program has a handful for each function
constexpr size_t kThunkBytes = 16;

// A call, or a jump where a call comes last, of a function that is hooked.
struct Site {
    uint8_t *at;  // of the instruction, of x86-64: of its opcode
    int target;
};

struct Target {
    uint8_t *function;  // NULL: the program has none
    uint8_t *thunk;     // near the program, leads to the hook
};

ProgramImage image;
Target targets[kHooksMax];
Site sites[kSitesMax];
int n_sites;
int n_unclear;    // looked like calls, but are not at the beginning of an instruction
bool is_patched;  // written once, before main
char report[256];

#if defined(__x86_64__)

constexpr size_t kStep = 1, kSiteBytes = 5;
constexpr int64_t kReach = int64_t(1) << 31;

// call rel32 and jmp rel32
uintptr_t target_of(const uint8_t *at) {
    if (at[0] != 0xE8 && at[0] != 0xE9) return 0;
    int32_t distance;
    memcpy(&distance, at + 1, sizeof distance);
    return uintptr_t(at) + kSiteBytes + uintptr_t(int64_t(distance));
}

// Whether an instruction begins there, seen from the beginning of its function. A linker may have put a prefix without
// meaning before a call, in place of a longer instruction.
bool is_instruction(const uint8_t *at) {
    const Elf64_Sym *around = image.function_around(at);
    if (!around) return false;
    const uint8_t *code = image.address_of(*around), *end = code + around->st_size;
    while (code < at) {
        const size_t n = instruction_length(code, size_t(end - code));
        if (n == 0) return false;
        if (code + 1 == at && *code == 0x67 && n == kSiteBytes + 1) return true;
        code += n;
    }
    return code == at && instruction_length(at, size_t(end - at)) == kSiteBytes;
}

void lead(uint8_t *at, const uint8_t *to) {
    const int32_t distance = int32_t(to - (at + kSiteBytes));
    memcpy(at + 1, &distance, sizeof distance);
}

// jmp [rip + 0], and the address behind it
void write_thunk(uint8_t *at, const void *to) {
    const uint8_t jump[6] = {0xFF, 0x25, 0, 0, 0, 0};
    memcpy(at, jump, sizeof jump);
    memcpy(at + sizeof jump, &to, sizeof to);
}

#elif defined(__aarch64__)

constexpr size_t kStep = 4, kSiteBytes = 4;
constexpr int64_t kReach = int64_t(1) << 27;

uint32_t word_at(const uint8_t *at) {
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

// bl and b, which differ in the highest bit; 26 bits of distance in words
uintptr_t target_of(const uint8_t *at) {
    const uint32_t word = word_at(at);
    if ((word & 0x7C000000) != 0x14000000) return 0;
    const int32_t words = int32_t(word << 6) >> 6;
    return uintptr_t(at) + uintptr_t(int64_t(words) * 4);
}

bool is_instruction(const uint8_t *at) { return image.function_around(at) != nullptr; }  // all are as long

void lead(uint8_t *at, const uint8_t *to) {
    const uint32_t words = uint32_t((to - at) / 4) & 0x03FFFFFF;
    const uint32_t word = (word_at(at) & 0xFC000000) | words;
    memcpy(at, &word, sizeof word);
}

// ldr x16, 8; br x16; the address
void write_thunk(uint8_t *at, const void *to) {
    const uint32_t jump[2] = {0x58000050, 0xD61F0200};
    memcpy(at, jump, sizeof jump);
    memcpy(at + sizeof jump, &to, sizeof to);
}

#else
#error "x86-64 and AArch64"
#endif

const char *find_targets() {
    bool computes = false;
    for (int i = 0; hooks[i].name && i < kHooksMax; ++i) {
        uint8_t *function = image.function(hooks[i].name);
        // A linker may have made one function of several that are alike: calls of the others are not ours.
        targets[i].function = function && !image.is_shared(function, hooks[i].name) ? function : nullptr;
        computes |= targets[i].function && strstr(hooks[i].name, "graph_compute");
    }
    if (computes) return nullptr;
    return image.is_stripped ? "it was stripped, so that no function of ggml is found in it"
                             : "no function of ggml is linked into it";
}

int target_index(uintptr_t address) {
    for (int i = 0; i < kHooksMax; ++i) {
        if (address && uintptr_t(targets[i].function) == address) return i;
    }
    return -1;
}

const char *find_sites() {
    for (int s = 0; s < image.n_code; ++s) {
        const CodeSegment &segment = image.code[s];
        for (uint8_t *at = segment.from; at + kSiteBytes <= segment.to; at += kStep) {
            const int target = target_index(target_of(at));
            if (target < 0) continue;
            if (!is_instruction(at)) {
                ++n_unclear;
                continue;
            }
            if (n_sites == kSitesMax) return "it has too many calls of ggml";
            sites[n_sites++] = {at, target};
        }
    }
    return n_sites > 0 ? nullptr : "no call of ggml was found in it";
}

bool is_near(const uint8_t *page, size_t n_page) {
    return page + n_page - image.lowest < kReach && image.highest - page < kReach;
}

// A page from which every place of the program can be reached. Below it, else above: what grows behind the program
// keeps its room. One that is taken already is never given.
uint8_t *page_near_program(size_t n_page) {
    constexpr size_t kApart = size_t(1) << 20;
    constexpr int kTries = 128;
    for (int i = 1; i <= 2 * kTries; ++i) {
        const size_t away = kApart * size_t(i <= kTries ? i : 16 * (i - kTries));
        if (i <= kTries && uintptr_t(image.lowest) <= away + kApart / 2) continue;
        uintptr_t wish = i <= kTries ? uintptr_t(image.lowest) - away : uintptr_t(image.highest) + away;
        wish &= ~uintptr_t(n_page - 1);
        void *got = mmap(reinterpret_cast<void *>(wish), n_page, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (got == MAP_FAILED) continue;
        if (is_near(static_cast<uint8_t *>(got), n_page)) return static_cast<uint8_t *>(got);
        munmap(got, n_page);  // a kernel that takes the address as a hint
    }
    return nullptr;
}

const char *make_thunks(size_t n_page) {
    uint8_t *page = page_near_program(n_page);
    if (!page) return "no memory is free near its code";
    for (int i = 0; hooks[i].name && i < kHooksMax; ++i) {
        targets[i].thunk = page + size_t(i) * kThunkBytes;
        write_thunk(targets[i].thunk, hooks[i].function);
    }
    if (mprotect(page, n_page, PROT_READ | PROT_EXEC) != 0) return "the system does not allow code of ours near it";
    __builtin___clear_cache(reinterpret_cast<char *>(page), reinterpret_cast<char *>(page + n_page));
    return nullptr;
}

// Code stays code while it is written, where the system allows that: then nothing depends on the way back.
bool make_writable(void *page, size_t n) {
    return mprotect(page, n, PROT_READ | PROT_WRITE | PROT_EXEC) == 0 || mprotect(page, n, PROT_READ | PROT_WRITE) == 0;
}

const char *lead_sites(size_t n_page) {
    int n_led = 0;
    for (int i = 0; i < n_sites; ++i) {
        uint8_t *at = sites[i].at;
        const uintptr_t from = uintptr_t(at) & ~uintptr_t(n_page - 1);
        const size_t n = (uintptr_t(at) + kSiteBytes - from + n_page - 1) & ~(n_page - 1);
        void *page = reinterpret_cast<void *>(from);
        if (!make_writable(page, n)) continue;
        lead(at, targets[sites[i].target].thunk);
        mprotect(page, n, image.segment_of(at)->protection);
        __builtin___clear_cache(reinterpret_cast<char *>(at), reinterpret_cast<char *>(at + kSiteBytes));
        ++n_led;
    }
    n_sites = n_led;
    return n_led > 0 ? nullptr : "the system does not allow its code to be changed";
}

const char *patch() {
    const size_t n_page = size_t(sysconf(_SC_PAGESIZE));
    const char *why = read_program_image(&image);
    if (!why) why = find_targets();
    if (!why) why = find_sites();
    if (!why) why = make_thunks(n_page);
    if (!why) why = lead_sites(n_page);
    return why;
}

// Before main, while nothing of the program runs. The only thing that happens unasked is a look at one variable.
__attribute__((constructor)) void patch_when_asked() {
    const char *wish = secure_getenv("BITNET_SHIM_PATCH_STATIC");
    if (!wish || strcmp(wish, "1") != 0 || !(settings().armed || settings().no_flash)) return;
    const int error = errno;
    const char *why = patch();
    is_patched = !why;
    if (why) {
        snprintf(report, sizeof report, "calls were not patched: %s", why);
    } else {
        snprintf(report, sizeof report, "%d calls of ggml patched", n_sites);
        if (n_unclear > 0)
            snprintf(report + strlen(report), sizeof report - strlen(report), ", %d unclear ones left alone",
                     n_unclear);
    }
    say("%s: %s", program_invocation_short_name, report);
    errno = error;
}

}  // namespace

const char *static_program_report() { return report; }

bool is_static_program(const void *base) { return is_patched && base == image.lowest; }

void *static_program_function(const char *name) { return image.function(name); }

}  // namespace bitnet::shim
