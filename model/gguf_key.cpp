// A key's value: decoding of items and text for people.
#include <charconv>
#include <cstring>

#include "model/error.h"
#include "model/gguf.h"

namespace bitnet {

namespace {

template <typename T> T item_at(const GgufKey &key, uint64_t i) {
    T value;
    memcpy(&value, key.data + i * sizeof(T), sizeof(T));
    return value;
}

// Calls `use` with item i in its own type.
template <typename Use> auto with_item(const GgufKey &key, uint64_t i, Use use) {
    if (i >= key.length) {
        fail(Status::invalid, "key '%s': item %llu: expected below %llu", quoted(key.name).c_str(),
             (unsigned long long)i, (unsigned long long)key.length);
    }
    switch (key.item_type) {
    case GgufType::u8: return use(item_at<uint8_t>(key, i));
    case GgufType::i8: return use(item_at<int8_t>(key, i));
    case GgufType::u16: return use(item_at<uint16_t>(key, i));
    case GgufType::i16: return use(item_at<int16_t>(key, i));
    case GgufType::u32: return use(item_at<uint32_t>(key, i));
    case GgufType::i32: return use(item_at<int32_t>(key, i));
    case GgufType::f32: return use(item_at<float>(key, i));
    case GgufType::u64: return use(item_at<uint64_t>(key, i));
    case GgufType::i64: return use(item_at<int64_t>(key, i));
    case GgufType::f64: return use(item_at<double>(key, i));
    case GgufType::boolean: return use(item_at<uint8_t>(key, i) != 0);
    case GgufType::string:
    case GgufType::array: break;
    }
    fail(Status::invalid, "key '%s': type %s: expected a number", quoted(key.name).c_str(), key.type_text().c_str());
}

template <typename T> std::string number_text(T value) {
    if constexpr (std::is_same_v<T, bool>) {
        return value ? "true" : "false";
    } else {
        char buffer[32];  // the shortest text that reads back as the same value
        return std::string(buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr);
    }
}

std::string json_string(std::string_view bytes) {
    std::string text = "\"";
    for (const char c : bytes) {
        if (c == '"' || c == '\\') {
            text += {'\\', c};
        } else if ((unsigned char)c < 0x20) {
            text += format_text("\\u%04x", (unsigned)c);
        } else {
            text += c;
        }
    }
    return text + "\"";
}

// Saturates instead of wrapping: a limit check on the result must not be fooled.
template <typename T> int64_t to_integer(T value) {
    if constexpr (std::is_floating_point_v<T>) {
        if (!(value == value)) return 0;
        if (value >= T(9223372036854775808.0)) return INT64_MAX;
        if (value <= T(-9223372036854775808.0)) return INT64_MIN;
    } else if constexpr (std::is_same_v<T, uint64_t>) {
        if (value > uint64_t(INT64_MAX)) return INT64_MAX;
    }
    return int64_t(value);
}

}  // namespace

const char *gguf_type_name(GgufType type) {
    static const char *const names[] = {"u8",   "i8",  "u16", "i16", "u32", "i32", "f32",
                                        "bool", "str", "arr", "u64", "i64", "f64"};
    const auto id = uint32_t(type);
    return id < std::size(names) ? names[id] : "unknown";
}

std::string GgufKey::type_text() const {
    if (type != GgufType::array) return gguf_type_name(type);
    return std::string("arr[") + gguf_type_name(item_type) + "]";
}

double GgufKey::number(uint64_t i) const {
    return with_item(*this, i, [](auto value) { return double(value); });
}

int64_t GgufKey::integer(uint64_t i) const {
    return with_item(*this, i, [](auto value) { return to_integer(value); });
}

std::string GgufKey::text(uint64_t max_items) const {
    const auto as_text = [](auto value) { return number_text(value); };
    if (type == GgufType::string) return std::string(strings[0]);
    if (type != GgufType::array) return with_item(*this, 0, as_text);
    const uint64_t n_shown = max_items == 0 || max_items > length ? length : max_items;
    std::string list = "[";
    for (uint64_t i = 0; i < n_shown; i++) {
        if (i > 0) list += ", ";
        list += item_type == GgufType::string ? json_string(strings[i]) : with_item(*this, i, as_text);
    }
    if (n_shown < length) list += n_shown > 0 ? ", ..." : "...";
    return list + "]";
}

}  // namespace bitnet
