// Runs, steps and tensors become events; every attached sink that wants one gets it. A sink that fails is detached.
#include "plugins/host/trace_host.h"

#include <cinttypes>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "plugins/host/host.h"
#include "plugins/host/text.h"

namespace bitnet {

uint64_t now_ns() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return uint64_t(now.tv_sec) * 1000000000u + uint64_t(now.tv_nsec);
}

void log_text(TraceHost *host, int32_t level, const char *text) {
    if (host->log) host->log(host->log_user, level, text);
}

void record_failure(TraceHost *host, const char *text) {
    ++host->n_failures;
    set_text(host->last_failure, sizeof host->last_failure, "%s", text);
    log_text(host, BITNET_LOG_ERROR, text);
}

namespace {

void sink_log(const bitnet_trace_host_t *api, int32_t level, const char *text) {
    Sink *sink = static_cast<Sink *>(api->self);
    set_text(sink->last_text, sizeof sink->last_text, "%s", text ? text : "");
    char line[sizeof sink->label + sizeof sink->last_text + 4];
    set_text(line, sizeof line, "%s: %s", sink->label, sink->last_text);
    log_text(sink->host, level, line);
}

void update_want(TraceHost *host) {
    host->want = 0;
    for (Sink *sink = host->sinks; sink; sink = sink->next) host->want |= sink->table.want;
    if (!host->sinks) host->overridable = false;
}

// A call of a sink's function; what it throws is the last that it said.
template <class Body> bitnet_status_t call(const Sink *sink, Body body) {
    Sink *said = const_cast<Sink *>(sink);
    said->last_text[0] = 0;
    return guarded_call(sink->host->guard, said->last_text, sizeof said->last_text, body);
}

void close_sink(Sink *sink) {
    if (sink->table.close) {
        const bitnet_status_t status = call(sink, [sink] {
            sink->table.close(sink->state);
            return BITNET_OK;
        });
        if (status != BITNET_OK) {
            char text[TRACE_ERROR_BYTES];
            set_text(text, sizeof text, "%s: close failed: %s", sink->label, sink->last_text);
            record_failure(sink->host, text);
        }
    }
    free(sink);
}

// Unlinks, closes and frees *link; returns nothing worth keeping of it.
void detach_failed(TraceHost *host, Sink **link, const char *what, bitnet_status_t status) {
    Sink *sink = *link;
    char text[TRACE_ERROR_BYTES];
    if (sink->last_text[0]) {
        set_text(text, sizeof text, "%s: %s failed: %s", sink->label, what, sink->last_text);
    } else {
        set_text(text, sizeof text, "%s: %s failed with status %d and without a reason", sink->label, what,
                 int(status));
    }
    *link = sink->next;
    close_sink(sink);
    update_want(host);
    record_failure(host, text);
}

// Time spent in sinks is theirs, not the engine's: it moves the mark that `ns` is measured from.
struct SinkTimer {
    TraceHost *host;
    uint64_t start = now_ns();
    explicit SinkTimer(TraceHost *h) : host(h) { host->delivering = true; }
    ~SinkTimer() {
        host->delivering = false;
        host->mark_ns = now_ns();
        host->sink_ns += host->mark_ns - start;
    }
};

// Numbers the event and hands it to every sink that wants it. Returns whether one did, failing or not.
bool deliver(TraceHost *host, bitnet_event_t *event) {
    SinkTimer timer(host);
    event->seq = host->next_seq++;
    event->run = host->run;
    event->time_ns = timer.start;
    event->flags = (host->overridden ? BITNET_EVENT_FLAG_OVERRIDDEN : 0) |
                   (host->overridable && event->type == BITNET_EVENT_RUN_BEGIN ? BITNET_EVENT_FLAG_OVERRIDABLE : 0);
    bool delivered = false;
    for (Sink **link = &host->sinks; *link;) {
        Sink *sink = *link;
        if (sink->table.want >> event->type & 1) {
            delivered = true;
            const bitnet_status_t status = call(sink, [sink, event] { return sink->table.event(sink->state, event); });
            if (status != BITNET_OK) {
                char what[32];
                set_text(what, sizeof what, "event %" PRIu64, event->seq);
                detach_failed(host, link, what, status);
                continue;
            }
        }
        link = &sink->next;
    }
    host->n_events += delivered;
    return delivered;
}

const char *or_empty(const char *text) { return text ? text : ""; }

bitnet_status_t check_version(const bitnet_trace_sink_t *table, const Sink *sink, char *error) {
    const uint32_t major = table->abi_version >> 16, minor = table->abi_version & 0xffff;
    if (major != BITNET_ABI_MAJOR) {
        set_text(error, TRACE_ERROR_BYTES,
                 "%s: built for plugin ABI %u.%u, this host has %d.%d (the major must be equal)", sink->label, major,
                 minor, BITNET_ABI_MAJOR, BITNET_ABI_MINOR);
        return BITNET_E_ABI;
    }
    const uint32_t size = table->struct_size;
    if (size < sizeof *table || size > kSinkBytesMax) {
        set_text(error, TRACE_ERROR_BYTES, "%s: its table is %u bytes, expected at least %zu and at most %u",
                 sink->label, size, sizeof *table, kSinkBytesMax);
        return BITNET_E_ABI;
    }
    const unsigned char *bytes = reinterpret_cast<const unsigned char *>(table);
    for (uint32_t i = sizeof *table; i < size; ++i) {
        if (bytes[i]) {
            set_text(error, TRACE_ERROR_BYTES,
                     "%s: built for plugin ABI %u.%u, uses fields that this host (%d.%d) does not know", sink->label,
                     major, minor, BITNET_ABI_MAJOR, BITNET_ABI_MINOR);
            return BITNET_E_ABI;
        }
    }
    return BITNET_OK;
}

bitnet_status_t open_sink(Sink *sink, void *user, const char *config, bool is_plugin, char *error) {
    sink->state = user;
    if (!sink->table.open) return BITNET_OK;
    const auto open = [sink, config] { return sink->table.open(&sink->state, &sink->api, config ? config : ""); };
    sink->last_text[0] = 0;
    const bitnet_status_t status =
        is_plugin ? crash_guarded_call(sink->host->guard, sink->last_text, sizeof sink->last_text, open)
                  : call(sink, open);
    if (status == BITNET_OK) return BITNET_OK;
    if (sink->last_text[0]) {
        set_text(error, TRACE_ERROR_BYTES, "%s: open failed: %s", sink->label, sink->last_text);
    } else {
        set_text(error, TRACE_ERROR_BYTES, "%s: open failed with status %d and without a reason", sink->label,
                 int(status));
    }
    return is_plugin ? BITNET_E_PLUGIN : BITNET_E_USER;
}

void append_sink(TraceHost *host, Sink *sink) {
    Sink **link = &host->sinks;
    while (*link) link = &(*link)->next;
    *link = sink;
    update_want(host);
}

}  // namespace

Sink *sink_create(TraceHost *host, const char *label) {
    Sink *sink = static_cast<Sink *>(calloc(1, sizeof(Sink)));
    if (!sink) return nullptr;
    sink->api = {sizeof sink->api, BITNET_ABI_VERSION, sink, sink_log, find_extension};
    sink->host = host;
    set_text(sink->label, sizeof sink->label, "%s", label);
    return sink;
}

bitnet_status_t sink_adopt(Sink *sink, const bitnet_trace_sink_t *table, void *user, const char *config, bool is_plugin,
                           char *error) {
    TraceHost *host = sink->host;
    bitnet_status_t status = check_version(table, sink, error);
    if (status == BITNET_OK && !table->event) {
        set_text(error, TRACE_ERROR_BYTES, "%s: its table has no event function", sink->label);
        status = is_plugin ? BITNET_E_PLUGIN : BITNET_E_INVALID;
    }
    if (status == BITNET_OK) {
        memcpy(&sink->table, table, sizeof sink->table);
        // The open run ends here: a sink always sees a run from its beginning.
        if (host->run_open) trace_host_end_run(host);
        SinkTimer timer(host);
        status = open_sink(sink, user, config, is_plugin, error);
    }
    if (status != BITNET_OK) {
        free(sink);
        return status;
    }
    if (table->name && table->name[0]) set_text(sink->label, sizeof sink->label, "sink '%s'", table->name);
    append_sink(host, sink);
    return BITNET_OK;
}

}  // namespace bitnet

using namespace bitnet;

TraceHost *trace_host_create(const char *library_dir, TraceLogFn log, void *log_user) {
    TraceHost *host = static_cast<TraceHost *>(calloc(1, sizeof(TraceHost)));
    if (!host) return nullptr;
    host->library_dir = library_dir;
    host->log = log;
    host->log_user = log_user;
    if (!selection_compile(&host->selection, "", nullptr)) {
        free(host);
        return nullptr;
    }
    return host;
}

void trace_host_set_guard(TraceHost *host, TraceGuardFn guard) { host->guard = guard; }

void trace_host_set_engine(TraceHost *host, const TraceEngine *engine) { host->engine = *engine; }

void trace_host_destroy(TraceHost *host) {
    if (!host) return;
    trace_host_detach_all(host);
    selection_free(&host->selection);
    free(host->prompt);
    free(host->rows);
    free(host->expected);
    free(host);
}

bitnet_status_t trace_host_attach_sink(TraceHost *host, const bitnet_trace_sink_t *sink, void *user, const char *config,
                                       char *error) {
    if (host->delivering || host->step_open) {
        set_text(error, TRACE_ERROR_BYTES, "sinks cannot be attached during an evaluation");
        return BITNET_E_BUSY;
    }
    if (!sink) {
        set_text(error, TRACE_ERROR_BYTES, "sink is NULL");
        return BITNET_E_INVALID;
    }
    Sink *made = sink_create(host, "sink");
    if (!made) {
        set_text(error, TRACE_ERROR_BYTES, "out of memory for a sink");
        return BITNET_E_NOMEM;
    }
    return sink_adopt(made, sink, user, config, false, error);
}

void trace_host_detach_all(TraceHost *host) {
    if (host->delivering) return;
    trace_host_end_run(host);
    SinkTimer timer(host);
    while (Sink *sink = host->sinks) {
        host->sinks = sink->next;
        close_sink(sink);
    }
    update_want(host);
}

bitnet_status_t trace_host_select(TraceHost *host, const char *selection, char *error) {
    if (host->delivering || host->step_open) {
        set_text(error, TRACE_ERROR_BYTES, "the selection cannot change during an evaluation");
        return BITNET_E_BUSY;
    }
    Selection compiled;
    if (!selection_compile(&compiled, selection, error)) return BITNET_E_INVALID;
    if (host->run_open) trace_host_end_run(host);  // a run record says what its run selects
    selection_free(&host->selection);
    host->selection = compiled;
    return BITNET_OK;
}

bitnet_status_t trace_host_set_prompt(TraceHost *host, const char *text, uint64_t n_bytes) {
    char *copy = nullptr;
    if (text) {
        copy = static_cast<char *>(malloc(n_bytes ? n_bytes : 1));
        if (!copy) return BITNET_E_NOMEM;
        if (n_bytes) memcpy(copy, text, n_bytes);
    }
    free(host->prompt);
    host->prompt = copy;
    host->n_prompt_bytes = copy ? n_bytes : 0;
    return BITNET_OK;
}

void trace_host_stats(const TraceHost *host, bitnet_trace_stats_t *out) {
    out->n_sinks = 0;
    for (const Sink *sink = host->sinks; sink; sink = sink->next) ++out->n_sinks;
    out->n_events = host->n_events;
    out->n_bytes = host->n_bytes;
    out->n_failures = host->n_failures;
    out->seconds = double(host->sink_ns) * 1e-9;
    memcpy(out->last_failure, host->last_failure, sizeof out->last_failure);
}

int trace_host_active(const TraceHost *host) { return host->sinks != nullptr; }

int trace_host_run_open(const TraceHost *host) { return host->run_open; }

void trace_host_begin_run(TraceHost *host, const TraceRun *run) {
    if (host->run_open) trace_host_end_run(host);
    if (!host->sinks) return;
    host->run_open = true;
    host->overridden = false;
    host->run_tensors = host->run_rows = host->run_tokens = 0;
    bitnet_run_begin_event_t event = {};
    event.header.size = sizeof event;
    event.header.type = BITNET_EVENT_RUN_BEGIN;
    event.header.layer = event.header.position = -1;
    event.engine = or_empty(run->engine);
    event.engine_version = or_empty(run->engine_version);
    event.model_path = or_empty(run->model_path);
    event.model_hash = or_empty(run->model_hash);
    event.architecture = or_empty(run->architecture);
    event.hyperparameters = or_empty(run->hyperparameters);
    event.semantics = or_empty(run->semantics);
    event.isa = or_empty(run->isa);
    event.kv_type = or_empty(run->kv_type);
    event.selection = host->selection.text;
    event.prompt = host->prompt;
    event.n_prompt_bytes = host->n_prompt_bytes;
    event.n_threads = run->n_threads;
    event.n_batch = run->n_batch;
    event.tokens = run->tokens;
    event.n_tokens = run->n_tokens;
    deliver(host, &event.header);
    trace_host_set_prompt(host, nullptr, 0);  // it was this run's
}

void trace_host_begin_step(TraceHost *host, int32_t position, const int32_t *tokens, uint64_t n_tokens) {
    if (!host->run_open || host->step_open) return;
    host->step_open = true;
    host->step_position = position;
    host->step_tokens = tokens;
    host->n_step_tokens = n_tokens;
    bitnet_step_event_t event = {};
    event.header.size = sizeof event;
    event.header.type = BITNET_EVENT_STEP_BEGIN;
    event.header.layer = -1;
    event.header.position = position;
    event.tokens = tokens;
    event.n_tokens = n_tokens;
    deliver(host, &event.header);
}

int trace_host_wants_tensors_alone(const TraceHost *host) {
    return (host->want & ~(uint64_t(1) << BITNET_EVENT_TENSOR)) == 0;
}

int trace_host_wants(const TraceHost *host, int32_t stage, int32_t layer, int32_t first_position, int32_t n_rows) {
    return host->run_open && (host->want >> BITNET_EVENT_TENSOR & 1) &&
           selection_wants(host->selection, stage, layer, first_position, n_rows);
}

int trace_host_selects(const TraceHost *host, int32_t stage, int32_t layer, int32_t position) {
    return trace_stage_name(stage) && (host->want >> BITNET_EVENT_TENSOR & 1) &&
           selection_wants_row(host->selection, stage, layer, position);
}

int trace_host_selects_layer(const TraceHost *host, int32_t stage, int32_t layer) {
    return trace_stage_name(stage) && (host->want >> BITNET_EVENT_TENSOR & 1) &&
           selection_wants_layer(host->selection, stage, layer);
}

void trace_host_tensor(TraceHost *host, bitnet_tensor_event_t *rows, void *data) {
    if (!host->run_open) return;
    const uint64_t measured = rows->ns ? rows->ns : now_ns() - host->mark_ns;
    const uint64_t ns = measured == TRACE_NS_UNKNOWN ? 0 : measured;
    const int32_t layer = rows->header.layer, position = rows->header.position;
    const char *first = static_cast<const char *>(data ? data : rows->data);
    const uint32_t n_rows = rows->n_rows;
    uint32_t row = 0;
    while (row < n_rows && (host->want >> BITNET_EVENT_TENSOR & 1)) {
        if (!selection_wants_row(host->selection, rows->stage, layer, position + int32_t(row))) {
            ++row;
            continue;
        }
        uint32_t end = row + 1;
        while (end < n_rows && selection_wants_row(host->selection, rows->stage, layer, position + int32_t(end))) ++end;
        bitnet_tensor_event_t event = *rows;
        event.header.size = sizeof event;
        event.header.type = BITNET_EVENT_TENSOR;
        event.header.position = position + int32_t(row);
        if (rows->stage) event.stage_name = trace_stage_name(rows->stage);
        event.stage_name = or_empty(event.stage_name);
        event.kernel = or_empty(event.kernel);
        event.n_rows = end - row;
        event.first_row = rows->first_row + row;
        event.data = first + row * rows->row_stride;
        event.ns = ns;
        bitnet_tensor_input_t inputs[kInputsMax];
        event.n_inputs = rows->n_inputs > kInputsMax ? kInputsMax : rows->n_inputs;
        event.inputs = event.n_inputs ? inputs : nullptr;
        for (uint32_t i = 0; i < event.n_inputs; ++i) {
            inputs[i] = rows->inputs[i];
            inputs[i].name = or_empty(inputs[i].name);
            inputs[i].data = static_cast<const char *>(inputs[i].data) + row * inputs[i].row_stride;
        }
        host->current = &event;
        host->current_row = row;
        host->current_data = data ? static_cast<char *>(data) + row * rows->row_stride : nullptr;
        if (deliver(host, &event.header)) {
            ++host->run_tensors;
            host->run_rows += event.n_rows;
            host->n_bytes += event.n_rows * event.row_elements * dtype_bytes(event.dtype);
        }
        host->current = nullptr;
        row = end;
    }
}

int trace_host_hashes(const TraceHost *host) { return host->hashes; }

void trace_host_expect(TraceHost *host, const TraceRowBytes *rows, uint64_t n) {
    host->n_expected = host->next_expected = 0;
    if (!host->step_open) return;
    if (n > host->n_expected_max) {
        ExpectedRow *larger = static_cast<ExpectedRow *>(realloc(host->expected, n * sizeof(ExpectedRow)));
        if (!larger) return;  // each is hashed on its own
        host->expected = larger;
        host->n_expected_max = n;
    }
    for (uint64_t i = 0; i < n; ++i) host->expected[i].row = rows[i], host->expected[i].has_hash = false;
    host->n_expected = n;
}

void trace_host_kv_state(TraceHost *host, int32_t position, const bitnet_kv_state_t *kv) {
    if (!host->run_open || !(host->want >> BITNET_EVENT_KV_STATE & 1)) return;
    bitnet_kv_event_t event = {};
    event.header.size = sizeof event;
    event.header.type = BITNET_EVENT_KV_STATE;
    event.header.layer = -1;
    event.header.position = position;
    event.kv = *kv;
    event.kv.struct_size = sizeof event.kv;
    deliver(host, &event.header);
}

const char *trace_host_stop_reason(const TraceHost *host) { return host->stopping ? host->stop_reason : nullptr; }

void trace_host_end_step(TraceHost *host, bitnet_status_t status) {
    if (!host->step_open) return;
    host->step_open = false;
    host->n_expected = host->next_expected = 0;
    if (status == BITNET_OK) host->run_tokens += host->n_step_tokens;
    bitnet_step_event_t event = {};
    event.header.size = sizeof event;
    event.header.type = BITNET_EVENT_STEP_END;
    event.header.layer = -1;
    event.header.position = host->step_position;
    event.tokens = host->step_tokens;
    event.n_tokens = host->n_step_tokens;
    event.status = status;
    deliver(host, &event.header);
    host->stopping = false;
}

bitnet_status_t trace_host_end_run(TraceHost *host) {
    if (host->delivering) return BITNET_E_BUSY;
    const uint64_t failures = host->n_failures;
    if (host->run_open) {
        bitnet_run_end_event_t event = {};
        event.header.size = sizeof event;
        event.header.type = BITNET_EVENT_RUN_END;
        event.header.layer = event.header.position = -1;
        event.n_tensors = host->run_tensors;
        event.n_rows = host->run_rows;
        event.n_tokens = host->run_tokens;
        deliver(host, &event.header);
        host->run_open = host->step_open = host->stopping = false;
        ++host->run;
    }
    SinkTimer timer(host);
    for (Sink **link = &host->sinks; *link;) {
        Sink *sink = *link;
        const bitnet_status_t status =
            sink->table.flush ? call(sink, [sink] { return sink->table.flush(sink->state); }) : BITNET_OK;
        if (status != BITNET_OK) {
            detach_failed(host, link, "flush", status);
        } else {
            link = &sink->next;
        }
    }
    return host->n_failures == failures ? BITNET_OK : BITNET_E_PLUGIN;
}
