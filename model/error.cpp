#include "model/error.h"

#include <cstdarg>
#include <cstdio>

namespace bitnet {

namespace {

constexpr size_t quoted_bytes_max = 64;  // of the input: enough for any tensor name, short enough for a line

std::string format_list(const char *format, va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    const int length = vsnprintf(nullptr, 0, format, arguments);
    std::string text(length > 0 ? size_t(length) : 0, '\0');
    if (length > 0) vsnprintf(text.data(), text.size() + 1, format, again);
    va_end(again);
    return text;
}

// Bytes of the well-formed UTF-8 character at `data`; 0 where there is none.
size_t utf8_length(const unsigned char *data, size_t n_bytes) {
    const unsigned char lead = data[0];
    if (lead < 0x80) return 1;
    const size_t length = lead >= 0xc2 && lead <= 0xdf   ? 2
                          : (lead & 0xf0) == 0xe0        ? 3
                          : lead >= 0xf0 && lead <= 0xf4 ? 4
                                                         : 0;
    if (length == 0 || length > n_bytes) return 0;
    for (size_t i = 1; i < length; i++) {
        if ((data[i] & 0xc0) != 0x80) return 0;
    }
    // Overlong forms, surrogates, and what lies beyond U+10FFFF.
    if (lead == 0xe0 && data[1] < 0xa0) return 0;
    if (lead == 0xed && data[1] > 0x9f) return 0;
    if (lead == 0xf0 && data[1] < 0x90) return 0;
    if (lead == 0xf4 && data[1] > 0x8f) return 0;
    return length;
}

}  // namespace

std::string format_text(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::string text = format_list(format, arguments);
    va_end(arguments);
    return text;
}

void fail(Status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const std::string text = format_list(format, arguments);
    va_end(arguments);
    throw Error(status, text);
}

std::string quoted(const char *data, size_t n_bytes) {
    const unsigned char *bytes = reinterpret_cast<const unsigned char *>(data);
    std::string text;
    size_t i = 0;
    while (i < n_bytes) {
        const size_t length = utf8_length(bytes + i, n_bytes - i);
        if (i + (length ? length : 1) > quoted_bytes_max) return text + "...";
        // A message must be valid UTF-8 for the languages that read it, so a stray byte is escaped like a control byte.
        if (length == 0 || bytes[i] < 0x20 || bytes[i] == 0x7f) {
            text += format_text("\\x%02x", bytes[i]);
            i++;
        } else {
            text.append(data + i, length);
            i += length;
        }
    }
    return text;
}

}  // namespace bitnet
