// The npy sink: raw values, one NPY file per row, as plugins/TRACE_FORMAT.md says.
#include <bitnet_c.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <unistd.h>

#include "plugins/npy/run.h"

namespace bitnet {

namespace {

struct Npy {
    const bitnet_trace_host_t *host;
    NpyConfig config;
    OutputFolder folder;  // of the runs' folders
    NpyRun run;
    uint64_t n_bytes = 0;  // of the files of all runs
    pid_t pid;             // of the process that opened the sink
};

bitnet_status_t fail(const Npy *self, bitnet_status_t status, const char *text) {
    self->host->log(self->host, BITNET_LOG_ERROR, text);
    return status;
}

struct Type {
    const char *descr;  // of NPY
    size_t n_bytes;
};

Type type_of(int32_t dtype) {
    switch (dtype) {
    case BITNET_DTYPE_F32: return {"<f4", 4};
    case BITNET_DTYPE_F16: return {"<f2", 2};
    case BITNET_DTYPE_BF16: return {"<u2", 2};  // NPY has no such type: the bits
    case BITNET_DTYPE_I8: return {"|i1", 1};
    case BITNET_DTYPE_I32: return {"<i4", 4};
    default: return {nullptr, 0};
    }
}

// One array to be written.
struct Array {
    int32_t dtype;
    uint32_t n_dims;
    const uint64_t *shape;
    uint64_t n_elements;
    const void *data;
};

// NPY 1.0: magic, version, length of the rest, a Python literal filled up so that the values begin at a multiple of 64.
size_t put_header(const Array &array, const Type &type, char out[256]) {
    constexpr size_t kMagic = 10;
    char *text = out + kMagic;
    size_t n = size_t(snprintf(text, 80, "{'descr': '%s', 'fortran_order': False, 'shape': (", type.descr));
    for (uint32_t i = 0; i < array.n_dims && i < 4; ++i) {
        n += size_t(snprintf(text + n, 32, i ? ", %" PRIu64 : "%" PRIu64, array.shape[i]));
    }
    n += size_t(snprintf(text + n, 8, array.n_dims == 1 ? ",), }" : "), }"));
    while ((kMagic + n + 1) % 64) text[n++] = ' ';
    text[n++] = '\n';
    memcpy(out, "\x93NUMPY\x01\x00", 8);
    out[8] = char(n & 255);
    out[9] = char(n >> 8);
    return kMagic + n;
}

bitnet_status_t open_run(Npy *self) {
    NpyRun *run = &self->run;
    if (run->folder.fd >= 0) return BITNET_OK;
    if (!folder_open_next(&run->folder, &self->folder, "run-") || !npy_run_tell(run, self->config, false))
        return fail(self, BITNET_E_IO, run->folder.reason);
    return BITNET_OK;
}

bitnet_status_t write_array(Npy *self, const Array &array, FileName *name) {
    NpyRun *run = &self->run;
    char text[kReasonBytes];
    const Type type = type_of(array.dtype);
    name->put(".npy");
    if (!type.descr || name->too_long) {
        snprintf(text, sizeof text, type.descr ? "name '%.200s...' is too long for a file" : "'%.200s': unknown dtype",
                 name->text);
        return fail(self, BITNET_E_UNSUPPORTED, text);
    }
    const bitnet_status_t status = open_run(self);
    if (status != BITNET_OK) return status;
    char header[256];
    const size_t n_header = put_header(array, type, header), n_data = size_t(array.n_elements) * type.n_bytes;
    if (self->n_bytes + n_header + n_data > self->config.n_bytes_max) {
        snprintf(text, sizeof text,
                 "max_mb=%" PRIu64 " is reached: %" PRIu64 " bytes are in '%.120s', '%.80s' needs %zu more",
                 self->config.n_bytes_max / 1000000, self->n_bytes, self->folder.path, name->text, n_header + n_data);
        return fail(self, BITNET_E_IO, text);
    }
    if (!folder_write(&run->folder, name->text, header, n_header, array.data, n_data))
        return fail(self, BITNET_E_IO, run->folder.reason);
    self->n_bytes += n_header + n_data;
    run->n_bytes += n_header + n_data;
    return BITNET_OK;
}

// "000000000003-t000005-blk000-attn_norm"
void put_name(FileName *name, const bitnet_tensor_event_t &event, int32_t seq) {
    name->put_number(event.header.seq, 12);
    name->put("-t");
    name->put_number(unsigned(seq), 6);
    if (event.header.layer >= 0) {
        name->put("-blk");
        name->put_number(unsigned(event.header.layer), 3);
    }
    name->put("-");
    name->put_escaped(event.stage_name);
}

// Inputs before `index` of the same name.
unsigned count_namesakes(const bitnet_tensor_event_t &event, uint32_t index) {
    unsigned n = 0;
    for (uint32_t i = 0; i < index; ++i) n += strcmp(event.inputs[i].name, event.inputs[index].name) == 0;
    return n;
}

bitnet_status_t write_input(Npy *self, const bitnet_tensor_event_t &event, uint32_t index, uint32_t row,
                            FileName name) {
    const bitnet_tensor_input_t &input = event.inputs[index];
    name.put(".in-");
    name.put_escaped(input.name);
    if (const unsigned n = count_namesakes(event, index)) {
        name.put("-");
        name.put_number(n + 1, 1);
    }
    const char *data = static_cast<const char *>(input.data) + row * input.row_stride;
    return write_array(self, {input.dtype, input.n_dims, input.shape, input.row_elements, data}, &name);
}

bitnet_status_t write_row(Npy *self, const bitnet_tensor_event_t &event, uint32_t row, bool first_of_event) {
    FileName stem;
    put_name(&stem, event, event.header.position + int32_t(row));
    FileName name = stem;
    const char *data = static_cast<const char *>(event.data) + row * event.row_stride;
    bitnet_status_t status =
        write_array(self, {event.dtype, event.n_dims, event.shape, event.row_elements, data}, &name);
    for (uint32_t i = 0; status == BITNET_OK && i < event.n_inputs; ++i) {
        if (event.inputs[i].row_stride || first_of_event) status = write_input(self, event, i, row, stem);
    }
    self->run.n_records += status == BITNET_OK;
    return status;
}

bitnet_status_t put_rows(Npy *self, const bitnet_tensor_event_t &event) {
    bool first_of_event = true;
    for (uint32_t row = 0; row < event.n_rows; ++row) {
        const int32_t seq = event.header.position + int32_t(row);
        if (npy_is_point(self->config, event, seq)) self->run.point_seen = true;
        if (!npy_wants(self->config, event, seq, self->run.n_blocks)) continue;
        const bitnet_status_t status = write_row(self, event, row, first_of_event);
        if (status != BITNET_OK) return status;
        first_of_event = false;
    }
    return BITNET_OK;
}

bitnet_status_t end_step(Npy *self, const bitnet_step_event_t &event) {
    NpyRun *run = &self->run;
    const int64_t after = int64_t(self->config.seq) - event.header.position;
    if (event.status == BITNET_OK && after >= 0 && uint64_t(after) < event.n_tokens) run->point_reached = true;
    if (run->n_records == run->n_records_told || npy_run_tell(run, self->config, false)) return BITNET_OK;
    return fail(self, BITNET_E_IO, run->folder.reason);
}

// A point that does not exist is an error, once its position was evaluated.
bitnet_status_t end_run(Npy *self) {
    NpyRun *run = &self->run;
    bitnet_status_t status = BITNET_OK;
    if (run->folder.fd >= 0 && !npy_run_tell(run, self->config, true))
        status = fail(self, BITNET_E_IO, run->folder.reason);
    char text[kReasonBytes];
    snprintf(text, sizeof text, "no '%s' of layer %d at position %d in this run%s", self->config.stage,
             int(self->config.layer), int(self->config.seq),
             run->point_reached ? ": expected a stage of that layer that the selection includes"
                                : ", which did not evaluate that position");
    const bool missing = !self->config.all && !run->point_seen;
    if (missing && run->point_reached && status == BITNET_OK) status = fail(self, BITNET_E_INVALID, text);
    if (missing && !run->point_reached) self->host->log(self->host, BITNET_LOG_WARN, text);
    npy_run_close(run);
    return status;
}

bitnet_status_t npy_event(void *state, const bitnet_event_t *event) {
    Npy *self = static_cast<Npy *>(state);
    if (getpid() != self->pid)
        return fail(self, BITNET_E_UNSUPPORTED, "this process was forked from the one that opened the sink");
    switch (event->type) {
    case BITNET_EVENT_RUN_BEGIN:
        return npy_run_begin(&self->run, *reinterpret_cast<const bitnet_run_begin_event_t *>(event))
                   ? BITNET_OK
                   : fail(self, BITNET_E_NOMEM, "out of memory");
    case BITNET_EVENT_STEP_BEGIN:
        return npy_run_step(&self->run, *reinterpret_cast<const bitnet_step_event_t *>(event))
                   ? BITNET_OK
                   : fail(self, BITNET_E_NOMEM, "out of memory");
    case BITNET_EVENT_TENSOR: return put_rows(self, *reinterpret_cast<const bitnet_tensor_event_t *>(event));
    case BITNET_EVENT_STEP_END: return end_step(self, *reinterpret_cast<const bitnet_step_event_t *>(event));
    case BITNET_EVENT_RUN_END: return end_run(self);
    default: return BITNET_OK;
    }
}

void npy_close(void *state) {
    Npy *self = static_cast<Npy *>(state);
    // Reached with an open run only after a failure: what was written so far stays readable.
    if (self->run.folder.fd >= 0 && getpid() == self->pid) npy_run_tell(&self->run, self->config, false);
    npy_run_close(&self->run);
    folder_close(&self->folder);
    free(self);
}

bitnet_status_t npy_open(void **state, const bitnet_trace_host_t *host, const char *config) {
    void *memory = malloc(sizeof(Npy));
    if (!memory) {
        host->log(host, BITNET_LOG_ERROR, "out of memory");
        return BITNET_E_NOMEM;
    }
    Npy *self = new (memory) Npy{};
    self->host = host;
    self->pid = getpid();
    char reason[kReasonBytes] = "";
    if (!npy_config(config, &self->config, &self->folder, reason)) {
        fail(self, BITNET_E_INVALID, reason);
        npy_close(self);
        return BITNET_E_INVALID;
    }
    *state = self;
    return BITNET_OK;
}

constexpr bitnet_trace_sink_t kNpySink = {
    sizeof(bitnet_trace_sink_t),
    BITNET_ABI_VERSION,
    "npy",
    1u << BITNET_EVENT_RUN_BEGIN | 1u << BITNET_EVENT_STEP_BEGIN | 1u << BITNET_EVENT_TENSOR |
        1u << BITNET_EVENT_STEP_END | 1u << BITNET_EVENT_RUN_END,
    npy_open,
    npy_event,
    nullptr,  // every file is written when it is complete
    npy_close,
};

}  // namespace

}  // namespace bitnet

extern "C" BITNET_API const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *host);
extern "C" const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *) { return &bitnet::kNpySink; }
