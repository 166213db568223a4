/* null.c - a trace plugin that counts what it is given: the template for yours. Plain C, nothing but bitnet_c.h.
 *
 *     cc -shared -fPIC -I<folder of bitnet_c.h> null.c -o libnull.so
 *     BITNET_TRACE_PLUGIN=./libnull.so bitnet run -p "2+2="
 */
#include <bitnet_c.h>

#include <stdio.h>
#include <stdlib.h>

/* One of these for each context that is traced. */
struct null_state {
    const bitnet_trace_host_t *host; /* valid until close() has returned */
    unsigned long long n_tensors;    /* tensor events seen */
    unsigned long long n_rows;       /* token rows in them */
};

/* Called once for each attachment. Say why before you return a failure: the user gets that text. */
static bitnet_status_t null_open(void **state, const bitnet_trace_host_t *host, const char *config) {
    struct null_state *made;
    if (*config) {
        host->log(host, BITNET_LOG_ERROR, "this plugin takes no configuration");
        return BITNET_E_INVALID;
    }
    made = calloc(1, sizeof *made);
    if (!made) {
        host->log(host, BITNET_LOG_ERROR, "out of memory");
        return BITNET_E_NOMEM;
    }
    made->host = host;
    *state = made; /* handed to every function below */
    return BITNET_OK;
}

/* Called for each event whose bit is in `want`, on the thread that evaluates. Its pointers die when you return. */
static bitnet_status_t null_event(void *state, const bitnet_event_t *event) {
    struct null_state *self = state;
    if (event->type == BITNET_EVENT_TENSOR) { /* the type says which struct the header begins */
        const bitnet_tensor_event_t *tensor = (const bitnet_tensor_event_t *)event;
        ++self->n_tensors;
        self->n_rows += tensor->n_rows; /* row r: (const char *)tensor->data + r * tensor->row_stride */
    }
    return BITNET_OK; /* anything else detaches this plugin; the evaluation goes on */
}

/* Called once for each successful open, also after a failed event. */
static void null_close(void *state) {
    struct null_state *self = state;
    char line[96];
    snprintf(line, sizeof line, "%llu tensor events, %llu rows", self->n_tensors, self->n_rows);
    self->host->log(self->host, BITNET_LOG_INFO, line); /* never print: the process is not yours */
    free(self);
}

static const bitnet_trace_sink_t null_sink = {
    sizeof(bitnet_trace_sink_t), /* struct_size and abi_version tell the host which header this was built with */
    BITNET_ABI_VERSION,
    "null",
    1u << BITNET_EVENT_TENSOR, /* the events wanted: what nobody wants is not even computed */
    null_open,
    null_event,
    NULL, /* nothing to flush */
    null_close,
};

/* The one exported symbol. Return NULL, having logged why, to decline. */
BITNET_API const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *host);
const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *host) {
    (void)host; /* an older or newer host than you can work with? host->abi_version says so */
    return &null_sink;
}
