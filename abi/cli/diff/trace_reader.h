// Trace files, record by record. Never throws but for memory: whatever is wrong with the input becomes a problem of the
// trace.
#pragma once

#include "abi/cli/diff/trace.h"

#include <functional>

namespace bitnet::diff {

// Borrowed for the call.
using TakeRecord = std::function<void(const Record &)>;

// `path`: a file, or a folder whose *.jsonl and *.jsonl.zst are read in name order with their runs renumbered; a folder
// without any holds BitNet-rs's *.trace, or raw values (raw_values.h). Hands every record to `take` as it is read,
// duplicates included, and fills the rest of `trace` before it returns.
void stream_trace(const std::string &path, Trace &trace, const TakeRecord &take);

// All of it, records too.
Trace read_trace(const std::string &path);

// "FILE:LINE: duplicate of NAME, first in line LINE of FILE"
std::string duplicate_text(const Trace &trace, Key key, Place second, Place first);

}  // namespace bitnet::diff
