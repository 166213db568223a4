#include "plugins/output/folder.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plugins/output/file.h"

namespace bitnet {

namespace {

constexpr int kFolderFlags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;

const char *error_text(int error) {
    const char *text = strerrordesc_np(error);  // in English, whatever the process's locale
    return text ? text : "unknown error";
}

bool fail(OutputFolder *folder, const char *what, const char *path, int error) {
    snprintf(folder->reason, sizeof folder->reason, "cannot %s '%.240s': %s", what, path, error_text(error));
    return false;
}

bool fail_file(OutputFolder *folder, const char *name, int error) {
    snprintf(folder->reason, sizeof folder->reason, "cannot write '%.150s/%.90s': %s", folder->path, name,
             error_text(error));
    return false;
}

// The process may be elsewhere when the folder is made.
bool make_absolute(OutputFolder *folder, const char *path) {
    char here[kPathBytes] = "";
    if (path[0] != '/' && !getcwd(here, sizeof here)) return fail(folder, "find the working folder for", path, errno);
    const int n = snprintf(folder->path, sizeof folder->path, "%s%s%s", here, here[0] ? "/" : "", path);
    if (n > 0 && size_t(n) < sizeof folder->path - kNameBytes) return true;
    snprintf(folder->reason, sizeof folder->reason, "path is too long");
    return false;
}

// Every folder above, then itself.
bool make_folders(OutputFolder *folder) {
    for (char *p = folder->path + 1;; ++p) {
        const char end = *p;
        if (end && end != '/') continue;
        *p = 0;
        const int error = mkdir(folder->path, 0777) == 0 ? 0 : errno;
        struct stat status;
        const bool there = !error || (stat(folder->path, &status) == 0 && S_ISDIR(status.st_mode));
        if (!there) fail(folder, "make folder", folder->path, error == EEXIST ? ENOTDIR : error);
        *p = end;
        if (!there) return false;
        if (!end) return true;
    }
}

// 0, or the error.
int write_parts(int fd, const void *head, size_t n_head, const void *body, size_t n_body) {
    if (write_quietly(fd, static_cast<const char *>(head), n_head) != n_head) return errno;
    if (n_body && write_quietly(fd, static_cast<const char *>(body), n_body) != n_body) return errno;
    return 0;
}

}  // namespace

bool folder_set(OutputFolder *folder, const char *pattern, size_t n_bytes) {
    char path[kPathBytes];
    return expand_path(pattern, n_bytes, path, folder->reason) && make_absolute(folder, path);
}

bool folder_set_default(OutputFolder *folder, const char *suffix) {
    char path[kPathBytes];
    return default_path(suffix, path, folder->reason) && make_absolute(folder, path);
}

bool folder_set_plain(OutputFolder *folder, const char *path) { return make_absolute(folder, path); }

bool folder_open(OutputFolder *folder) {
    if (folder->fd >= 0) return true;
    if (!make_folders(folder)) return false;
    folder->fd = open(folder->path, kFolderFlags);
    return folder->fd >= 0 || fail(folder, "open folder", folder->path, errno);
}

bool folder_open_next(OutputFolder *folder, OutputFolder *parent, const char *prefix) {
    if (!folder_open(parent)) {
        memcpy(folder->reason, parent->reason, sizeof folder->reason);
        return false;
    }
    int error = EEXIST;
    for (unsigned number = 0; error == EEXIST; ++number) {
        const int n = snprintf(folder->path, sizeof folder->path, "%.*s/%s%06u", int(sizeof folder->path - kNameBytes),
                               parent->path, prefix, number);
        if (n < 0 || size_t(n) >= sizeof folder->path)
            return fail(folder, "name folder below", parent->path, ENAMETOOLONG);
        const char *name = strrchr(folder->path, '/') + 1;
        error = mkdirat(parent->fd, name, 0777) == 0 ? 0 : errno;
        if (!error) folder->fd = openat(parent->fd, name, kFolderFlags);
    }
    if (!error && folder->fd < 0) error = errno;
    folder_close(parent);  // it may be removed and made again before the next one
    return !error || fail(folder, "make folder", folder->path, error);
}

bool folder_write(OutputFolder *folder, const char *name, const void *head, size_t n_head, const void *body,
                  size_t n_body) {
    // A name that nobody else writes under, and that no reader takes for a file.
    char part[kNameBytes];
    int fd = -1;
    for (unsigned number = 0; fd < 0; ++number) {
        snprintf(part, sizeof part, ".part-%d-%u", int(gettid()), number);
        fd = openat(folder->fd, part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST) return fail_file(folder, name, errno);
    }
    int error = write_parts(fd, head, n_head, body, n_body);
    if (close(fd) != 0 && !error && errno != EINTR) error = errno;
    if (!error && renameat(folder->fd, part, folder->fd, name) != 0) error = errno;
    if (!error) return true;
    unlinkat(folder->fd, part, 0);
    return fail_file(folder, name, error);
}

void folder_close(OutputFolder *folder) {
    if (folder->fd >= 0) close(folder->fd);
    folder->fd = -1;
}

void FileName::put(const char *bytes, size_t n_bytes) {
    too_long = too_long || n_bytes >= sizeof text - n;
    if (too_long) return;
    memcpy(text + n, bytes, n_bytes);
    n += n_bytes;
    text[n] = 0;
}

void FileName::put(const char *bytes) { put(bytes, strlen(bytes)); }

void FileName::put_number(unsigned long long number, int n_digits) {
    char digits[24];
    put(digits, size_t(snprintf(digits, sizeof digits, "%0*llu", n_digits, number)));
}

void FileName::put_escaped(const char *bytes) {
    for (; *bytes; ++bytes) {
        const unsigned char b = static_cast<unsigned char>(*bytes);
        const bool plain =
            (b >= '0' && b <= '9') || (b >= 'A' && b <= 'Z') || (b >= 'a' && b <= 'z') || b == '_' || b == '.';
        char escaped[4];
        snprintf(escaped, sizeof escaped, "%%%02X", unsigned(b));
        put(plain ? bytes : escaped, plain ? 1 : 3);
    }
}

}  // namespace bitnet
