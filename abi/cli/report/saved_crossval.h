// A saved comparison of logits, as the report that it was printed from.
#pragma once

#include <string>
#include <vector>

#include "abi/cli/crossval/report.h"
#include "abi/cli/report/saved.h"

namespace bitnet::report {

// Of `bitnet crossval --format json`. Throws CommandError.
crossval::Report read_crossval(const Saved &document);
// The smallest class of legal variations that holds each of its prompts, "outside" when none does and "-" when nothing was
// compared; empty: it was not judged by envelopes.
std::vector<std::string> classes_of(const Saved &document);
// Of --receipt, or a receipt of BitNet-rs: fewer metrics, the same rows.
crossval::Report read_receipt(const Saved &document);

}  // namespace bitnet::report
