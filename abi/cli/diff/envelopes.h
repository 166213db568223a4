// The envelopes that two traces are judged by.
#pragma once

#include "abi/cli/diff/diff.h"
#include "abi/cli/envelope/cache.h"

namespace bitnet::diff {

// One for each run that both sides have. Where an envelope has to be measured, `model_path` is the model ("": where the
// trace says it is), which must have the hash that the trace names. Throws CommandError: neither side is this engine
// and version, model or token ids are unknown, and what envelope::obtain throws.
Envelopes envelopes_for(const Trace &a, const Trace &b, const envelope::EnvelopeOptions &options,
                        const std::string &model_path);

}  // namespace bitnet::diff
