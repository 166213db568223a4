#include "plugins/check/lines.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>
#include <zstd.h>

namespace bitnet {

namespace {

constexpr size_t kChunkBytes = size_t(1) << 18;
constexpr size_t kMaxLineBytes = size_t(1) << 28;  // a run record's tokens and prompt are the longest honest line

bool fail(LineSource *source, const char *what, const char *why) {
    snprintf(source->reason, sizeof source->reason, "%s%s%s", what, why ? ": " : "", why ? why : "");
    return false;
}

ssize_t fail_read(LineSource *source, const char *what, const char *why) {
    fail(source, what, why);
    return -1;
}

// Up to `n` bytes of the file; 0 at its end, -1 with a reason.
ssize_t read_file(LineSource *source, char *out, size_t n) {
    ssize_t got;
    do got = pread(source->fd, out, n, source->at);
    while (got < 0 && errno == EINTR);
    if (got < 0) return fail_read(source, "cannot be read", strerrordesc_np(errno));
    if (got > 0) source->at += got;
    return got;
}

// The same of what the file holds when unpacked.
ssize_t read_packed(LineSource *source, char *out, size_t n) {
    ZSTD_DCtx *decoder = static_cast<ZSTD_DCtx *>(source->decoder);
    ZSTD_outBuffer to = {out, n, 0};
    while (to.pos == 0) {
        bool at_end = false;
        if (source->packed_begin == source->packed_end) {
            const ssize_t got = read_file(source, source->packed, kChunkBytes);
            if (got < 0) return -1;
            source->packed_begin = 0;
            source->packed_end = size_t(got);
            at_end = got == 0;
        }
        // At the end too: the decoder may still hold what did not fit before.
        ZSTD_inBuffer from = {source->packed, source->packed_end, source->packed_begin};
        if (at_end && !source->inside_frame) return 0;
        const size_t left = ZSTD_decompressStream(decoder, &to, &from);
        if (ZSTD_isError(left)) return fail_read(source, "damaged zstd data", ZSTD_getErrorName(left));
        source->packed_begin = from.pos;
        source->inside_frame = left != 0;
        if (at_end && to.pos == 0) return fail_read(source, "cut short inside of a zstd frame", nullptr);
    }
    return ssize_t(to.pos);
}

// More bytes behind `end`. False at the end or with a reason.
bool refill(LineSource *source) {
    if (source->begin) memmove(source->buffer, source->buffer + source->begin, source->end - source->begin);
    source->end -= source->begin;
    source->begin = 0;
    if (source->capacity - source->end < 2) {  // one byte is for the NUL
        if (source->capacity >= kMaxLineBytes) return fail(source, "a line is longer than 256 MiB", nullptr);
        const size_t capacity = source->capacity ? 2 * source->capacity : kChunkBytes;
        char *grown = static_cast<char *>(realloc(source->buffer, capacity));
        if (!grown) return fail(source, "out of memory", nullptr);
        source->buffer = grown;
        source->capacity = capacity;
    }
    char *to = source->buffer + source->end;
    const size_t room = source->capacity - 1 - source->end;
    const ssize_t got = source->is_packed ? read_packed(source, to, room) : read_file(source, to, room);
    if (got > 0) source->end += size_t(got);
    source->eof = got <= 0;
    return got > 0;
}

}  // namespace

bool lines_begin(LineSource *source, int fd) {
    *source = {};
    source->fd = fd;
    unsigned char magic[4] = {};
    const ssize_t got = read_file(source, reinterpret_cast<char *>(magic), sizeof magic);
    if (got < 0) return false;
    source->at = 0;
    const uint32_t number = magic[0] | uint32_t(magic[1]) << 8 | uint32_t(magic[2]) << 16 | uint32_t(magic[3]) << 24;
    if (got < 4 || number != ZSTD_MAGICNUMBER) return true;
    source->is_packed = true;
    source->decoder = ZSTD_createDCtx();
    source->packed = static_cast<char *>(malloc(kChunkBytes));
    return (source->decoder && source->packed) || fail(source, "out of memory", nullptr);
}

bool lines_next(LineSource *source, char **line, size_t *n_bytes) {
    size_t searched = source->begin;
    for (;;) {
        char *newline = nullptr;
        if (source->buffer)
            newline = static_cast<char *>(memchr(source->buffer + searched, '\n', source->end - searched));
        if (newline || (source->eof && source->end > source->begin && !source->reason[0])) {
            source->unterminated = !newline;
            char *end = newline ? newline : source->buffer + source->end;
            *end = 0;
            *line = source->buffer + source->begin;
            *n_bytes = size_t(end - *line);
            source->begin = newline ? size_t(end + 1 - source->buffer) : source->end;
            return true;
        }
        if (source->eof) return false;
        searched = source->end - source->begin;
        if (!refill(source) && source->reason[0]) return false;
    }
}

void lines_end(LineSource *source) {
    if (source->decoder) ZSTD_freeDCtx(static_cast<ZSTD_DCtx *>(source->decoder));
    free(source->packed);
    free(source->buffer);
    *source = {};
}

}  // namespace bitnet
