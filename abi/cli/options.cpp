#include "abi/cli/options.h"

#include <algorithm>
#include <charconv>

#include "abi/cli/terminal.h"

namespace bitnet {

bool parse_whole_number(const std::string &text, uint64_t &value) {
    const char *end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    return error == std::errc() && stop == end;
}

CLI::Validator number_between(double low, double high) {
    return CLI::Validator(
        [low, high](std::string &text) {
            double value = 0;
            const char *end = text.data() + text.size();
            const auto [stop, error] = std::from_chars(text.data(), end, value);
            const bool good = error == std::errc() && stop == end && value >= low && value <= high;
            return good ? std::string()
                        : text_of("found '%s', expected a number from %g to %g", text.c_str(), low, high);
        },
        "");
}

CLI::Validator whole_number_between(uint64_t low, uint64_t high) {
    return CLI::Validator(
        [low, high](std::string &text) {
            uint64_t value = 0;
            if (parse_whole_number(text, value) && value >= low && value <= high) return std::string();
            return text_of("found '%s', expected a whole number from %llu to %llu", text.c_str(),
                           static_cast<unsigned long long>(low), static_cast<unsigned long long>(high));
        },
        "");
}

CLI::Validator one_of(std::vector<std::string> values) {
    return CLI::Validator(
        [values = std::move(values)](std::string &text) {
            if (std::find(values.begin(), values.end(), text) != values.end()) return std::string();
            std::string list;
            for (const std::string &value : values) list += (list.empty() ? "" : ", ") + value;
            return text_of("found '%s', expected %s%s", text.c_str(), values.size() > 1 ? "one of " : "", list.c_str());
        },
        "");
}

}  // namespace bitnet
