/* A program in C alone that goes once through every section of the header. Exit 0: all as expected. Compiled with today's header
 * and, as an old program would be, with the frozen one of 1.0: what comes later goes behind BITNET_ABI_MINOR. */
#ifdef FROZEN
#include "tests/abi/frozen/bitnet_c_1_0.h"
#else
#include <bitnet_c.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n%s\n", __FILE__, __LINE__, #condition, bitnet_last_error());                   \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static int32_t count_token(void *user, int32_t token, const float *logits, int32_t n_vocab) {
    CHECK(token >= 0 && token < n_vocab && logits[token] >= logits[0]);
    ++*(int *)user;
    return 0;
}

static bitnet_status_t count_event(void *state, const bitnet_event_t *event) {
    (void)event;
    ++*(int *)state;
    return BITNET_OK;
}

static const bitnet_trace_sink_t counter = {
    sizeof(bitnet_trace_sink_t),
    BITNET_ABI_VERSION,
    "counter",
    (uint64_t)1 << BITNET_EVENT_TENSOR,
    NULL,
    count_event,
    NULL,
    NULL,
};

int main(int argc, char **argv) {
    bitnet_load_params_t load = {0};
    bitnet_context_params_t params = {0};
    bitnet_eval_params_t eval = {0};
    bitnet_generate_params_t generate = {0};
    bitnet_model_info_t info = {0};
    bitnet_trace_stats_t stats = {0};
    bitnet_model_t *model = NULL;
    bitnet_ctx_t *ctx = NULL;
    int32_t tokens[64], out[8], top[3];
    float best[3];
    double logprobs[64];
    char text[256];
    size_t n = 64, n_out = 8, n_text = sizeof text;
    int n_tokens = 0, n_events = 0;

    CHECK(argc == 2);
    CHECK(bitnet_abi_version() >> 16 == BITNET_ABI_MAJOR && bitnet_abi_version() >= BITNET_ABI_VERSION);
    load.struct_size = sizeof load;
    load.isa = bitnet_isa_name(0);
    CHECK(bitnet_load(argv[1], &load, &model) == BITNET_OK);
    info.struct_size = sizeof info;
    CHECK(bitnet_model_get_info(model, &info) == BITNET_OK && info.n_vocab > 0);
    CHECK(strcmp(bitnet_model_isa(model), "scalar") == 0);

    params.struct_size = sizeof params;
    params.n_ctx = 64;
    params.n_threads = 2;
    CHECK(bitnet_context_create(model, &params, &ctx) == BITNET_OK);
    bitnet_model_free(model); /* the context keeps it */
    CHECK(bitnet_trace_set_sink(ctx, &counter, &n_events) == BITNET_OK);
    CHECK(bitnet_trace_select(ctx, "layer_out") == BITNET_OK);

    for (n = 0; n < 5; ++n) tokens[n] = (int32_t)n * 11;
    eval.struct_size = sizeof eval;
    eval.logits = BITNET_LOGITS_ALL;
    CHECK(bitnet_eval_tokens(ctx, tokens, n, &eval) == BITNET_OK);
    CHECK(bitnet_logits_count(ctx) == 5 && bitnet_get_logits_ith(ctx, -1) == bitnet_get_logits_ith(ctx, 4));
    CHECK(bitnet_token_logprobs(ctx, tokens, n, logprobs) == BITNET_OK && logprobs[4] < 0);
    CHECK(bitnet_top_logits(ctx, -1, 3, top, best) == BITNET_OK && best[0] >= best[1] && best[1] >= best[2]);

    generate.struct_size = sizeof generate;
    generate.max_tokens = 4;
    generate.flags = BITNET_GENERATE_IGNORE_END;
    generate.on_token = count_token;
    generate.on_token_user = &n_tokens;
    CHECK(bitnet_generate(ctx, &generate, out, &n_out) == BITNET_OK && n_out == 4 && n_tokens == 4 && out[0] == top[0]);
    stats.struct_size = sizeof stats;
    CHECK(bitnet_trace_get_stats(ctx, &stats) == BITNET_OK && stats.n_events == (uint64_t)n_events);
    CHECK(n_events == 4 * info.n_layer); /* one prompt and three tokens evaluated */
    bitnet_context_free(ctx);

    CHECK(bitnet_load(argv[1], NULL, &model) == BITNET_OK);
    CHECK(bitnet_detokenize(model, out, n_out, BITNET_DETOKENIZE_SPECIAL, text, &n_text) == BITNET_OK &&
          text[n_text - 1] == 0);
    bitnet_model_free(model);
    CHECK(bitnet_load("/no/such/file", NULL, &model) == BITNET_E_IO && model == NULL);
    CHECK(strstr(bitnet_last_error(), "/no/such/file") != NULL);
    return 0;
}
