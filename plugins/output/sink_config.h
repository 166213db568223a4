// A sink's configuration, "key=value,key=value". A '%' protects the byte after it: "%," is no end of a value.
#pragma once

#include <cstddef>
#include <cstring>

namespace bitnet {

struct ConfigItem {
    const char *text;  // "key=value"
    size_t n_bytes;
    size_t n_key;       // bytes before '='; all of them when there is none
    const char *value;  // escapes still in it (expand_path() resolves them); NULL: no '='
    size_t n_value;

    bool is(const char *key) const { return value && n_key == strlen(key) && memcmp(text, key, n_key) == 0; }
};

// Takes the next item off `*config`; false at the end.
inline bool next_config_item(const char **config, ConfigItem *item) {
    const char *p = *config;
    if (!*p) return false;
    *item = {p, 0, 0, nullptr, 0};
    for (; *p && *p != ','; p += p[0] == '%' && p[1] ? 2 : 1) {
        if (*p == '=' && !item->value) item->value = p + 1;
    }
    item->n_bytes = size_t(p - item->text);
    item->n_key = item->value ? size_t(item->value - 1 - item->text) : item->n_bytes;
    item->n_value = item->value ? size_t(p - item->value) : 0;
    *config = *p ? p + 1 : p;
    return true;
}

// A decimal number from `min` to `max`, of the whole value.
inline bool config_number(const ConfigItem &item, long min, long max, long *out) {
    const bool minus = item.n_value && item.value[0] == '-';
    long number = 0;
    if (item.n_value == size_t(minus) || item.n_value > 9) return false;
    for (size_t i = minus; i < item.n_value; ++i) {
        if (item.value[i] < '0' || item.value[i] > '9') return false;
        number = 10 * number + (item.value[i] - '0');
    }
    *out = minus ? -number : number;
    return *out >= min && *out <= max;
}

}  // namespace bitnet
