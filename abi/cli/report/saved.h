// Reading the JSON that diff, crossval and explain write. It may be damaged, of another program or made up: whatever is
// not as documented is one line that names the place.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace bitnet::report {

enum class Kind { diff, crossval, receipt, explain };
const char *kind_name(Kind kind);

// Throws CommandError: unreadable, or no JSON.
nlohmann::json load_json(const std::string &path);
// What wrote it, from its keys. Throws CommandError when that is none of them.
Kind kind_of(const nlohmann::json &document, const std::string &path);

// A value together with where it stands, for messages. Borrows the document. Everything throws CommandError on a value
// of another type.
class Saved {
public:
    Saved(const nlohmann::json &value, std::string place) : value_(&value), place_(std::move(place)) {}

    bool has(const char *key) const;  // there and not null
    Saved at(const char *key) const;
    std::vector<Saved> list(const char *key) const;

    std::string text(const char *key) const { return at(key).as_text(); }
    std::string text_or(const char *key, const std::string &otherwise) const;
    std::vector<std::string> texts(const char *key) const;
    double number(const char *key) const { return at(key).as_number(); }
    double number_or_nan(const char *key) const;  // also when there is no such key
    int64_t integer(const char *key) const { return at(key).as_integer(); }
    uint64_t count(const char *key) const;  // 0 or more
    bool flag(const char *key) const;
    bool flag_or(const char *key, bool otherwise) const { return has(key) ? flag(key) : otherwise; }

    bool is_null() const { return value_->is_null(); }
    std::string as_text() const;
    double as_number() const;  // "Infinity" and "-Infinity" too; null is NaN, what was not measurable
    int64_t as_integer() const;
    const nlohmann::json &json() const { return *value_; }
    const std::string &place() const { return place_; }
    [[noreturn]] void fail(const std::string &expected) const;  // "FILE: counts.compared: found null, expected ..."

private:
    const nlohmann::json *value_;
    std::string place_;
};

}  // namespace bitnet::report
