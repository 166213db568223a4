// Other thresholds on a saved comparison, without what was compared.
#pragma once

#include <string>

#include "abi/cli/crossval/limits.h"
#include "abi/cli/crossval/report.h"
#include "abi/cli/diff/arguments.h"
#include "abi/cli/report/saved.h"

namespace bitnet::report {

struct Rechecked {
    int exit_code = 2;
    std::string text, json;  // to print
    std::vector<std::string> errors;
};

// Throws CommandError when the file cannot judge what was asked.
Rechecked recheck_diff(const Saved &document, const diff::Tolerance &tolerance, bool as_saved);
Rechecked recheck_crossval(const Saved &document, bool is_receipt, const crossval::LimitOptions &options);

}  // namespace bitnet::report
