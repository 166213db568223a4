/* logits.c - the likeliest tokens after a prompt.
 *
 *     cc logits.c $(pkg-config --cflags --libs bitnet) -o logits
 *     ./logits model.gguf "2+2="
 */
#include <bitnet_c.h>

#include <stdio.h>
#include <stdlib.h>

static int fail(void) {
    fprintf(stderr, "%s\n", bitnet_last_error());
    return 2;
}

int main(int argc, char **argv) {
    bitnet_model_t *model = NULL;
    bitnet_ctx_t *ctx = NULL;
    bitnet_model_info_t info = {.struct_size = sizeof info};
    size_t n_tokens = 0;
    int32_t *tokens, best = 0, i;
    const float *logits;
    char text[256];
    size_t n_text = sizeof text;

    if (argc != 3) {
        fprintf(stderr, "usage: logits MODEL.gguf PROMPT\n");
        return 2;
    }
    if (bitnet_load(argv[1], NULL, &model) || bitnet_model_get_info(model, &info) ||
        bitnet_context_create(model, NULL, &ctx))
        return fail();

    /* The size first, then the ids. */
    if (bitnet_tokenize_text(model, argv[2], (size_t)-1, BITNET_TOKENIZE_ADD_BOS, NULL, &n_tokens)) return fail();
    tokens = malloc(n_tokens * sizeof *tokens);
    if (!tokens) return 2;
    if (bitnet_tokenize_text(model, argv[2], (size_t)-1, BITNET_TOKENIZE_ADD_BOS, tokens, &n_tokens) ||
        bitnet_eval_tokens(ctx, tokens, n_tokens, NULL))
        return fail();

    logits = bitnet_get_logits_ith(ctx, -1); /* of the last position; lives until the next evaluation */
    if (!logits) return fail();
    for (i = 1; i < info.n_vocab; ++i)
        if (logits[i] > logits[best]) best = i;
    if (bitnet_detokenize(model, &best, 1, 0, text, &n_text)) return fail();
    printf("token %d, logit %.9g: %s\n", (int)best, logits[best], text);

    free(tokens);
    bitnet_context_free(ctx);
    bitnet_model_free(model);
    return 0;
}
