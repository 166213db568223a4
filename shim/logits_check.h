// For `bitnet trace --self-check`: what the logits of each step were, whatever is selected and whichever plugin there
// is.
#pragma once

#include "shim/session.h"

namespace bitnet::shim {

// Appends a line for each row of logits of the step that has just been computed: run, position, BLAKE3. Nothing unless
// the settings ask for it. `run`: counted in this session.
void note_logits(Session *session);

}  // namespace bitnet::shim
