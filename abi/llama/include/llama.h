/* llama.h - the part of llama.cpp's interface that BitNet-rs's crates bitnet-sys and bitnet-crossval call, on bitnet-c.
 *
 * For those crates, which find it through BITNET_CPP_DIR; a program of your own is better off with bitnet_c.h. Two generations
 * of llama.cpp's header are in use at once: with BITNET_AVAILABLE defined, as crossval's build script does it, a vocabulary is a
 * type of its own; without it, as bitnet-sys has it, the model stands for it. Both see the same functions of one library.
 * Structs passed by value are this header's: a program compiled with another llama.h does not fit.
 *
 * What differs from llama.cpp:
 *  - Attention is always causal: llama_set_causal_attn has no effect.
 *  - A batch without flags (`logits` NULL, or all zero) asks for the logits of all of its rows.
 *  - llama_get_logits gives the last row that was asked for, not the first.
 *  - llama_tokenize(..., NULL, 0, ...) returns the number of tokens, not its negative.
 *  - One sequence, 0. A batch's positions are consecutive, and begin at most at the number of positions held: those from there on
 *    are replaced.
 *  - A context keeps its model alive. Freeing a batch twice, or with sequence ids that are not its own, does no harm.
 *  - Results do not depend on n_batch, n_ubatch or the threads.
 *
 * C11, also C++.
 */
#ifndef LLAMA_H
#define LLAMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define LLAMA_API
#else
#define LLAMA_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct llama_model;
struct llama_vocab;
struct llama_context;
typedef struct llama_model llama_model;
typedef struct llama_vocab llama_vocab;
typedef struct llama_context llama_context;

typedef int32_t llama_token;
typedef int32_t llama_pos;
typedef int32_t llama_seq_id;

/* What the functions below take where the generations differ. */
#ifdef BITNET_AVAILABLE
typedef llama_vocab llama_vocabulary;
#else
typedef llama_model llama_vocabulary;
#endif

typedef struct llama_model_params {
    int32_t n_gpu_layers; /* not used: there is no GPU */
    bool vocab_only;      /* not used: the file is mapped, and tensors that nobody reads cost nothing */
    bool use_mmap;        /* false: read into memory */
    bool use_mlock;       /* not used */
    bool check_tensors;   /* not used: always checked */
} llama_model_params;

typedef struct llama_context_params {
    uint32_t n_ctx;          /* positions; 0: the model's n_ctx_train */
    uint32_t n_batch;        /* not used: any number of tokens goes into one llama_decode */
    uint32_t n_ubatch;       /* not used */
    uint32_t n_seq_max;      /* not used: one */
    int32_t n_threads;       /* 0: the processors this process may run on */
    int32_t n_threads_batch; /* not used: as n_threads */
    bool logits_all;         /* true: all rows, whatever the flags of the batch say */
    bool embeddings;         /* not used */
    bool offload_kqv;        /* not used */
    bool flash_attn;         /* not used */
} llama_context_params;

/* `token` or `embd` (n_tokens rows of n_embd); NULL in `pos`: after the last position; NULL in `seq_id`: sequence 0. */
typedef struct llama_batch {
    int32_t n_tokens;
    llama_token *token;
    float *embd;
    llama_pos *pos;
    int32_t *n_seq_id;
    llama_seq_id **seq_id;
    int8_t *logits; /* not 0: the logits of this row are wanted */
} llama_batch;

LLAMA_API void llama_backend_init(void);
LLAMA_API void llama_backend_free(void);
LLAMA_API const char *llama_print_system_info(void); /* static */

enum ggml_log_level {
    GGML_LOG_LEVEL_NONE = 0,
    GGML_LOG_LEVEL_DEBUG = 1,
    GGML_LOG_LEVEL_INFO = 2,
    GGML_LOG_LEVEL_WARN = 3,
    GGML_LOG_LEVEL_ERROR = 4
};
typedef void (*ggml_log_callback)(enum ggml_log_level level, const char *text, void *user_data);
/* Where failures are told in one line; NULL: stderr, as in llama.cpp. Set it before other threads call. */
LLAMA_API void llama_log_set(ggml_log_callback log_callback, void *user_data);

/* NULL on failure, likewise below. */
LLAMA_API llama_model_params llama_model_default_params(void);
LLAMA_API llama_model *llama_load_model_from_file(const char *path_model, llama_model_params params);
LLAMA_API llama_model *llama_model_load_from_file(const char *path_model, llama_model_params params);
LLAMA_API void llama_free_model(llama_model *model);
LLAMA_API void llama_model_free(llama_model *model);
LLAMA_API const llama_vocab *llama_model_get_vocab(const llama_model *model);
LLAMA_API int32_t llama_n_ctx_train(const llama_model *model);
LLAMA_API int32_t llama_n_embd(const llama_model *model);

LLAMA_API llama_context_params llama_context_default_params(void);
LLAMA_API llama_context *llama_new_context_with_model(llama_model *model, llama_context_params params);
LLAMA_API llama_context *llama_init_from_model(llama_model *model, llama_context_params params);
LLAMA_API void llama_free(llama_context *ctx);
#ifdef BITNET_AVAILABLE
LLAMA_API const llama_model *llama_get_model(const llama_context *ctx); /* borrowed */
#else
LLAMA_API llama_model *llama_get_model(const llama_context *ctx);
#endif
LLAMA_API uint32_t llama_n_ctx(const llama_context *ctx);
LLAMA_API void llama_set_causal_attn(llama_context *ctx, bool causal_attn);

/* Positions held; and forgetting them, by either generation's name. */
LLAMA_API int32_t llama_get_kv_cache_token_count(const llama_context *ctx);
LLAMA_API void llama_kv_cache_clear(llama_context *ctx);
struct llama_memory_i;
typedef struct llama_memory_i *llama_memory_t;
LLAMA_API llama_memory_t llama_get_memory(const llama_context *ctx);
LLAMA_API void llama_memory_clear(llama_memory_t mem, bool data);

LLAMA_API int32_t llama_n_vocab(const llama_vocabulary *vocab);
LLAMA_API int32_t llama_vocab_n_tokens(const llama_vocab *vocab);
LLAMA_API const char *llama_token_get_text(const llama_vocabulary *vocab, llama_token token); /* NULL: no such token */
LLAMA_API const char *llama_vocab_get_text(const llama_vocab *vocab, llama_token token);
LLAMA_API llama_token llama_token_bos(const llama_vocabulary *vocab); /* -1: none, likewise below */
LLAMA_API llama_token llama_token_eos(const llama_vocabulary *vocab);
LLAMA_API llama_token llama_vocab_bos(const llama_vocab *vocab);
LLAMA_API llama_token llama_vocab_eos(const llama_vocab *vocab);
/* Number of tokens written; too many for n_tokens_max: minus the number, nothing is written. `add_special`: begins with BOS
 * when the file asks for one. INT32_MIN: an argument is wrong. */
LLAMA_API int32_t llama_tokenize(const llama_vocabulary *vocab, const char *text, int32_t text_len, llama_token *tokens,
                                 int32_t n_tokens_max, bool add_special, bool parse_special);

/* Arrays for `n_tokens`, zeroed: `embd` not 0: room for n_tokens * embd floats in place of tokens. All NULL on failure. */
LLAMA_API llama_batch llama_batch_init(int32_t n_tokens, int32_t embd, int32_t n_seq_max);
LLAMA_API void llama_batch_free(llama_batch batch);
/* The caller's tokens, borrowed: nothing to free. */
#ifdef BITNET_AVAILABLE
LLAMA_API llama_batch llama_batch_get_one(llama_token *tokens, int32_t n_tokens);
#else
/* Positions from pos_0, in an array that lives until this thread's next call of it. */
LLAMA_API llama_batch llama_batch_get_one(llama_token *tokens, int32_t n_tokens, llama_pos pos_0, llama_seq_id seq_id)
    __asm__("llama_batch_get_one_at");
#endif

/* 0; 1: no room for the tokens; -1: the batch is wrong; -2: another failure. 1 and -1 change nothing. */
LLAMA_API int32_t llama_decode(llama_context *ctx, llama_batch batch);
/* n_vocab floats, borrowed until the next llama_decode, clear or free. Row i of the batch; negative: counts the rows that were
 * asked for from their end. NULL: that row was not asked for. */
LLAMA_API float *llama_get_logits(llama_context *ctx);
LLAMA_API float *llama_get_logits_ith(llama_context *ctx, int32_t i);

#ifdef __cplusplus
}
#endif

#endif /* LLAMA_H */
