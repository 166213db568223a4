// Calls into plugins, kept from harming the evaluation: what they throw, and what they crash with while being loaded.
#pragma once

#include <cstddef>

#include "plugins/host/trace_host.h"

namespace bitnet {

typedef bitnet_status_t (*GuardedBody)(void *argument);

// Runs body(argument) under `guard` (NULL: none). An exception becomes BITNET_E_PLUGIN, its text in `text`.
bitnet_status_t run_guarded(TraceGuardFn guard, GuardedBody body, void *argument, char *text, size_t capacity);

// The same for a body that loads a plugin or opens it: a fatal signal of this thread in it becomes BITNET_E_PLUGIN too,
// "crashed (SIGSEGV)". What the body held when it crashed stays held (memory, locks, the loader's own too if a
// constructor crashed), which beats the loss of the process that asked only to be traced. While it runs, the process's
// handlers of these signals are ours; signals of other threads go on to the handlers that were there. Without `guard`
// signals are left alone too: in a foreign process they are not ours.
bitnet_status_t run_crash_guarded(TraceGuardFn guard, GuardedBody body, void *argument, char *text, size_t capacity);

// For lambdas that return bitnet_status_t.
template <class Body> struct GuardedCall {
    static bitnet_status_t run(void *body) { return (*static_cast<Body *>(body))(); }
};
template <class Body> bitnet_status_t guarded_call(TraceGuardFn guard, char *text, size_t capacity, Body body) {
    return run_guarded(guard, GuardedCall<Body>::run, &body, text, capacity);
}
template <class Body> bitnet_status_t crash_guarded_call(TraceGuardFn guard, char *text, size_t capacity, Body body) {
    return run_crash_guarded(guard, GuardedCall<Body>::run, &body, text, capacity);
}

}  // namespace bitnet
