#include "plugins/output/file.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

namespace bitnet {

namespace {

bool fail(OutputFile *file, const char *what, int error) {
    const char *text = strerrordesc_np(error);  // in English, whatever the process's locale
    snprintf(file->reason, sizeof file->reason, "%s '%.240s': %s", what, file->path, text ? text : "unknown error");
    return false;
}

bool cut_and_fail(OutputFile *file, bool has_rest, int error) {
    // Devices and pipes cannot be cut; nothing can be done about those.
    const bool cut = has_rest && ftruncate(file->fd, off_t(file->n_whole)) == 0;
    if (cut) file->n_part = 0;
    return fail(file, "cannot write to", error);
}

bool claim(OutputFile *file, const char *wanted, bool is_default) {
    file->path = claim_path(wanted);
    file->is_default = is_default;
    if (!file->path) snprintf(file->reason, sizeof file->reason, "out of memory");
    return file->path;
}

}  // namespace

bool output_claim(OutputFile *file, const char *pattern, size_t n_bytes) {
    char wanted[kPathBytes];
    return expand_path(pattern, n_bytes, wanted, file->reason) && claim(file, wanted, false);
}

bool output_claim_default(OutputFile *file, const char *suffix) {
    char wanted[kPathBytes];
    return default_path(suffix, wanted, file->reason) && claim(file, wanted, true);
}

bool output_open(OutputFile *file) {
    if (file->fd >= 0) return true;
    file->fd = open(file->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);
    if (file->fd < 0) return fail(file, "cannot open", errno);
    struct stat status;
    file->has_name = fstat(file->fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_nlink > 0;
    return true;
}

size_t write_quietly(int fd, const char *bytes, size_t n_bytes) {
    // Both signals go to the thread that writes: it blocks them, and takes back one that it caused.
    sigset_t ours, before, pending;
    sigemptyset(&ours);
    sigaddset(&ours, SIGPIPE);
    sigaddset(&ours, SIGXFSZ);
    sigpending(&pending);
    pthread_sigmask(SIG_BLOCK, &ours, &before);
    size_t done = 0;
    int error = 0;
    while (done < n_bytes && !error) {
        const ssize_t wrote = write(fd, bytes + done, n_bytes - done);
        if (wrote > 0) done += size_t(wrote);
        if (wrote == 0) error = EIO;
        if (wrote < 0 && errno != EINTR) error = errno;
    }
    const int caused = error == EPIPE ? SIGPIPE : error == EFBIG ? SIGXFSZ : 0;
    if (caused && !sigismember(&pending, caused)) {
        sigset_t one;
        sigemptyset(&one);
        sigaddset(&one, caused);
        const timespec now = {};
        while (sigtimedwait(&one, nullptr, &now) < 0 && errno == EINTR) {
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    errno = error;
    return done;
}

bool output_write(OutputFile *file, const char *lines, size_t n_bytes) {
    if (!output_open(file)) return false;
    const size_t done = write_quietly(file->fd, lines, n_bytes);
    if (done == n_bytes) {
        file->n_whole += n_bytes;
        return true;
    }
    const int error = errno;
    size_t whole = done;
    while (whole && lines[whole - 1] != '\n') --whole;
    file->n_whole += whole;
    return cut_and_fail(file, whole != done, error);
}

bool output_write_part(OutputFile *file, const char *bytes, size_t n_bytes, bool ends_block) {
    if (!output_open(file)) return false;
    const size_t done = write_quietly(file->fd, bytes, n_bytes);
    file->n_part += done;
    if (done != n_bytes) return cut_and_fail(file, file->n_part, errno);
    if (ends_block) {
        file->n_whole += file->n_part;
        file->n_part = 0;
    }
    return true;
}

bool output_exists(OutputFile *file) {
    struct stat status;
    if (!file->has_name || fstat(file->fd, &status) != 0 || status.st_nlink > 0) return true;
    snprintf(file->reason, sizeof file->reason, "cannot write to '%.240s': the file was removed", file->path);
    return false;
}

void output_close(OutputFile *file) {
    const bool written = file->fd >= 0;
    if (written) close(file->fd);
    file->fd = -1;
    release_path(file->path, file->is_default && written);
    file->path = nullptr;
}

}  // namespace bitnet
