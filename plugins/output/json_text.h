// JSON text: a growing buffer and what sinks write into it. Free of the C++ runtime.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "plugins/output/number_text.h"

namespace bitnet {

// Appends never fail at once: `failed` says at the end that memory ran out, and the text is then useless.
struct JsonText {
    char *data = nullptr;
    size_t n = 0, capacity = 0;
    bool failed = false;

    bool reserve(size_t more) {
        if (failed) return false;
        if (capacity - n >= more) return true;
        size_t need = capacity ? capacity : size_t(1) << 16;
        while (need - n < more) need *= 2;
        char *grown = static_cast<char *>(realloc(data, need));
        failed = !grown;
        if (grown) data = grown, capacity = need;
        return grown;
    }

    void put(const char *bytes, size_t n_bytes) {
        if (!reserve(n_bytes)) return;
        memcpy(data + n, bytes, n_bytes);
        n += n_bytes;
    }

    void put(char byte) { put(&byte, 1); }
    template <size_t N> void lit(const char (&text)[N]) { put(text, N - 1); }

    void put_unsigned(uint64_t value) {
        char digits[20];
        char *p = digits + sizeof digits;
        do *--p = char('0' + value % 10);
        while (value /= 10);
        put(p, size_t(digits + sizeof digits - p));
    }

    void put_signed(int64_t value) {
        if (value < 0) put('-');
        put_unsigned(value < 0 ? 0 - uint64_t(value) : uint64_t(value));
    }

    // Nine significant digits; what is not finite as a string.
    void put_number(double value) {
        if (std::isnan(value)) return lit("\"NaN\"");
        if (std::isinf(value)) {
            if (value < 0)
                lit("\"-Infinity\"");
            else
                lit("\"Infinity\"");
            return;
        }
        if (reserve(kNumberBytes)) n += number_text_of(value, data + n);
    }

    void put_hex(const uint8_t *bytes, size_t n_bytes);
    void put_base64(const uint8_t *bytes, size_t n_bytes);
    void put_string(const char *bytes, size_t n_bytes);  // with quotes; bytes that are not UTF-8 become U+FFFD
    void put_string(const char *text) { put_string(text, strlen(text)); }
    // "a=1,b=x" -> {"a":1,"b":"x"}; numbers stay numbers if `with_numbers`.
    void put_pairs(const char *text, bool with_numbers);
    void put_array(const int32_t *values, uint64_t n_values);  // NULL: null
    void put_time();                                           // now, "2026-01-31T12:00:00.123Z"
};

struct HexPairs {
    char of[256][2];
    constexpr HexPairs() : of() {
        constexpr char kDigits[] = "0123456789abcdef";
        for (int i = 0; i < 256; ++i) of[i][0] = kDigits[i >> 4], of[i][1] = kDigits[i & 15];
    }
};
inline constexpr HexPairs kHexPairs;

inline void JsonText::put_hex(const uint8_t *bytes, size_t n_bytes) {
    if (!reserve(2 * n_bytes)) return;
    char *p = data + n;  // a local: what is written might be this object, as far as the compiler knows
    for (size_t i = 0; i < n_bytes; ++i, p += 2) memcpy(p, kHexPairs.of[bytes[i]], 2);
    n += 2 * n_bytes;
}

// Two digits for each 12 bits.
struct Base64Pairs {
    char of[4096][2];
    constexpr Base64Pairs() : of() {
        constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for (int i = 0; i < 4096; ++i) of[i][0] = kDigits[i >> 6], of[i][1] = kDigits[i & 63];
    }
};
inline constexpr Base64Pairs kBase64Pairs;

inline void JsonText::put_base64(const uint8_t *bytes, size_t n_bytes) {
    if (!reserve((n_bytes + 2) / 3 * 4)) return;
    char *p = data + n;  // a local, as above
    for (size_t i = 0; i < n_bytes; i += 3, p += 4) {
        const size_t left = n_bytes - i;
        const uint32_t v = uint32_t(bytes[i]) << 16 | (left > 1 ? uint32_t(bytes[i + 1]) << 8 : 0) |
                           (left > 2 ? uint32_t(bytes[i + 2]) : 0);
        memcpy(p, kBase64Pairs.of[v >> 12], 2);
        memcpy(p + 2, kBase64Pairs.of[v & 4095], 2);
        if (left < 3) p[3] = '=';
        if (left < 2) p[2] = '=';
    }
    n += (n_bytes + 2) / 3 * 4;
}

// Length of the well-formed UTF-8 sequence at `p`, 0 when there is none: no overlong form, surrogate or value above
// U+10FFFF.
inline size_t utf8_length(const unsigned char *p, size_t left) {
    const unsigned char b = p[0];
    if (b < 0x80) return 1;
    const size_t n = b >= 0xc2 && b < 0xe0 ? 2 : (b & 0xf0) == 0xe0 ? 3 : b >= 0xf0 && b < 0xf5 ? 4 : 0;
    if (!n || n > left) return 0;
    for (size_t i = 1; i < n; ++i) {
        if ((p[i] & 0xc0) != 0x80) return 0;
    }
    const bool bad = (b == 0xe0 && p[1] < 0xa0) || (b == 0xed && p[1] >= 0xa0) || (b == 0xf0 && p[1] < 0x90) ||
                     (b == 0xf4 && p[1] >= 0x90);
    return bad ? 0 : n;
}

inline void JsonText::put_string(const char *text, size_t n_bytes) {
    const unsigned char *bytes = reinterpret_cast<const unsigned char *>(text);
    put('"');
    for (size_t i = 0; i < n_bytes;) {
        size_t plain = i;  // bytes that are written as they are
        while (plain < n_bytes && bytes[plain] >= 0x20 && bytes[plain] < 0x80 && bytes[plain] != '"' &&
               bytes[plain] != '\\') {
            ++plain;
        }
        put(text + i, plain - i);
        i = plain;
        if (i == n_bytes) break;
        const size_t length = utf8_length(bytes + i, n_bytes - i);
        if (!length) {
            lit("\xef\xbf\xbd");
            ++i;
            continue;
        }
        const unsigned char b = bytes[i];
        if (b == '"' || b == '\\') {
            put('\\');
            put(char(b));
        } else if (b < 0x20) {
            lit("\\u00");
            put_hex(&b, 1);
        } else {
            put(text + i, length);
        }
        i += length;
    }
    put('"');
}

// The grammar of a JSON number.
inline bool is_json_number(const char *p, const char *end) {
    auto digits = [&] {
        const char *first = p;
        while (p < end && *p >= '0' && *p <= '9') ++p;
        return p > first;
    };
    if (p < end && *p == '-') ++p;
    const bool zero = p < end && *p == '0';
    const char *first = p;
    if (!digits() || (zero && p - first > 1)) return false;
    if (p < end && *p == '.' && (++p, !digits())) return false;
    if (p < end && (*p == 'e' || *p == 'E')) {
        ++p;
        if (p < end && (*p == '+' || *p == '-')) ++p;
        if (!digits()) return false;
    }
    return p == end;
}

inline void JsonText::put_pairs(const char *text, bool with_numbers) {
    put('{');
    for (const char *p = text; *p;) {
        const char *end = p + strcspn(p, ",");
        const char *equals = static_cast<const char *>(memchr(p, '=', size_t(end - p)));
        const char *value = equals ? equals + 1 : end;
        if (p != text) put(',');
        put_string(p, size_t((equals ? equals : end) - p));
        put(':');
        if (with_numbers && is_json_number(value, end)) {
            put(value, size_t(end - value));
        } else {
            put_string(value, size_t(end - value));
        }
        p = *end ? end + 1 : end;
    }
    put('}');
}

inline void JsonText::put_array(const int32_t *values, uint64_t n_values) {
    if (!values) return lit("null");
    put('[');
    for (uint64_t i = 0; i < n_values; ++i) {
        if (i) put(',');
        put_signed(values[i]);
    }
    put(']');
}

inline void JsonText::put_time() {
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    tm utc;
    gmtime_r(&now.tv_sec, &utc);
    char text[64];
    const int wrote =
        snprintf(text, sizeof text, "\"%04d-%02d-%02dT%02d:%02d:%02d.%03dZ\"", utc.tm_year + 1900, utc.tm_mon + 1,
                 utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, int(now.tv_nsec / 1000000));
    put(text, size_t(wrote));
}

}  // namespace bitnet
