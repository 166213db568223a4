#include "abi/cli/report/html.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "abi/cli/diff/text.h"
#include "abi/cli/terminal.h"

namespace bitnet::report {

namespace {

// Marks and overrides of the direction of writing, and what joins or hides characters.
bool is_invisible(uint32_t c) {
    return (c >= 0x200B && c <= 0x200F) || (c >= 0x202A && c <= 0x202E) || (c >= 0x2060 && c <= 0x206F) ||
           c == 0xFEFF || c == 0x061C || c == 0x2028 || c == 0x2029 || (c >= 0x80 && c < 0xA0);
}

// Length of the UTF-8 sequence at `at`, its character in `c`; 0: none.
size_t decode(std::string_view text, size_t at, uint32_t &c) {
    const auto byte = [&](size_t i) { return uint8_t(text[at + i]); };
    const uint8_t lead = byte(0);
    if (lead < 0x80) {
        c = lead;
        return 1;
    }
    const size_t n = lead >= 0xF0 && lead < 0xF5   ? 4
                     : lead >= 0xE0 && lead < 0xF0 ? 3
                     : lead >= 0xC2 && lead < 0xE0 ? 2
                                                   : 0;
    if (n == 0 || at + n > text.size()) return 0;
    c = lead & (0xFFu >> (n + 1));
    for (size_t i = 1; i < n; ++i) {
        if ((byte(i) & 0xC0) != 0x80) return 0;
        c = c << 6 | (byte(i) & 0x3Fu);
    }
    const uint32_t least = n == 4 ? 0x10000 : n == 3 ? 0x800 : 0x80;
    const bool is_character = c >= least && c <= 0x10FFFF && !(c >= 0xD800 && c < 0xE000) && (c & 0xFFFE) != 0xFFFE;
    return is_character ? n : 0;
}

const char *entity(char c) {
    switch (c) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    default: return nullptr;
    }
}

}  // namespace

std::string escaped(std::string_view text) {
    std::string out;
    for (size_t at = 0; at < text.size();) {
        uint32_t c = 0;
        const size_t n = decode(text, at, c);
        if (n == 0 || (n == 1 && (c < 0x20 || c == 0x7F))) {
            out += c == '\n' && n == 1 ? "\\n" : c == '\t' && n == 1 ? "\\t" : text_of("\\x%02x", uint8_t(text[at]));
            ++at;
            continue;
        }
        const char *name = n == 1 ? entity(text[at]) : nullptr;
        if (name) {
            out += name;
        } else if (is_invisible(c)) {
            out += text_of("\\u{%x}", c);
        } else {
            out += text.substr(at, n);
        }
        at += n;
    }
    return out;
}

std::string escaped_cut(std::string_view text, size_t bytes_max) {
    if (text.size() <= bytes_max) return escaped(text);
    size_t end = bytes_max;
    while (end > 0 && (uint8_t(text[end]) & 0xC0) == 0x80) --end;  // not inside a character
    return escaped(text.substr(0, end)) + text_of("&#8230; (%zu bytes more)", text.size() - end);
}

std::string escaped_sentence(std::string_view text, size_t bytes_max) {
    const std::string whole = escaped_cut(text, bytes_max);
    std::string out;
    for (size_t at = 0; at < whole.size();) {
        const size_t option = std::min(whole.find("--", at), whole.size());
        out += whole.substr(at, option - at);
        const size_t end = std::min(whole.find_first_of(" );,&", option), whole.size());
        if (option < end) out += "<span class=\"nb\">" + whole.substr(option, end - option) + "</span>";
        at = end;
        // What stopped it is no option's.
        if (at < whole.size() && option < whole.size()) out += whole[at++];
    }
    return out;
}

std::string plural(uint64_t n, const char *noun) { return with_commas(n) + " " + noun + (n == 1 ? "" : "s"); }

std::string code(std::string_view text) {
    constexpr size_t name_bytes_max = 400;
    return "<code>" + escaped_cut(text, name_bytes_max) + "</code>";
}

void Table::add(std::vector<std::string> cells, const std::string &row_class) {
    rows_ += row_class.empty() ? "<tr>" : "<tr class=\"" + row_class + "\">";
    for (size_t i = 0; i < cells.size(); ++i) {
        if (i == 0) {
            rows_ += "<th scope=\"row\">" + cells[i] + "</th>";
        } else {
            rows_ += (columns_[i].numeric ? "<td class=\"n\">" : "<td>") + cells[i] + "</td>";
        }
    }
    rows_ += "</tr>\n";
    ++n_rows_;
}

std::string Table::html() const {
    std::string out = std::string("<div class=\"scroll\" tabindex=\"0\"><table") +
                      (narrow_ ? " class=\"narrow\"" : "") + ">\n<caption>" + caption_ + "</caption>\n<thead><tr>";
    for (size_t i = 0; i < columns_.size(); ++i)
        out += (columns_[i].numeric && i > 0 ? "<th scope=\"col\" class=\"n\">" : "<th scope=\"col\">") +
               escaped(columns_[i].title) + "</th>";
    return out + "</tr></thead>\n<tbody>\n" + rows_ + "</tbody></table></div>\n";
}

std::string details(const std::string &summary, const std::string &content) {
    return "<details><summary>" + summary + "</summary>\n" + content + "</details>\n";
}

std::string distance_text(double distance) {
    if (std::isnan(distance)) return "not measurable";
    if (std::isinf(distance)) return distance > 0 ? "infinite" : "-infinite";
    return diff::short_number(distance);
}

std::string value_text(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value > 0 ? "Inf" : "-Inf";
    return diff::full_number(value);
}

}  // namespace bitnet::report
