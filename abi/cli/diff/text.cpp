#include "abi/cli/diff/text.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace bitnet::diff {

std::string format_text(const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = std::vsnprintf(nullptr, 0, format, args);
    va_end(args);
    std::string text(n > 0 ? size_t(n) : 0, '\0');
    if (n > 0) std::vsnprintf(text.data(), text.size() + 1, format, again);
    va_end(again);
    return text;
}

std::string printable(std::string_view text, size_t max_bytes) {
    std::string out;
    std::string_view shown = text.substr(0, max_bytes);
    for (size_t i = 0; i < shown.size(); ++i) {
        auto byte = static_cast<unsigned char>(shown[i]);
        auto next = static_cast<unsigned char>(i + 1 < shown.size() ? shown[i + 1] : 0);
        // U+0080 to U+009F are control characters too: some terminals take them for escape sequences.
        if (byte == 0xc2 && next >= 0x80 && next < 0xa0) {
            out += format_text("\\x%02x", unsigned(next));
            ++i;
        } else if (byte < 0x20 || byte == 0x7f) {
            out += format_text("\\x%02x", unsigned(byte));
        } else {
            out += shown[i];
        }
    }
    // A cut inside a UTF-8 sequence would leave half a character.
    if (text.size() > max_bytes) {
        while (!out.empty() && (static_cast<unsigned char>(out.back()) & 0xc0) == 0x80) out.pop_back();
        if (!out.empty() && static_cast<unsigned char>(out.back()) >= 0xc0) out.pop_back();
        out += "...";
    }
    return out;
}

std::string short_number(double value) { return format_text("%.2g", value); }

std::string rounded_up(double value) {
    if (!std::isfinite(value) || value <= 0) return short_number(value);
    double unit = std::pow(10.0, std::floor(std::log10(value)) - 1);
    std::string text = short_number(value);
    for (double v = value; std::strtod(text.c_str(), nullptr) < value; v += unit) text = short_number(v);
    return text;
}

std::string full_number(double value) { return format_text("%.9g", value); }

std::string place_name(Key key, bool several_runs) {
    std::string text = several_runs ? format_text("run %d, ", run_of(key)) : "";
    text += format_text("token %d, ", position_of(key));
    if (layer_of(key) >= 0) text += format_text("layer %d, ", layer_of(key));
    return text + std::string(find_stage(node_of(key))->name);
}

std::string record_name(Key key) {
    std::string text = format_text("t%d/", position_of(key));
    if (layer_of(key) >= 0) text += format_text("blk%d/", layer_of(key));
    return text + std::string(find_stage(node_of(key))->name);
}

}  // namespace bitnet::diff
