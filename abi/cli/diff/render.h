// A report for people and for programs (DIFF.md documents the JSON).
#pragma once

#include "abi/cli/diff/diff.h"

namespace bitnet::diff {

std::string render_text(const Report &report, const Trace &a, const Trace &b, const Options &options, bool colour);
// One object, indented, with a final newline.
std::string render_json(const Report &report, const Trace &a, const Trace &b, const Options &options);

}  // namespace bitnet::diff
