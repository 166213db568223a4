/* The trace host: which stages are wanted, which sinks get them, and the services that sinks share. One per context of
 * our own engine; the shim makes one per scheduler of a foreign one. C-like C++: no exceptions, no RTTI, no libstdc++,
 * so that it can live in any process. One thread at a time, like the context that owns it. */
#pragma once

#include "bitnet_c.h"

struct TraceHost; /* opaque */

/* What a run record says; pointers are read during trace_host_begin_run only. Same meaning as bitnet_run_begin_event_t.
 */
struct TraceRun {
    const char *engine, *engine_version, *model_path, *model_hash, *architecture, *hyperparameters, *semantics, *isa,
        *kv_type;
    int32_t n_threads, n_batch;
    const int32_t *tokens;
    uint64_t n_tokens;
};

typedef void (*TraceLogFn)(void *user, int32_t level, const char *text);

/* Runs body(argument) and returns its status; where the program has C++ exceptions, one that body throws becomes
 * BITNET_E_PLUGIN and one line in `text`. */
typedef bitnet_status_t (*TraceGuardFn)(bitnet_status_t (*body)(void *argument), void *argument, char *text,
                                        uint64_t capacity);

/* What only the engine itself can tell a sink, beside the stages; called while an event is delivered. Each function
 * may be NULL; results are borrowed until the next call or the end of the event; NULL: it cannot. */
struct TraceEngine {
    void *user;
    int32_t n_vocab, n_embd;
    const float *(*lens)(void *user, const float *hidden);
    /* `row`: of the rows that were given to trace_host_tensor. */
    const float *(*reference_linear)(void *user, int32_t stage, int32_t layer, uint32_t row);
    const float *(*reference_logits)(void *user, int32_t position);
};

/* NULL when out of memory. `library_dir`: folder that holds bitnet/plugins (borrowed; may be NULL). */
TraceHost *trace_host_create(const char *library_dir, TraceLogFn log, void *log_user);
/* Both may be set once, before the first sink is attached. `engine` is copied. */
void trace_host_set_guard(TraceHost *host, TraceGuardFn guard);
void trace_host_set_engine(TraceHost *host, const TraceEngine *engine);
/* Ends the run, closes every sink, frees. */
void trace_host_destroy(TraceHost *host);

/* Errors of the functions below: a status, and one line in `error` (capacity TRACE_ERROR_BYTES). */
#define TRACE_ERROR_BYTES 512

bitnet_status_t trace_host_attach_sink(TraceHost *host, const bitnet_trace_sink_t *sink, void *user, const char *config,
                                       char *error);
bitnet_status_t trace_host_load_plugin(TraceHost *host, const char *path, const char *config, char *error);
/* Attaches every "name" or "name:config" of a list, ';' between them. Stops at the first that fails. */
bitnet_status_t trace_host_attach_list(TraceHost *host, const char *list, char *error);
/* Attaches what BITNET_TRACE_PLUGIN names and selects what BITNET_TRACE_SELECT says. Never fails the caller: failures
 * are counted, logged and kept as last_failure. A bad BITNET_TRACE_SELECT attaches nothing. */
void trace_host_attach_environment(TraceHost *host);
/* 1 when the environment asks for any plugin: cheap, so that a context without tracing makes no host. */
int trace_host_environment_wants(void);
void trace_host_detach_all(TraceHost *host);
bitnet_status_t trace_host_select(TraceHost *host, const char *selection, char *error);
bitnet_status_t trace_host_set_prompt(TraceHost *host, const char *text, uint64_t n_bytes);
void trace_host_stats(const TraceHost *host, bitnet_trace_stats_t *out); /* fills everything but struct_size */

/* The engine's side. Runs and steps nest: begin_run, (begin_step, tensor..., end_step)..., end_run. */
int trace_host_active(const TraceHost *host); /* 1 when a sink is attached */
int trace_host_run_open(const TraceHost *host);
void trace_host_begin_run(TraceHost *host, const TraceRun *run);
void trace_host_begin_step(TraceHost *host, int32_t position, const int32_t *tokens, uint64_t n_tokens);
/* 1 when no sink wants runs, steps or the cache's state: without a tensor to give it, nobody learns of a step. */
int trace_host_wants_tensors_alone(const TraceHost *host);
int trace_host_wants(const TraceHost *host, int32_t stage, int32_t layer, int32_t first_position, int32_t n_rows);
/* The same for a single row, also before a run is open. */
int trace_host_selects(const TraceHost *host, int32_t stage, int32_t layer, int32_t position);
/* The same for some position, whichever: 0 only when none can be wanted. */
int trace_host_selects_layer(const TraceHost *host, int32_t stage, int32_t layer);
#define TRACE_NS_UNKNOWN UINT64_MAX

/* Delivers the selected rows of `rows` (its header.layer, header.position, stage, dtype, shape, ... filled in; header
 * size, type, seq, run, time_ns and stage_name are set here), split where the selection leaves rows out. `ns` is
 * measured here when 0: the time since the last delivery or begin_step ended; TRACE_NS_UNKNOWN is delivered as 0. Not
 * const: a sink may replace values. */
void trace_host_tensor(TraceHost *host, bitnet_tensor_event_t *rows, void *data);
/* Rows of n_bytes that will be given to trace_host_tensor before the step ends, in this order, and do not change until
 * then: many are hashed at once in much less time than one after the other. Worth its while when a sink asks for
 * hashes. Without memory for the list, each is hashed on its own. */
typedef struct TraceRowBytes {
    const void *data;
    uint64_t n_bytes;
} TraceRowBytes;
int trace_host_hashes(const TraceHost *host); /* whether a sink has asked for a hash */
void trace_host_expect(TraceHost *host, const TraceRowBytes *rows, uint64_t n);
/* The state of the key/value cache after the step, `position` being the last one evaluated. */
void trace_host_kv_state(TraceHost *host, int32_t position, const bitnet_kv_state_t *kv);
/* The reason why a sink asked to stop the step under way; NULL when none did. It lasts until the step has ended. */
const char *trace_host_stop_reason(const TraceHost *host);
void trace_host_end_step(TraceHost *host, bitnet_status_t status);
bitnet_status_t trace_host_end_run(TraceHost *host);

/* Stage table (stages.cpp). */
const char *trace_stage_name(int32_t stage);                /* NULL: no such stage */
int trace_stage_in_block(int32_t stage);                    /* 0: its layer is -1 */
int32_t trace_stage_id(const char *name, uint64_t n_bytes); /* 0: no such name; understands BitNet-rs's aliases */
