#include "plugins/output/path.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <pthread.h>
#include <unistd.h>

namespace bitnet {

namespace {

struct TakenPath {
    TakenPath *next;
    char path[];
};
pthread_mutex_t taken_mutex = PTHREAD_MUTEX_INITIALIZER;
TakenPath *taken_paths = nullptr;

// A process may fork while another of its threads holds the mutex: the child's would stay locked for ever.
void lock_taken() { pthread_mutex_lock(&taken_mutex); }
void unlock_taken() { pthread_mutex_unlock(&taken_mutex); }
__attribute__((constructor)) void guard_forks() { pthread_atfork(lock_taken, unlock_taken, unlock_taken); }

TakenPath **find_taken(const char *path) {
    TakenPath **link = &taken_paths;
    while (*link && strcmp((*link)->path, path) != 0) link = &(*link)->next;
    return link;
}

bool fits(size_t n, char *reason) {
    if (n > 0 && n < kPathBytes - 16) return true;  // room for "-<number>"
    snprintf(reason, kReasonBytes, n ? "path is too long" : "path is empty");
    return false;
}

// "dir/a.jsonl", 2 -> "dir/a-2.jsonl"
void numbered(const char *path, unsigned number, char *out) {
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    const char *end = path + strlen(path);
    if (end - name > 4 && strcmp(end - 4, ".zst") == 0) end -= 4;
    const char *dot = end > name ? end - 1 : end;
    while (dot > name && *dot != '.') --dot;
    if (dot == name) dot = end;  // no extension; a name that begins with a dot is none either
    snprintf(out, kPathBytes, "%.*s-%u%s", int(dot - path), path, number, dot);
}

}  // namespace

bool expand_path(const char *pattern, size_t n_bytes, char out[kPathBytes], char reason[kReasonBytes]) {
    size_t n = 0;
    for (size_t i = 0; i < n_bytes && n < kPathBytes - 1; ++i) {
        if (pattern[i] != '%') {
            out[n++] = pattern[i];
            continue;
        }
        const char code = ++i < n_bytes ? pattern[i] : 0;
        if (code == 'p') {
            n += size_t(snprintf(out + n, kPathBytes - n, "%d", int(getpid())));
        } else if (code && strchr("%,;", code)) {
            out[n++] = code;
        } else {
            snprintf(reason, kReasonBytes, "path '%.*s': unknown '%%%.1s', expected %%p, %%%%, %%, or %%;",
                     n_bytes > 200 ? 200 : int(n_bytes), pattern, i < n_bytes ? pattern + i : "");
            return false;
        }
    }
    if (!fits(n, reason)) return false;
    out[n] = 0;
    return true;
}

bool default_path(const char *suffix, char out[kPathBytes], char reason[kReasonBytes]) {
    const char *folder = secure_getenv("BITNET_TRACE_DIR");
    if (!folder || !*folder) folder = ".";
    const int n = snprintf(out, kPathBytes, "%s/bitnet-%d%s", folder, int(getpid()), suffix);
    return fits(n < 0 ? 0 : size_t(n), reason);
}

char *claim_path(const char *wanted) {
    char path[kPathBytes];
    snprintf(path, sizeof path, "%s", wanted);
    lock_taken();
    for (unsigned number = 1; *find_taken(path); ++number) numbered(wanted, number, path);
    TakenPath *entry = static_cast<TakenPath *>(malloc(sizeof(TakenPath) + strlen(path) + 1));
    char *copy = strdup(path);
    if (entry && copy) {
        strcpy(entry->path, path);
        entry->next = taken_paths;
        taken_paths = entry;
    }
    unlock_taken();
    if (entry && copy) return copy;
    free(entry);
    free(copy);
    return nullptr;
}

void release_path(char *path, bool stays_taken) {
    if (path && !stays_taken) {
        lock_taken();
        TakenPath **link = find_taken(path);
        TakenPath *entry = *link;
        if (entry) *link = entry->next;
        unlock_taken();
        free(entry);
    }
    free(path);
}

}  // namespace bitnet
