/* bitnet_cpp.h - the C++ side that BitNet-rs's crate bitnet-crossval expects, by libbitnet.so.
 *
 * For programs that were written against those prototypes; new programs use bitnet_c.h. Version node BITNET_COMPAT_1.0.
 *
 * Functions with an error buffer:
 *  - 0 is success, -1 failure. `err` (err_len >= 1 bytes) and the numbers that come out (`out_len`, `out_rows`, `out_cols`)
 *    must not be NULL. On failure the numbers are 0 and `err` holds one line of UTF-8; on success `err` is "". The rest of
 *    `err` is zeroed.
 *  - A buffer that is NULL, or whose capacity is 0 or less, asks for the size alone: nothing is evaluated and no position
 *    moves. A buffer that is too small is a failure and nothing is written.
 *  - Logits are row-major, out_cols = n_vocab floats for each of out_rows = n_tokens tokens. More than INT32_MAX of them is a
 *    failure, also of the size query: no capacity could say it.
 *  - No token is a failure, on the way in as on the way out.
 *
 * Threads: a handle is for one thread at a time; functions that take a path, from any thread. C11; also C++.
 */
#ifndef BITNET_CPP_H
#define BITNET_CPP_H

#include <stdint.h>

#if defined(_WIN32)
#define BITNET_CPP_API
#else
#define BITNET_CPP_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------------------------------------ *
 * A model that generates
 * ------------------------------------------------------------------------------------------------------------ */

/* NULL on failure. The handle is a bitnet_model_t of bitnet_c.h. */
BITNET_CPP_API void *bitnet_cpp_create_model(const char *model_path);
BITNET_CPP_API void bitnet_cpp_destroy_model(void *model); /* NULL is allowed */
/* Tokenizes `prompt` (with a BOS when the file asks for one, special tokens as text), and continues it greedily by at most
 * `max_tokens`, the end token included, on a context of its own. 0, or -1 with *tokens_count 0. Needs room for max_tokens. */
BITNET_CPP_API int bitnet_cpp_generate(void *model, const char *prompt, int max_tokens, uint32_t *tokens_out,
                                       int *tokens_count);

/* ------------------------------------------------------------------------------------------------------------ *
 * One call, one model: loads the file each time
 * ------------------------------------------------------------------------------------------------------------ */

/* `add_bos` not 0: begins with the BOS token, if the model has one. */
BITNET_CPP_API int crossval_bitnet_tokenize(const char *model_path, const char *prompt, int add_bos, int parse_special,
                                            int32_t *out_tokens, int32_t out_capacity, int32_t *out_len, char *err,
                                            int32_t err_len);
/* n_tokens in 1..n_ctx. */
BITNET_CPP_API int crossval_bitnet_eval_with_tokens(const char *model_path, const int32_t *tokens, int32_t n_tokens,
                                                    int32_t n_ctx, float *out_logits, int32_t logits_capacity,
                                                    int32_t *out_rows, int32_t *out_cols, char *err, int32_t err_len);

/* ------------------------------------------------------------------------------------------------------------ *
 * A model with a context
 * ------------------------------------------------------------------------------------------------------------ */

typedef struct bitnet_context_t bitnet_context_t;

/* `n_gpu_layers` has no effect: there is no GPU, and asking for one is no failure. *out_ctx is NULL on failure. */
BITNET_CPP_API int bitnet_cpp_init_context(bitnet_context_t **out_ctx, const char *model_path, int32_t n_ctx,
                                           int32_t n_gpu_layers, char *err, int32_t err_len);
BITNET_CPP_API int bitnet_cpp_free_context(bitnet_context_t *ctx);    /* 0; NULL is allowed */
BITNET_CPP_API void bitnet_cpp_reset_context(bitnet_context_t *ctx);  /* position 0; NULL is allowed */
BITNET_CPP_API int32_t bitnet_cpp_get_position(const bitnet_context_t *ctx); /* tokens evaluated; -1 for NULL */
BITNET_CPP_API int bitnet_cpp_tokenize_with_context(const bitnet_context_t *ctx, const char *prompt, int add_bos,
                                                    int parse_special, int32_t *out_tokens, int32_t out_capacity,
                                                    int32_t *out_len, char *err, int32_t err_len);
/* Evaluates after the position and moves it; position + n_tokens > n_ctx is a failure, also of the size query. `seq_id`: 0. */
BITNET_CPP_API int bitnet_cpp_eval_with_context(bitnet_context_t *ctx, const int32_t *tokens, int32_t n_tokens,
                                                int32_t seq_id, float *out_logits, int32_t logits_capacity,
                                                int32_t *out_rows, int32_t *out_cols, char *err, int32_t err_len);
/* Always -1: there is no GPU. */
BITNET_CPP_API int bitnet_cpp_eval_gpu(const bitnet_context_t *ctx, const int32_t *tokens, int32_t n_tokens,
                                       float *out_logits, int32_t logits_capacity, int32_t *out_rows,
                                       int32_t *out_cols, char *err, int32_t err_len);

/* ------------------------------------------------------------------------------------------------------------ *
 * The same as a session: evaluates every prompt from position 0
 * ------------------------------------------------------------------------------------------------------------ */

typedef struct bitnet_session_t bitnet_session_t;

/* `tokenizer_path`: NULL, the tokenizer is the model file's; anything else is a failure. */
BITNET_CPP_API int bitnet_cpp_session_create(bitnet_session_t **out_session, const char *model_path,
                                             const char *tokenizer_path, int32_t n_ctx, int32_t n_gpu_layers,
                                             char *err, int32_t err_len);
BITNET_CPP_API int bitnet_cpp_session_free(bitnet_session_t *session); /* 0; NULL is allowed */
BITNET_CPP_API int bitnet_cpp_session_tokenize(const bitnet_session_t *session, const char *prompt, int add_bos,
                                               int parse_special, int32_t *out_tokens, int32_t out_capacity,
                                               int32_t *out_len, char *err, int32_t err_len);
/* There is no reset and no position in this interface: each call begins anew. */
BITNET_CPP_API int bitnet_cpp_session_eval(const bitnet_session_t *session, const int32_t *tokens, int32_t n_tokens,
                                           float *out_logits, int32_t logits_capacity, int32_t *out_rows,
                                           int32_t *out_cols, char *err, int32_t err_len);

/* ------------------------------------------------------------------------------------------------------------ *
 * What this library and machine can do
 * ------------------------------------------------------------------------------------------------------------ */

typedef struct bitnet_capabilities_t { /* 1 when there are kernels for it that run here, else 0 */
    int has_avx2;
    int has_avx512;
    int has_neon;
    int has_cuda;
    int has_metal;
    int has_hip;
} bitnet_capabilities_t;

/* 0, or -1 for NULL. */
BITNET_CPP_API int bitnet_cpp_get_capabilities(bitnet_capabilities_t *out_caps);

#ifdef __cplusplus
}
#endif

#endif /* BITNET_CPP_H */
