#include "shim/report.h"

#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "plugins/host/text.h"
#include "plugins/host/trace_host.h"
#include "shim/environment.h"
#include "shim/static_program.h"

namespace bitnet::shim {

Counts counts;

namespace {

constexpr size_t kStatusBytes = 4096;  // always as many are written: a shorter text leaves nothing of a longer one

pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
char last_failure[TRACE_ERROR_BYTES];
char engine_text[1024];

// Opened for each writing: a program that closes all files would otherwise find our bytes in one of its own.
int open_status() {
    const char *folder = secure_getenv("BITNET_SHIM_STATUS");
    if (!folder || !*folder) return -1;
    char path[4096];
    const int n = snprintf(path, sizeof path, "%s/%d", folder, int(getpid()));
    if (n < 0 || size_t(n) >= sizeof path) return -1;
    return open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
}

struct Text {
    char bytes[kStatusBytes];
    size_t n;

    __attribute__((format(printf, 2, 3))) void line(const char *format, ...) {
        va_list args;
        va_start(args, format);
        const int wrote = vsnprintf(bytes + n, sizeof bytes - n, format, args);
        va_end(args);
        if (wrote < 0 || size_t(wrote) >= sizeof bytes - n - 1) return;  // what does not fit is left out
        keep_one_line(bytes + n);
        n += size_t(wrote);
        bytes[n++] = '\n';
    }
};

// Libraries that look like the engine: what there is to say when no call of theirs arrives.
int list_engine_library(dl_phdr_info *info, size_t, void *user) {
    const char *slash = info->dlpi_name ? strrchr(info->dlpi_name, '/') : nullptr;
    const char *file = slash ? slash + 1 : "";
    if (strncmp(file, "libllama", 8) == 0 || strncmp(file, "libggml", 7) == 0)
        static_cast<Text *>(user)->line("library=%.200s", info->dlpi_name);
    return 0;
}

void fill(Text *text) {
    const Counts &c = counts;
    const auto number = [text](const char *key, const uint64_t &value) {
        text->line("%s=%llu", key, static_cast<unsigned long long>(__atomic_load_n(&value, __ATOMIC_RELAXED)));
    };
    text->line("pid=%d", int(getpid()));
    text->line("program=%.200s", program_invocation_short_name);
    text->line("armed=%d", settings().armed);
    number("graphs", c.graphs);
    number("llama_graphs", c.llama_graphs);
    number("late_graphs", c.late_graphs);
    number("plans", c.plans);
    number("steps", c.steps);
    number("events", c.events);
    number("runs", c.runs);
    number("warm_ups", c.warm_ups);
    number("callback_steps", c.callback_steps);
    number("no_position", c.no_position);
    number("several_sequences", c.several_sequences);
    number("over_budget", c.over_budget);
    number("overwritten", c.overwritten);
    number("flash_graphs", c.flash_graphs);
    number("failures", c.failures);
    text->line("stages_seen=%u", __atomic_load_n(&c.stages_seen, __ATOMIC_RELAXED));
    if (*static_program_report()) text->line("static_program=%s", static_program_report());
    if (engine_text[0]) text->line("%s", engine_text);
    if (last_failure[0]) text->line("last_failure=%s", last_failure);
}

void write_file(bool with_libraries) {
    const int file = open_status();
    if (file < 0) return;
    // Whoever has the lock writes as well; in a forked child it may stay locked for ever.
    if (pthread_mutex_trylock(&mutex) == 0) {
        static Text text;
        text.n = 0;
        fill(&text);
        if (with_libraries) dl_iterate_phdr(list_engine_library, &text);
        memset(text.bytes + text.n, '\n', sizeof text.bytes - text.n);
        if (pwrite(file, text.bytes, sizeof text.bytes, 0) < 0) text.n = 0;  // nobody to tell
        pthread_mutex_unlock(&mutex);
    }
    close(file);
}

// A program that ends without having met the engine says which libraries it had: for `bitnet trace -- PROGRAM` alone.
__attribute__((destructor)) void say_goodbye() {
    if (secure_getenv("BITNET_SHIM_STATUS")) write_file(true);
}

}  // namespace

void say(const char *format, ...) {
    const char *wish = secure_getenv("BITNET_TRACE_VERBOSE");
    if (!wish || strcmp(wish, "1") != 0) return;
    char line[1024] = "bitnet shim: ";
    const size_t n_prefix = strlen(line);
    va_list args;
    va_start(args, format);
    vsnprintf(line + n_prefix, sizeof line - n_prefix - 1, format, args);
    va_end(args);
    keep_one_line(line);
    const size_t n = strlen(line);
    line[n] = '\n';
    if (write(STDERR_FILENO, line, n + 1) < 0) return;  // one write: threads do not mix
}

void set_last_failure(const char *text) {
    pthread_mutex_lock(&mutex);
    set_text(last_failure, sizeof last_failure, "%s", text);
    pthread_mutex_unlock(&mutex);
}

void note_engine(const char *path, const char *version, const char *why) {
    pthread_mutex_lock(&mutex);
    if (why || !engine_text[0])  // the first one calls; others are called by it
        set_text(engine_text, sizeof engine_text, "engine=%.400s|%.150s|%.150s", path, version, why ? why : "");
    pthread_mutex_unlock(&mutex);
}

void write_status() { write_file(false); }

}  // namespace bitnet::shim
