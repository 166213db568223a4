// What two runs must have in common before any of their numbers can be compared.
#pragma once

#include "plugins/check/trace.h"

namespace bitnet {

constexpr size_t kFactBytes = 240;

// Given each line of text about a difference; `is_mismatch`: the runs are not comparable.
typedef void (*FactFn)(void *user, bool is_mismatch, const char *text);

void preflight_run(const TraceRunInfo &trace_run, const bitnet_run_begin_event_t &event, FactFn tell, void *user);
void preflight_step(const TraceRunInfo &trace_run, const bitnet_step_event_t &event, FactFn tell, void *user);

}  // namespace bitnet
