#include "abi/cli/report/saved.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>

#include "abi/cli/terminal.h"

namespace bitnet::report {

namespace {

using nlohmann::json;

constexpr size_t value_bytes_shown = 40;

std::string shown(const json &value) {
    if (value.is_object()) return "an object";
    if (value.is_array()) return "a list";
    std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
    if (text.size() > value_bytes_shown) text = text.substr(0, value_bytes_shown) + "...";
    return printable(text);
}

bool has_keys(const json &document, std::initializer_list<const char *> keys) {
    for (const char *key : keys)
        if (!document.contains(key)) return false;
    return true;
}

}  // namespace

const char *kind_name(Kind kind) {
    switch (kind) {
    case Kind::diff: return "bitnet diff";
    case Kind::crossval: return "bitnet crossval";
    case Kind::receipt: return "a crossval receipt";
    case Kind::explain: break;
    }
    return "bitnet explain";
}

json load_json(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw CommandError(printable(path) + ": cannot open: " + std::strerror(errno));
    file.peek();  // a folder opens, and fails when it is read
    if (file.bad()) throw CommandError(printable(path) + ": cannot read: " + std::strerror(errno));
    std::ostringstream bytes;
    bytes << file.rdbuf();
    const std::string text = std::move(bytes).str();
    try {
        return json::parse(text);
    } catch (const json::parse_error &error) {
        if (text.find_first_not_of(" \t\r\n") == std::string::npos)
            throw CommandError(printable(path) + ": empty, expected the JSON of a comparison");
        if (error.byte > text.size())
            throw CommandError(printable(path) + text_of(": JSON that is cut short after %zu bytes", text.size()));
        throw CommandError(printable(path) + text_of(": no JSON: byte %zu is not what could follow", error.byte));
    } catch (const json::exception &) {
        throw CommandError(printable(path) + ": JSON with a number that no double can hold");
    }
}

Kind kind_of(const json &document, const std::string &path) {
    if (document.is_object()) {
        if (has_keys(document, {"rule", "would_pass", "preflight"})) return Kind::diff;
        if (has_keys(document, {"groups", "operations"})) return Kind::explain;
        if (has_keys(document, {"version", "thresholds", "rows"})) return Kind::receipt;
        if (has_keys(document, {"limits", "prompts", "against"})) return Kind::crossval;
    }
    throw CommandError(printable(path) + ": JSON, but no saved comparison: expected what bitnet diff, crossval or "
                                         "explain print with --format json, or a receipt");
}

void Saved::fail(const std::string &expected) const {
    throw CommandError(place_ + ": found " + shown(*value_) + ", expected " + expected);
}

bool Saved::has(const char *key) const {
    if (!value_->is_object()) fail("an object");
    const auto found = value_->find(key);
    return found != value_->end() && !found->is_null();
}

Saved Saved::at(const char *key) const {
    if (!value_->is_object()) fail("an object");
    const auto found = value_->find(key);
    if (found == value_->end()) throw CommandError(place_ + ": no \"" + key + "\", which every such file has");
    return {*found, place_ + ": " + key};
}

std::vector<Saved> Saved::list(const char *key) const {
    const Saved list = at(key);
    if (!list.value_->is_array()) list.fail("a list");
    std::vector<Saved> items;
    for (const nlohmann::json &item : *list.value_)
        items.push_back({item, list.place_ + text_of("[%zu]", items.size())});
    return items;
}

std::string Saved::text_or(const char *key, const std::string &otherwise) const {
    return has(key) ? text(key) : otherwise;
}

std::vector<std::string> Saved::texts(const char *key) const {
    std::vector<std::string> texts;
    for (const Saved &item : list(key)) texts.push_back(item.as_text());
    return texts;
}

double Saved::number_or_nan(const char *key) const {
    return has(key) ? number(key) : std::numeric_limits<double>::quiet_NaN();
}

uint64_t Saved::count(const char *key) const {
    const int64_t value = integer(key);
    if (value < 0) at(key).fail("a number that is not negative");
    return uint64_t(value);
}

bool Saved::flag(const char *key) const {
    const Saved value = at(key);
    if (!value.value_->is_boolean()) value.fail("true or false");
    return value.value_->get<bool>();
}

std::string Saved::as_text() const {
    if (!value_->is_string()) fail("a text");
    return value_->get<std::string>();
}

double Saved::as_number() const {
    if (value_->is_null()) return std::numeric_limits<double>::quiet_NaN();
    if (value_->is_number()) return value_->get<double>();
    if (value_->is_string() && value_->get_ref<const std::string &>() == "Infinity") return HUGE_VAL;
    if (value_->is_string() && value_->get_ref<const std::string &>() == "-Infinity") return -HUGE_VAL;
    fail("a number");
}

int64_t Saved::as_integer() const {
    if (value_->is_number_unsigned() && value_->get<uint64_t>() > uint64_t(std::numeric_limits<int64_t>::max()))
        fail("a whole number of 64 bits");
    if (!value_->is_number_integer()) fail("a whole number");
    return value_->get<int64_t>();
}

}  // namespace bitnet::report
