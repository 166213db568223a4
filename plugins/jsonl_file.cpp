#include "plugins/jsonl_file.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

namespace bitnet {

namespace {

constexpr size_t kPathBytes = 4096;  // PATH_MAX of Linux

// Paths that contexts of this process hold. A default path that was written stays taken: nobody asked to replace it.
struct TakenPath {
    TakenPath *next;
    char path[];
};
pthread_mutex_t taken_mutex = PTHREAD_MUTEX_INITIALIZER;
TakenPath *taken_paths = nullptr;

TakenPath **find_taken(const char *path) {
    TakenPath **link = &taken_paths;
    while (*link && strcmp((*link)->path, path) != 0) link = &(*link)->next;
    return link;
}

bool expand(JsonlFile *file, const char *pattern, size_t n_bytes, char *out) {
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
            snprintf(file->reason, sizeof file->reason, "path '%.*s': unknown '%%%.1s', expected %%p, %%%%, %%, or %%;",
                     n_bytes > 200 ? 200 : int(n_bytes), pattern, i < n_bytes ? pattern + i : "");
            return false;
        }
    }
    if (n == 0 || n >= kPathBytes - 16) {  // room for "-<number>"
        snprintf(file->reason, sizeof file->reason, n ? "path is too long" : "path is empty");
        return false;
    }
    out[n] = 0;
    return true;
}

// "dir/a.jsonl", 2 -> "dir/a-2.jsonl"
void numbered(const char *path, unsigned number, char *out) {
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    const char *dot = strrchr(name, '.');
    const size_t n_stem = dot && dot != name ? size_t(dot - path) : strlen(path);
    snprintf(out, kPathBytes, "%.*s-%u%s", int(n_stem), path, number, path + n_stem);
}

bool fail(JsonlFile *file, const char *what, int error, locale_t c_locale) {
    snprintf(file->reason, sizeof file->reason, "%s '%.240s': %s", what, file->path, strerror_l(error, c_locale));
    return false;
}

bool open_file(JsonlFile *file, locale_t c_locale) {
    file->fd = open(file->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);
    if (file->fd < 0) return fail(file, "cannot open", errno, c_locale);
    struct stat status;
    file->is_pipe = fstat(file->fd, &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode));
    return true;
}

// write() whose broken pipe is an error of ours, not a signal that ends somebody else's process.
ssize_t write_quietly(const JsonlFile *file, const char *bytes, size_t n_bytes) {
    if (!file->is_pipe) return write(file->fd, bytes, n_bytes);
    sigset_t pipe_signal, before, pending;
    sigemptyset(&pipe_signal);
    sigaddset(&pipe_signal, SIGPIPE);
    sigpending(&pending);
    pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
    const ssize_t wrote = write(file->fd, bytes, n_bytes);
    const int error = errno;
    if (wrote < 0 && error == EPIPE && !sigismember(&pending, SIGPIPE)) {
        const timespec now = {};
        while (sigtimedwait(&pipe_signal, nullptr, &now) < 0 && errno == EINTR) {
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    errno = error;
    return wrote;
}

}  // namespace

bool file_claim(JsonlFile *file, const char *pattern, size_t n_bytes, bool is_default) {
    char wanted[kPathBytes], path[kPathBytes];
    if (!expand(file, pattern, n_bytes, wanted)) return false;
    strcpy(path, wanted);
    pthread_mutex_lock(&taken_mutex);
    for (unsigned number = 1; *find_taken(path); ++number) numbered(wanted, number, path);
    TakenPath *entry = static_cast<TakenPath *>(malloc(sizeof(TakenPath) + strlen(path) + 1));
    file->path = strdup(path);
    if (entry && file->path) {
        strcpy(entry->path, path);
        entry->next = taken_paths;
        taken_paths = entry;
    }
    pthread_mutex_unlock(&taken_mutex);
    if (entry && file->path) {
        file->is_default = is_default;
        return true;
    }
    free(entry);
    free(file->path);
    file->path = nullptr;
    snprintf(file->reason, sizeof file->reason, "out of memory");
    return false;
}

bool file_write(JsonlFile *file, const char *lines, size_t n_bytes, locale_t c_locale) {
    if (file->fd < 0 && !open_file(file, c_locale)) return false;
    size_t done = 0;
    while (done < n_bytes) {
        const ssize_t wrote = write_quietly(file, lines + done, n_bytes - done);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) {
            const int error = wrote < 0 ? errno : EIO;
            size_t whole = done;
            while (whole && lines[whole - 1] != '\n') --whole;
            file->n_whole += whole;
            // Devices and pipes cannot be cut; nothing can be done about those.
            if (whole != done && ftruncate(file->fd, off_t(file->n_whole)) != 0) errno = error;
            return fail(file, "cannot write to", error, c_locale);
        }
        done += size_t(wrote);
    }
    file->n_whole += n_bytes;
    return true;
}

void file_close(JsonlFile *file) {
    const bool written = file->fd >= 0;
    if (written) close(file->fd);
    file->fd = -1;
    if (file->path && !(file->is_default && written)) {
        pthread_mutex_lock(&taken_mutex);
        TakenPath **link = find_taken(file->path);
        TakenPath *entry = *link;
        if (entry) *link = entry->next;
        pthread_mutex_unlock(&taken_mutex);
        free(entry);
    }
    free(file->path);
    file->path = nullptr;
}

}  // namespace bitnet
