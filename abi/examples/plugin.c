/* plugin.c - an out-of-tree trace plugin: counts the stages that hold a NaN or an infinity, in any program.
 *
 *     cc -shared -fPIC plugin.c $(pkg-config --cflags bitnet) -o libnonfinite.so
 *     BITNET_TRACE_PLUGIN=./libnonfinite.so:path=found.txt bitnet run -p "2+2="
 */
#include <bitnet_c.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct state {
    const bitnet_trace_host_t *host;
    const bitnet_ext_stats_t *stats;
    FILE *file;
    unsigned long long n_rows, n_bad;
};

static bitnet_status_t refuse(const bitnet_trace_host_t *host, const char *why, bitnet_status_t status) {
    host->log(host, BITNET_LOG_ERROR, why);
    return status;
}

static bitnet_status_t on_open(void **state, const bitnet_trace_host_t *host, const char *config) {
    struct state *self;
    if (strncmp(config, "path=", 5) != 0) return refuse(host, "expected path=FILE", BITNET_E_INVALID);
    self = calloc(1, sizeof *self);
    if (!self) return refuse(host, "out of memory", BITNET_E_NOMEM);
    self->host = host;
    self->stats = host->get_extension(host, BITNET_EXT_STATS);
    self->file = fopen(config + 5, "w");
    if (!self->stats || !self->file) {
        bitnet_status_t status =
            refuse(host, self->file ? "the host lacks " BITNET_EXT_STATS : "the file cannot be written",
                   self->file ? BITNET_E_UNSUPPORTED : BITNET_E_IO);
        if (self->file) fclose(self->file);
        free(self);
        return status;
    }
    *state = self;
    return BITNET_OK;
}

static bitnet_status_t on_event(void *state, const bitnet_event_t *event) {
    struct state *self = state;
    const bitnet_tensor_event_t *tensor = (const bitnet_tensor_event_t *)event;
    uint32_t row;
    for (row = 0; row < tensor->n_rows; ++row) {
        const bitnet_stats_t *stats = self->stats->stats(self->host, tensor, row);
        if (!stats) return BITNET_E_NOMEM;
        ++self->n_rows;
        if (!stats->n_nan && !stats->n_inf) continue;
        ++self->n_bad;
        fprintf(self->file, "position %d layer %d %s: index %u\n", (int)(event->position + (int32_t)row),
                (int)event->layer, tensor->stage_name, (unsigned)stats->nonfinite_index);
    }
    return BITNET_OK;
}

static void on_close(void *state) {
    struct state *self = state;
    fprintf(self->file, "%llu of %llu rows hold a NaN or an infinity\n", self->n_bad, self->n_rows);
    if (fclose(self->file)) self->host->log(self->host, BITNET_LOG_ERROR, "the file could not be written to its end");
    free(self);
}

static const bitnet_trace_sink_t sink = {sizeof(bitnet_trace_sink_t),
                                         BITNET_ABI_VERSION,
                                         "nonfinite",
                                         1u << BITNET_EVENT_TENSOR,
                                         on_open,
                                         on_event,
                                         NULL,
                                         on_close};

BITNET_API const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *host);
const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *host) {
    (void)host;
    return &sink;
}
