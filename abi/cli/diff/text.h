// Text for people: numbers, and names from files made safe to print.
#pragma once

#include "abi/cli/diff/stages.h"

#include <string>
#include <string_view>

namespace bitnet::diff {

std::string format_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Text from a file on one line of a terminal: control bytes as \xNN, cut to `max_bytes` with "...".
std::string printable(std::string_view text, size_t max_bytes = 80);

// "3.2e-05", "0", "inf": two significant digits, for distances.
std::string short_number(double value);
// The same rounded up to two digits, so that it is never below `value`.
std::string rounded_up(double value);
// Nine significant digits: tells any two f32 apart.
std::string full_number(double value);

// "token 3, layer 2, ffn_act"; "run 1, " in front when the traces hold several runs.
std::string place_name(Key key, bool several_runs);
// "t3/blk2/ffn_act", as the records name it.
std::string record_name(Key key);

}  // namespace bitnet::diff
