// The check sink's report: one JSON object in a file of its own, replaced as a whole whenever there is news.
#pragma once

#include "plugins/check/row.h"
#include "plugins/output/json_text.h"
#include "plugins/output/path.h"

namespace bitnet {

struct CheckCounts {
    uint64_t compared, equal, within, different;
    uint64_t missing;      // live rows that the trace does not have
    uint64_t not_reached;  // records of the trace that no live row came for, of runs that are over
};

struct CheckReport {
    char *path = nullptr;  // absolute; NULL: no report is wanted
    char reason[kReasonBytes] = "";
};

struct CheckFindings {
    const char *verdict;  // "running", "match", "divergence", "mismatch", "nothing_compared"
    const char *trace;
    double tolerance;  // below 0: none
    uint64_t n_runs;
    CheckCounts counts;
    const char *preflight;  // JSON strings with commas between them
    size_t n_preflight_bytes;
    const RowDifference *first;  // NULL: none
    const char *text;            // of it
};

// Takes the path of a configuration. False with a reason.
bool report_begin(CheckReport *report, const char *pattern, size_t n_bytes);
// False with a reason.
bool report_write(CheckReport *report, const CheckFindings &findings);
void report_end(CheckReport *report);

}  // namespace bitnet
