// Messages: always one line, always terminated.
#pragma once

#include <cstdarg>
#include <cstddef>
#include <cstdio>

namespace bitnet {

// Control bytes come from names and selections that we quote; they would break the line.
inline void keep_one_line(char *text) {
    for (; *text; ++text) {
        if (static_cast<unsigned char>(*text) < 0x20 || *text == 0x7f) *text = ' ';
    }
}

// snprintf into `out` (NULL: dropped), cut at `capacity`.
__attribute__((format(printf, 3, 4))) inline void set_text(char *out, size_t capacity, const char *format, ...) {
    if (!out) return;
    va_list args;
    va_start(args, format);
    if (vsnprintf(out, capacity, format, args) < 0) out[0] = 0;
    va_end(args);
    keep_one_line(out);
}

}  // namespace bitnet
