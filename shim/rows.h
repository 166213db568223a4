// Which token positions the rows of a graph are, from the graph's own inputs.
#pragma once

#include "shim/session.h"

namespace bitnet::shim {

// Fills session->rows. False: this graph cannot be traced (counted why).
bool read_rows(Session *session);

// The values of a tensor where we can read them: its own memory, else a copy in `scratch`. NULL: out of memory, no
// data.
const void *values_of(const Engine &engine, const Tensor *tensor, Buffered *scratch);

}  // namespace bitnet::shim
