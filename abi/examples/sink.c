/* sink.c - a trace sink inside the program: the size of what each layer adds up to, as it is computed.
 *
 *     cc sink.c $(pkg-config --cflags --libs bitnet) -o sink
 *     ./sink model.gguf "2+2="
 */
#include <bitnet_c.h>

#include <stdio.h>

struct state {
    const bitnet_trace_host_t *host;
    const bitnet_ext_stats_t *stats; /* computed once by the host, for all sinks that ask */
};

static bitnet_status_t on_open(void **state, const bitnet_trace_host_t *host, const char *config) {
    struct state *self = *state; /* what bitnet_trace_set_sink was given */
    (void)config;
    self->host = host;
    self->stats = host->get_extension(host, BITNET_EXT_STATS);
    return self->stats ? BITNET_OK : BITNET_E_UNSUPPORTED;
}

/* Called while the model computes; what the event points to lives until we return. */
static bitnet_status_t on_event(void *state, const bitnet_event_t *event) {
    struct state *self = state;
    const bitnet_tensor_event_t *tensor = (const bitnet_tensor_event_t *)event;
    uint32_t row;
    for (row = 0; row < tensor->n_rows; ++row) {
        const bitnet_stats_t *stats = self->stats->stats(self->host, tensor, row);
        if (!stats) return BITNET_E_NOMEM;
        printf("position %d layer %d %s rms %.9g\n", (int)(event->position + (int32_t)row), (int)event->layer,
               tensor->stage_name, stats->rms);
    }
    return BITNET_OK;
}

static const bitnet_trace_sink_t sink = {
    sizeof(bitnet_trace_sink_t), BITNET_ABI_VERSION, "sink", 1u << BITNET_EVENT_TENSOR, on_open, on_event, NULL, NULL};

static int fail(void) {
    fprintf(stderr, "%s\n", bitnet_last_error());
    return 2;
}

int main(int argc, char **argv) {
    bitnet_model_t *model = NULL;
    bitnet_ctx_t *ctx = NULL;
    struct state state = {0};
    int32_t tokens[512];
    size_t n = sizeof tokens / sizeof tokens[0];
    bitnet_trace_stats_t stats = {.struct_size = sizeof stats};

    if (argc != 3) {
        fprintf(stderr, "usage: sink MODEL.gguf PROMPT\n");
        return 2;
    }
    if (bitnet_load(argv[1], NULL, &model) || bitnet_context_create(model, NULL, &ctx) ||
        bitnet_tokenize_text(model, argv[2], (size_t)-1, BITNET_TOKENIZE_ADD_BOS, tokens, &n) ||
        bitnet_trace_select(ctx, "*:*:layer_out") || bitnet_trace_set_sink(ctx, &sink, &state) ||
        bitnet_eval_tokens(ctx, tokens, n, NULL) || bitnet_trace_get_stats(ctx, &stats))
        return fail();
    if (stats.n_failures) { /* a sink that fails never fails the evaluation: it is detached, and counted */
        fprintf(stderr, "%s\n", stats.last_failure);
        return 2;
    }
    bitnet_context_free(ctx);
    bitnet_model_free(model);
    return 0;
}
