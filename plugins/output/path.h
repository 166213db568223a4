// Where a sink writes: the paths of configurations, and who in this process holds which.
#pragma once

#include <cstddef>

namespace bitnet {

constexpr size_t kPathBytes = 4096;   // PATH_MAX of Linux
constexpr size_t kReasonBytes = 384;  // of a text that says why something failed

// Expands %p (process id), %%, "%," and "%;" of a path in a configuration. False with a reason.
bool expand_path(const char *pattern, size_t n_bytes, char out[kPathBytes], char reason[kReasonBytes]);
// "$BITNET_TRACE_DIR/bitnet-<pid><suffix>", in the working directory when that is unset. False with a reason.
bool default_path(const char *suffix, char out[kPathBytes], char reason[kReasonBytes]);

// `wanted`, or with "-1", "-2" before its extension when it is held already: a copy for release_path(). NULL: no
// memory. "a.jsonl.zst" has the extension ".jsonl.zst". What other plugins hold is not known here.
char *claim_path(const char *wanted);
// Frees `path`, and gives it up unless it `stays_taken` for the life of the process.
void release_path(char *path, bool stays_taken);

}  // namespace bitnet
