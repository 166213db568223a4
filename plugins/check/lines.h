// Lines of a trace file, plain or compressed with zstd.
#pragma once

#include <cstddef>
#include <cstdint>
#include <sys/types.h>

namespace bitnet {

struct LineSource {
    int fd = -1;   // borrowed
    off_t at = 0;  // next byte of the file: pread, so that a forked child does not move it
    char *buffer = nullptr;
    size_t begin = 0, end = 0, capacity = 0;
    void *decoder = nullptr;  // of zstd; NULL: the file is plain
    char *packed = nullptr;   // what it has not taken yet
    size_t packed_begin = 0, packed_end = 0;
    bool is_packed = false, eof = false;
    bool inside_frame = false;  // of zstd: the file may not end here
    bool unterminated = false;  // the last line had no '\n'
    char reason[160] = "";      // why lines_next() failed; "" at the file's end
};

// At the file's first line. False with a reason.
bool lines_begin(LineSource *source, int fd);
// The next line, with a NUL in place of its '\n'; the caller may change it, until the next call. False: at the end, or
// a reason is there.
bool lines_next(LineSource *source, char **line, size_t *n_bytes);
void lines_end(LineSource *source);

}  // namespace bitnet
