// Trace files into memory. Never throws but for memory: whatever is wrong with the input becomes a problem of the
// trace.
#pragma once

#include "abi/cli/diff/trace.h"

namespace bitnet::diff {

// `path`: a file, or a folder whose *.jsonl and *.jsonl.zst are read in name order with their runs renumbered.
Trace read_trace(const std::string &path);

}  // namespace bitnet::diff
