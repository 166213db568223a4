/* ask_services.c - a plugin that asks the host for what its configuration names of every row, and keeps nothing: what
 * the services cost without a sink's own work. Configuration: some of hash, multiset, stats, sketch, with `+` between.
 */
#include <bitnet_c.h>

#include <stdlib.h>
#include <string.h>

struct state {
    const bitnet_trace_host_t *host;
    const bitnet_ext_hash_t *hash;
    const bitnet_ext_stats_t *stats;
    const bitnet_ext_sketch_t *sketch;
    int multiset;
};

static bitnet_status_t opened(void **state, const bitnet_trace_host_t *host, const char *config) {
    struct state *s = calloc(1, sizeof *s);
    const bitnet_ext_hash_t *hash = host->get_extension(host, BITNET_EXT_HASH);
    if (!s || !hash) return BITNET_E_NOMEM;
    s->host = host;
    if (strstr(config, "hash")) s->hash = hash;
    if (strstr(config, "multiset")) s->multiset = 1;
    if (strstr(config, "stats")) s->stats = host->get_extension(host, BITNET_EXT_STATS);
    if (strstr(config, "sketch")) s->sketch = host->get_extension(host, BITNET_EXT_SKETCH);
    *state = s;
    return BITNET_OK;
}

static bitnet_status_t event(void *state, const bitnet_event_t *header) {
    const struct state *s = state;
    const bitnet_tensor_event_t *e = (const bitnet_tensor_event_t *)header;
    const bitnet_ext_hash_t *hash = s->host->get_extension(s->host, BITNET_EXT_HASH);
    uint32_t row;
    for (row = 0; row < e->n_rows; row++) {
        if (s->stats && !s->stats->stats(s->host, e, row)) return BITNET_E_NOMEM;
        if (s->sketch && !s->sketch->sketch(s->host, e, row)) return BITNET_E_NOMEM;
        if (s->hash && !s->hash->blake3(s->host, e, row)) return BITNET_E_NOMEM;
        if (s->multiset) hash->multiset(s->host, e, row);
    }
    return BITNET_OK;
}

static const bitnet_trace_sink_t sink = {
    sizeof sink, BITNET_ABI_VERSION, "ask_services", (uint64_t)1 << BITNET_EVENT_TENSOR, opened, event, NULL, free};

BITNET_API const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *host);
const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *host) {
    (void)host;
    return &sink;
}
