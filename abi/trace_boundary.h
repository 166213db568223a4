// What tracing our own engine and tracing a foreign one share.
#pragma once

#include "bitnet_c.h"

struct TraceHost;

namespace bitnet {

// Finds plugins beside this library, logs to bitnet_set_log, survives what plugins throw. Throws std::bad_alloc.
TraceHost *make_trace_host();

// A status of the trace host as an Error.
void check(bitnet_status_t status, const char *error);

}  // namespace bitnet
