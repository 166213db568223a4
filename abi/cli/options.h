// Checks of option values. Each names what was found and what is expected; CLI11's own let NaN and "-1" for an unsigned
// number through.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace bitnet {

// Decimal digits only; false when `text` is anything else or too large.
bool parse_whole_number(const std::string &text, uint64_t &value);

CLI::Validator number_between(double low, double high);
CLI::Validator whole_number_between(uint64_t low, uint64_t high);
CLI::Validator one_of(std::vector<std::string> values);

}  // namespace bitnet
