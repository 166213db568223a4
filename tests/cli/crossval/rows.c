/* rows.c - all logits of some tokens as raw float32 on stdout: rows MODEL ID,ID,... */
#include <bitnet_c.h>

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    int32_t ids[4096];
    size_t n = 0;
    bitnet_model_t *model = NULL;
    bitnet_ctx_t *ctx = NULL;
    bitnet_eval_params_t params = {0};
    bitnet_model_info_t info = {0};
    params.struct_size = sizeof params;
    params.logits = BITNET_LOGITS_ALL;
    info.struct_size = sizeof info;
    if (argc != 3) return 2;
    for (char *at = argv[2]; *at && n < 4096; at += *at == ',') ids[n++] = (int32_t)strtol(at, &at, 10);
    if (bitnet_load(argv[1], NULL, &model) || bitnet_model_get_info(model, &info) ||
        bitnet_context_create(model, NULL, &ctx) || bitnet_eval_tokens(ctx, ids, n, &params)) {
        fprintf(stderr, "%s\n", bitnet_last_error());
        return 2;
    }
    for (size_t i = 0; i < n; i++)
        fwrite(bitnet_get_logits_ith(ctx, (int32_t)i), sizeof(float), (size_t)info.n_vocab, stdout);
    bitnet_context_free(ctx);
    bitnet_model_free(model);
    return fflush(stdout) == 0 ? 0 : 2;
}
