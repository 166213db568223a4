// Fields of a JSON record: each begins with its comma, for a record begins with "record" and "run".
#pragma once

#include "plugins/output/json_text.h"

namespace bitnet::modeltracer {

template <size_t N> void put_key(JsonText *out, const char (&key)[N]) {
    out->lit(",\"");
    out->put(key, N - 1);
    out->lit("\":");
}
template <size_t N> void put_real(JsonText *out, const char (&key)[N], double value) {
    put_key(out, key);
    out->put_number(value);
}
template <size_t N> void put_integer(JsonText *out, const char (&key)[N], int64_t value) {
    put_key(out, key);
    out->put_signed(value);
}
template <size_t N> void put_text(JsonText *out, const char (&key)[N], const char *value) {
    put_key(out, key);
    if (value)
        out->put_string(value);
    else
        out->lit("null");
}
template <size_t N> void put_bool(JsonText *out, const char (&key)[N], bool value) {
    put_key(out, key);
    if (value)
        out->lit("true");
    else
        out->lit("false");
}
template <size_t N> void begin_record(JsonText *out, const char (&kind)[N], uint32_t run) {
    out->lit("{\"record\":\"");
    out->put(kind, N - 1);
    out->lit("\",\"run\":");
    out->put_unsigned(run);
}

// A number in a text for people: JSON's quotes around NaN and Infinity left out.
inline void put_plain(JsonText *out, double value) {
    if (value != value) return out->lit("NaN");
    if (value - value != 0) return value < 0 ? out->lit("-Inf") : out->lit("Inf");
    out->put_number(value);
}
inline void put_words(JsonText *out, const char *words) { out->put(words, strlen(words)); }

}  // namespace bitnet::modeltracer
