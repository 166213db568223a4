/* A program that knows nothing of traces: it evaluates four tokens and prints what the library logs. */
#include <bitnet_c.h>

#include <stdio.h>

static void print_log(void *user, int32_t level, const char *text) {
    (void)user;
    printf("%d %s\n", (int)level, text);
}

int main(int argc, char **argv) {
    bitnet_model_t *model = NULL;
    bitnet_ctx_t *ctx = NULL;
    const int32_t tokens[4] = {11, 48, 85, 122};
    bitnet_eval_params_t params = {sizeof params, BITNET_LOGITS_ALL, NULL, NULL, NULL};
    bitnet_set_log(print_log, NULL);
    if (argc != 2 || bitnet_load(argv[1], NULL, &model) || bitnet_context_create(model, NULL, &ctx) ||
        bitnet_eval_tokens(ctx, tokens, 4, &params)) {
        fprintf(stderr, "%s\n", bitnet_last_error());
        return 2;
    }
    bitnet_context_free(ctx);
    bitnet_model_free(model);
    return 0;
}
