/* fake_crossval.c - BitNet-rs's crossval interface over this library, and its ways to be wrong (FAKE_MODE).
 * With WITH_CONTEXT the functions on a context, and only those; without it the two that load the model at each call. */
#include <bitnet_c.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#pragma GCC visibility push(default) /* what is not static is the interface */

typedef struct {
    bitnet_model_t *model;
    bitnet_ctx_t *ctx;
} engine;

static int is(const char *mode) { return getenv("FAKE_MODE") && strcmp(getenv("FAKE_MODE"), mode) == 0; }

static int failed(char *err, int32_t err_len) {
    snprintf(err, (size_t)err_len, "%s", bitnet_last_error());
    return -1;
}

static int open_engine(engine *e, const char *path, int32_t n_ctx) {
    bitnet_context_params_t params = {0};
    params.struct_size = sizeof params;
    params.n_ctx = n_ctx;
    params.n_threads = 1;
    return bitnet_load(path, NULL, &e->model) || bitnet_context_create(e->model, &params, &e->ctx);
}

static void close_engine(engine *e) {
    bitnet_context_free(e->ctx);
    bitnet_model_free(e->model);
}

static int tokenize(engine *e, const char *prompt, int add_bos, int parse_special, int32_t *out, int32_t capacity,
                    int32_t *out_len, char *err, int32_t err_len) {
    const uint32_t flags =
        (add_bos ? BITNET_TOKENIZE_ADD_BOS : 0) | (parse_special ? BITNET_TOKENIZE_PARSE_SPECIAL : 0);
    int32_t ids[4096];
    size_t n = 4096;
    if (bitnet_tokenize_text(e->model, prompt, (size_t)-1, flags, ids, &n)) return failed(err, err_len);
    if (is("token")) ids[n - 1] ^= 1;
    *out_len = (int32_t)n;
    if (!out || capacity <= 0) return 0;
    if ((size_t)capacity < n) return -1;
    memcpy(out, ids, n * sizeof *ids);
    return 0;
}

static int eval(engine *e, const int32_t *tokens, int32_t n, float *out, int32_t capacity, int32_t *rows, int32_t *cols,
                char *err, int32_t err_len) {
    bitnet_eval_params_t params = {0};
    bitnet_model_info_t info = {0};
    params.struct_size = sizeof params;
    params.logits = BITNET_LOGITS_ALL;
    info.struct_size = sizeof info;
    bitnet_model_get_info(e->model, &info);
    if (is("error")) return snprintf(err, (size_t)err_len, "the fake engine\nwants to fail"), -1;
    if (is("crash")) abort();
    if (is("hang")) sleep(1000);
    if (is("print")) printf("noise on stdout\n"), fflush(stdout);
    *rows = is("short") ? n - 1 : n;
    *cols = is("narrow") ? info.n_vocab - 1 : info.n_vocab;
    if (!out || capacity <= 0) return 0;
    if ((int64_t)capacity < (int64_t)*rows * *cols) return -1;
    if (bitnet_eval_tokens(e->ctx, tokens, (size_t)n, &params)) return failed(err, err_len);
    for (int32_t i = 0; i < *rows; i++)
        memcpy(out + (size_t)i * (size_t)*cols, bitnet_get_logits_ith(e->ctx, i), (size_t)*cols * sizeof *out);
    if (is("nan")) out[(size_t)*cols + 3] = NAN;
    if (is("value")) out[(size_t)*cols + 3] += 300;
    return 0;
}

#ifdef WITH_CONTEXT
int bitnet_cpp_init_context(engine **out, const char *path, int32_t n_ctx, int32_t n_gpu_layers, char *err,
                            int32_t err_len) {
    (void)n_gpu_layers;
    *out = calloc(1, sizeof **out);
    return open_engine(*out, path, n_ctx) ? failed(err, err_len) : 0;
}
int bitnet_cpp_free_context(engine *e) {
    close_engine(e);
    free(e);
    return 0;
}
int bitnet_cpp_tokenize_with_context(const engine *e, const char *prompt, int add_bos, int parse_special, int32_t *out,
                                     int32_t capacity, int32_t *out_len, char *err, int32_t err_len) {
    engine copy = *e;
    return tokenize(&copy, prompt, add_bos, parse_special, out, capacity, out_len, err, err_len);
}
int bitnet_cpp_eval_with_context(engine *e, const int32_t *tokens, int32_t n, int32_t seq_id, float *out,
                                 int32_t capacity, int32_t *rows, int32_t *cols, char *err, int32_t err_len) {
    (void)seq_id;
    return eval(e, tokens, n, out, capacity, rows, cols, err, err_len);
}
#else
int crossval_bitnet_tokenize(const char *path, const char *prompt, int add_bos, int parse_special, int32_t *out,
                             int32_t capacity, int32_t *out_len, char *err, int32_t err_len) {
    engine e = {NULL, NULL};
    const int status = open_engine(&e, path, 1)
                           ? failed(err, err_len)
                           : tokenize(&e, prompt, add_bos, parse_special, out, capacity, out_len, err, err_len);
    close_engine(&e);
    return status;
}
int crossval_bitnet_eval_with_tokens(const char *path, const int32_t *tokens, int32_t n, int32_t n_ctx, float *out,
                                     int32_t capacity, int32_t *rows, int32_t *cols, char *err, int32_t err_len) {
    engine e = {NULL, NULL};
    const int status = open_engine(&e, path, n_ctx) ? failed(err, err_len)
                                                    : eval(&e, tokens, n, out, capacity, rows, cols, err, err_len);
    close_engine(&e);
    return status;
}
#endif
