#include "shim/environment.h"

#include <fnmatch.h>
#include <pthread.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "plugins/host/services.h"
#include "plugins/host/trace_host.h"
#include "shim/report.h"

namespace bitnet::shim {

namespace {

const char *text_of(const char *name) {
    const char *value = secure_getenv(name);
    return value ? value : "";
}

bool matches_one(const char *globs, const char *name) {
    char glob[256];
    for (const char *from = globs; *from;) {
        const char *end = strchrnul(from, ';');
        const size_t n = size_t(end - from);
        if (n > 0 && n < sizeof glob) {
            memcpy(glob, from, n);
            glob[n] = 0;
            if (fnmatch(glob, name, 0) == 0) return true;
        }
        from = *end ? end + 1 : end;
    }
    return false;
}

// By the name it was called by, and by its file's: a script's interpreter has both.
bool program_matches(const char *globs) {
    if (!*globs) return true;
    char file[4096];
    const ssize_t n = readlink("/proc/self/exe", file, sizeof file - 1);
    file[n > 0 ? n : 0] = 0;
    const char *slash = strrchr(file, '/');
    return matches_one(globs, program_invocation_short_name) || matches_one(globs, slash ? slash + 1 : file);
}

Mode mode_of(const char *text) {
    if (strcmp(text, "retain") == 0) return Mode::retain;
    if (strcmp(text, "callback") == 0) return Mode::callback;
    if (*text && strcmp(text, "auto") != 0)
        say("BITNET_SHIM_MODE: found '%.40s', expected retain, callback or auto: auto", text);
    return Mode::automatic;
}

constexpr uint64_t kMegabyte = 1 << 20;
constexpr uint64_t kMemoryMegabytes = 2048;

uint64_t memory_of(const char *text) {
    if (!*text) return kMemoryMegabytes * kMegabyte;
    char *end = nullptr;
    const unsigned long long value = strtoull(text, &end, 10);
    if (*text >= '0' && *text <= '9' && !*end && value < UINT64_MAX / kMegabyte) return value * kMegabyte;
    say("BITNET_SHIM_MEMORY_MB: found '%.40s', expected a whole number: %llu", text,
        static_cast<unsigned long long>(kMemoryMegabytes));
    return kMemoryMegabytes * kMegabyte;
}

Settings the_settings;
pid_t owner;
bool ending;

void read_settings() {
    Settings &s = the_settings;
    owner = getpid();
    s.no_flash = strcmp(text_of("BITNET_SHIM_NO_FLASH"), "1") == 0;
    s.check_logits = strcmp(text_of("BITNET_SHIM_CHECK_LOGITS"), "1") == 0;
    const char *inputs = text_of("BITNET_SHIM_INPUTS");
    s.inputs = strcmp(inputs, "0") == 0 ? Inputs::none : strcmp(inputs, "all") == 0 ? Inputs::all : Inputs::cheap;
    s.mode = mode_of(text_of("BITNET_SHIM_MODE"));
    const char *hash = text_of("BITNET_SHIM_HASH_MODEL");
    s.hash_model = strcmp(hash, "1") == 0 ? 1 : strcmp(hash, "0") == 0 ? 0 : -1;
    s.memory_bytes = memory_of(text_of("BITNET_SHIM_MEMORY_MB"));
    s.armed = trace_host_environment_wants() && program_matches(text_of("BITNET_SHIM_PROGRAMS"));
    if (!s.armed) return;
    uint8_t ignored[32];
    row_blake3({nullptr, 0, BITNET_DTYPE_I8},
               ignored);  // BLAKE3 looks at the CPU at first use: here on one thread alone
}

}  // namespace

const Settings &settings() {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_settings);
    return the_settings;
}

bool active() { return settings().armed && !__atomic_load_n(&ending, __ATOMIC_RELAXED) && getpid() == owner; }

void become_inactive() { __atomic_store_n(&ending, true, __ATOMIC_RELAXED); }

}  // namespace bitnet::shim
