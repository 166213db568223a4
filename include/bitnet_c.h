/* bitnet_c.h - the C ABI of bitnet-c, the reference engine for BitNet b1.58 models.
 *
 * This header is the manual, in learning order. A complete program:
 *
 *     #include <bitnet_c.h>
 *     #include <stdio.h>
 *
 *     int main(int argc, char **argv) {
 *         bitnet_model_t *model = NULL;
 *         bitnet_ctx_t *ctx = NULL;
 *         int32_t tokens[64];
 *         size_t n = 64;
 *         if (argc < 3 || bitnet_load(argv[1], NULL, &model) ||
 *             bitnet_context_create(model, NULL, &ctx) ||
 *             bitnet_tokenize_text(model, argv[2], (size_t)-1, BITNET_TOKENIZE_ADD_BOS, tokens, &n) ||
 *             bitnet_eval_tokens(ctx, tokens, n, NULL)) {
 *             fprintf(stderr, "%s\n", bitnet_last_error());
 *             return 2;
 *         }
 *         const float *logits = bitnet_get_logits_ith(ctx, -1);
 *         printf("logit of token 0 after the prompt: %g\n", logits[0]);
 *         bitnet_context_free(ctx);
 *         bitnet_model_free(model);
 *         return 0;
 *     }
 *
 * Conventions, true for every function below unless it says otherwise:
 *  - Status: 0 is success, negative is failure; bitnet_last_error() then holds one line for this thread.
 *    Nothing here prints, exits, aborts, throws or changes errno on purpose.
 *  - Threads: a `const bitnet_model_t *` may be used by many threads at once. A `bitnet_ctx_t *` by one thread
 *    at a time (it may move between threads); a second entry while one runs returns BITNET_E_BUSY. After fork() the
 *    child must not use a context of its parent: its threads are not there.
 *  - Structs that begin with `struct_size`: set it to sizeof; zero in any other field means its default; a NULL
 *    struct pointer means all defaults. A larger struct of a newer header is accepted when its tail is zero.
 *  - Buffers `(T *out, size_t *n)`: *n is the capacity going in and always the full need coming out. Too small:
 *    nothing is written and BITNET_E_BUFFER returned. out NULL: a size query, returns BITNET_OK.
 *  - Text buffers: *n counts the bytes with the terminating NUL.
 *  - Borrowed pointers say until when they live. The caller never frees memory of this library but by its handles.
 *  - Since: 1.0 unless stated. abi/SYMBOLS.md in the source lists every symbol.
 *
 * C11; also compiles as C17, C++11 and C++20.
 */
#ifndef BITNET_C_H
#define BITNET_C_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define BITNET_API
#else
#define BITNET_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------------------------------------ *
 * 1. Version
 * ------------------------------------------------------------------------------------------------------------ */

#define BITNET_ABI_MAJOR 1
#define BITNET_ABI_MINOR 0
#define BITNET_ABI_VERSION ((uint32_t)BITNET_ABI_MAJOR << 16 | (uint32_t)BITNET_ABI_MINOR)

/* ABI of the loaded library: major << 16 | minor. Compatible when the major is equal and the minor not smaller. */
BITNET_API uint32_t bitnet_abi_version(void);
/* Release as text, "0.1.0". Static. */
BITNET_API const char *bitnet_version(void);

/* ------------------------------------------------------------------------------------------------------------ *
 * 2. Status and errors
 * ------------------------------------------------------------------------------------------------------------ */

typedef int32_t bitnet_status_t;
#define BITNET_OK ((bitnet_status_t)0)
#define BITNET_E_INVALID ((bitnet_status_t)-1)      /* an argument is wrong */
#define BITNET_E_NOMEM ((bitnet_status_t)-2)        /* memory could not be had */
#define BITNET_E_IO ((bitnet_status_t)-3)           /* a file could not be opened, read or written */
#define BITNET_E_FORMAT ((bitnet_status_t)-4)       /* a file is damaged or breaks its format's rules */
#define BITNET_E_UNSUPPORTED ((bitnet_status_t)-5)  /* well-formed, but not something this library does */
#define BITNET_E_BUFFER ((bitnet_status_t)-6)       /* the caller's buffer is too small; *n holds the need */
#define BITNET_E_ISA ((bitnet_status_t)-7)          /* the instruction set is unknown or not on this CPU */
#define BITNET_E_ABI ((bitnet_status_t)-8)          /* a struct or plugin of an incompatible version */
#define BITNET_E_PLUGIN ((bitnet_status_t)-9)       /* a trace plugin could not be loaded, declined or failed */
#define BITNET_E_BUSY ((bitnet_status_t)-10)        /* the context is in use (another thread, or a callback) */
#define BITNET_E_OVERFLOW ((bitnet_status_t)-11)    /* the context is full */
#define BITNET_E_CANCELLED ((bitnet_status_t)-12)   /* a callback asked to stop */
#define BITNET_E_USER ((bitnet_status_t)-13)        /* a callback or sink returned a failure of its own */
#define BITNET_E_INTERNAL ((bitnet_status_t)-14)    /* a bug in this library: please report the text */

/* Name of a status, "BITNET_E_FORMAT"; "BITNET_E_UNKNOWN" for anything else. Static, never NULL. */
BITNET_API const char *bitnet_status_name(bitnet_status_t status);
/* This thread's last failure in one line, naming the thing, what was found and what was expected. Never NULL, ""
 * before the first failure; successful calls leave it alone. Borrowed until this thread's next failing call. */
BITNET_API const char *bitnet_last_error(void);

#define BITNET_LOG_ERROR 1
#define BITNET_LOG_WARN 2
#define BITNET_LOG_INFO 3
/* `text`: one line without its line end, valid during the call. May be called from any thread that calls in. */
typedef void (*bitnet_log_fn)(void *user, int32_t level, const char *text);
/* Process-wide; NULL (the default) logs nothing. Set it before other threads use the library. */
BITNET_API void bitnet_set_log(bitnet_log_fn fn, void *user);

/* ------------------------------------------------------------------------------------------------------------ *
 * 3. CPU
 * ------------------------------------------------------------------------------------------------------------ */

/* Instruction sets compiled into this library, from plain to best: "scalar", "sse2", "avx2", "avxvnni", "avx512vnni" on
 * x86-64, "scalar", "neon", "neon-dotprod" on AArch64. All of them give the same bits. bitnet_isa_usable: 1 when this
 * CPU and system have it, 0 when not or `index` is out of range. */
BITNET_API int32_t bitnet_isa_count(void);
BITNET_API const char *bitnet_isa_name(int32_t index); /* static; NULL when out of range */
BITNET_API int32_t bitnet_isa_usable(int32_t index);

/* ------------------------------------------------------------------------------------------------------------ *
 * 4. Load and look at a model
 * ------------------------------------------------------------------------------------------------------------ */

typedef struct bitnet_model bitnet_model_t; /* immutable once loaded */
typedef struct bitnet_ctx bitnet_ctx_t;

/* `done` of `total` steps; return non-zero to cancel (the load fails with BITNET_E_CANCELLED). */
typedef int32_t (*bitnet_progress_fn)(void *user, uint64_t done, uint64_t total);

/* Read the file into memory, on huge pages where the system has them, instead of mapping it: it may change afterwards, and
 * decoding reads it faster (core/DESIGN.md), but loading takes longer and nothing is shared between processes. */
#define BITNET_LOAD_COPY 1u
/* What a code of 3 gives where nobody looked for it differs by instruction set; only the engine's memory is read or written. */
#define BITNET_LOAD_UNCHECKED_CODES 2u /* skip the scan of every ternary code (structure is always checked) */

typedef struct bitnet_load_params {
    uint32_t struct_size;
    uint32_t flags;               /* BITNET_LOAD_... */
    const char *isa;              /* instruction set by name; NULL: BITNET_ISA, else the best usable one */
    const char *semantics;        /* overrides, "activation=silu,eps=1e-6" or "profile=bitnetcpp"; NULL: the file's */
    bitnet_progress_fn progress;  /* NULL: none */
    void *progress_user;
} bitnet_load_params_t;

/* Loads a GGUF file, mapped read-only: the file must not change while the model lives. *out is NULL on failure.
 * Errors: IO, FORMAT, UNSUPPORTED, ISA, INVALID (semantics), CANCELLED, NOMEM. */
BITNET_API bitnet_status_t bitnet_load(const char *path, const bitnet_load_params_t *params, bitnet_model_t **out);
/* The same from `n_bytes` at `data`, which must stay valid and unchanged until the model and all of its contexts are
 * freed, unless BITNET_LOAD_COPY is given. `name` (may be NULL) stands for the path in messages and traces. */
BITNET_API bitnet_status_t bitnet_load_memory(const void *data, size_t n_bytes, const char *name,
                                              const bitnet_load_params_t *params, bitnet_model_t **out);
/* Gives the handle up; NULL is allowed. Contexts made from it keep what they need alive. */
BITNET_API void bitnet_model_free(bitnet_model_t *model);

typedef struct bitnet_model_info {
    uint32_t struct_size;
    int32_t n_vocab;
    int32_t n_ctx_train; /* positions the model was trained for */
    int32_t n_embd;
    int32_t n_layer;
    int32_t n_ff;
    int32_t n_head;
    int32_t n_head_kv;
    int32_t head_dim;
    int32_t n_rot;       /* dimensions of a head that RoPE turns */
    float rms_eps;       /* as run, overrides included */
    int32_t head_tied;   /* 1: the output head is the token embedding */
    double rope_theta;   /* as run, overrides included */
    uint64_t n_params;
    uint64_t n_bytes;    /* of the file */
} bitnet_model_info_t;

/* Fills *out up to out->struct_size bytes. */
BITNET_API bitnet_status_t bitnet_model_get_info(const bitnet_model_t *model, bitnet_model_info_t *out);
/* The four below: borrowed while the handle lives; "" when unknown; NULL only for a NULL model. */
BITNET_API const char *bitnet_model_architecture(const bitnet_model_t *model); /* "bitnet-b1.58" */
BITNET_API const char *bitnet_model_path(const bitnet_model_t *model);
BITNET_API const char *bitnet_model_isa(const bitnet_model_t *model);
/* The semantics as run, "activation=relu2,eps=1e-05,...", in the syntax of bitnet_load_params.semantics; switches that only
 * imitate faults and other engines appear when they are on. */
BITNET_API const char *bitnet_model_semantics(const bitnet_model_t *model);
/* BLAKE3 of the whole file as 64 hex digits. Computed at the first call (about 0.3 s per GB from the page cache), then kept. */
BITNET_API bitnet_status_t bitnet_model_hash(const bitnet_model_t *model, char *out, size_t *n);
/* BLAKE3 of any bytes, in the same form; it is the hash of a trace's rows too (section 10). `data` may be NULL when
 * n_bytes is 0. Any thread. */
BITNET_API bitnet_status_t bitnet_blake3(const void *data, size_t n_bytes, char *out, size_t *n);

/* Things a user should see about this file, one line each: what was assumed, what is unusual. */
BITNET_API size_t bitnet_model_warning_count(const bitnet_model_t *model);
BITNET_API const char *bitnet_model_warning(const bitnet_model_t *model, size_t index); /* lives with the handle */

/* GGUF keys in file order. bitnet_model_key_text writes a value as text: scalars plainly, arrays as JSON-like
 * "[1, 2, ...]" of at most `max_items` items (0: all). */
BITNET_API size_t bitnet_model_key_count(const bitnet_model_t *model);
BITNET_API const char *bitnet_model_key_name(const bitnet_model_t *model, size_t index);
BITNET_API const char *bitnet_model_key_type(const bitnet_model_t *model, size_t index); /* "u32", "str", "arr[str]" */
BITNET_API uint64_t bitnet_model_key_length(const bitnet_model_t *model, size_t index); /* array length, else 1 */
BITNET_API bitnet_status_t bitnet_model_key_text(const bitnet_model_t *model, size_t index, uint64_t max_items,
                                                 char *out, size_t *n);

typedef struct bitnet_tensor_info {
    uint32_t struct_size;
    uint32_t n_dims;
    uint64_t dims[4];       /* dims[0] is the contiguous (input) dimension, as in GGUF */
    const char *name;       /* lives with the handle */
    const char *type_name;  /* "F32", "F16", "BF16", "I2_S"; static */
    uint64_t file_offset;   /* of its first byte in the file */
    uint64_t n_bytes;
} bitnet_tensor_info_t;

BITNET_API size_t bitnet_model_tensor_count(const bitnet_model_t *model);
BITNET_API bitnet_status_t bitnet_model_tensor(const bitnet_model_t *model, size_t index, bitnet_tensor_info_t *out);

/* ------------------------------------------------------------------------------------------------------------ *
 * 5. Context: one conversation with a model
 * ------------------------------------------------------------------------------------------------------------ */

#define BITNET_KV_DEFAULT 0u /* what the semantics say: f32 unless a profile says f16 */
#define BITNET_KV_F32 1u
#define BITNET_KV_F16 2u

/* How bitnet_generate finds a token. Full: every logit is computed, by reading the whole output head, which is more than half
 * the bytes of a token. Certified: for greedy (temperature 0) and top-k generation without a repetition penalty, a compact
 * copy of the head (5 bits a weight) bounds every logit rigorously, and only those that can still win are computed, exactly:
 * the tokens are always those of the full head. Where the bound leaves too many the full head is used, and counted
 * (bitnet_context_get_head_stats). The copy is made at first use, takes about 0.63 bytes a weight of the head (207 MB and 0.7 s
 * with 2 threads for the 2B-4T shape) and is shared by the contexts of a model. Without a fast enough instruction set
 * (AVX2 or better), or when a trace wants the logits, the full head is used. */
#define BITNET_HEAD_FULL 0u
#define BITNET_HEAD_CERTIFIED 1u

/* How a decoded token reads the ternary weights. DENSE: from a second copy at 1.6 bits a weight instead of 2, lossless, so
 * that results are the same bits; it is made at context creation, by the first context of a model that asks, and shared by
 * them (bitnet_context_get_weight_stats: 2B-4T 0.42 GB). Where no kernel of this CPU reads it faster than the file's codes
 * (it takes AVX-512 VBMI), the file's are used all the same. Several tokens at once are computed from the file's. */
#define BITNET_WEIGHTS_IN_PLACE 0u
#define BITNET_WEIGHTS_DENSE 1u

typedef struct bitnet_context_params {
    uint32_t struct_size;
    int32_t n_ctx;      /* positions; 0: the model's n_ctx_train */
    int32_t n_threads;  /* 1..256; 0: the processors this process may run on. Results do not depend on it. */
    int32_t n_batch;    /* rows computed together, 1..4096; 0: 512. Results do not depend on it. */
    uint32_t kv_type;   /* BITNET_KV_... */
    int32_t device_id;  /* 0: CPU; anything else: BITNET_E_UNSUPPORTED */
    uint32_t head;      /* BITNET_HEAD_... */
    uint32_t weights;   /* BITNET_WEIGHTS_... */
} bitnet_context_params_t;

/* Allocates all memory the context will ever need, but for logits of several positions. When BITNET_TRACE_PLUGIN is
 * set, attaches those plugins (section 10); a plugin that fails never fails this call. */
BITNET_API bitnet_status_t bitnet_context_create(const bitnet_model_t *model, const bitnet_context_params_t *params,
                                                 bitnet_ctx_t **out);
/* Ends traces, frees. NULL is allowed. */
BITNET_API void bitnet_context_free(bitnet_ctx_t *ctx);
/* Forgets all positions. */
BITNET_API bitnet_status_t bitnet_context_reset(bitnet_ctx_t *ctx);
/* Keeps the first `n_positions` (0..position). */
BITNET_API bitnet_status_t bitnet_context_truncate(bitnet_ctx_t *ctx, int32_t n_positions);
/* An independent copy at the same position, without sinks and without logits. */
BITNET_API bitnet_status_t bitnet_context_fork(bitnet_ctx_t *ctx, bitnet_ctx_t **out);
/* Number of positions evaluated so far, and the capacity; -1 for a NULL context. */
BITNET_API int32_t bitnet_context_position(const bitnet_ctx_t *ctx);
BITNET_API int32_t bitnet_context_capacity(const bitnet_ctx_t *ctx);
/* Bytes this context has allocated (KV cache, scratch, logits). */
BITNET_API uint64_t bitnet_context_memory(const bitnet_ctx_t *ctx);

typedef struct bitnet_head_stats { /* of a context with BITNET_HEAD_CERTIFIED; zero in others */
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t n_certified;     /* tokens found without the full head */
    uint64_t n_full;          /* tokens for which it was read after all: the bound left too many, or the settings need it */
    uint64_t n_rows_computed; /* logits computed exactly for the certified tokens */
    uint64_t n_bytes;         /* of the compact copy; 0 before its first use */
    uint64_t build_ns;        /* time it took to make, by whichever context made it */
} bitnet_head_stats_t;
/* Fills *out up to out->struct_size bytes. */
BITNET_API bitnet_status_t bitnet_context_get_head_stats(const bitnet_ctx_t *ctx, bitnet_head_stats_t *out);

typedef struct bitnet_weight_stats { /* of a context that decodes from dense weights; zero in others */
    uint32_t struct_size;
    uint32_t dense;    /* 1: it does */
    uint64_t n_bytes;  /* of the copy */
    uint64_t build_ns; /* time it took to make, by whichever context made it */
} bitnet_weight_stats_t;
/* Fills *out up to out->struct_size bytes. */
BITNET_API bitnet_status_t bitnet_context_get_weight_stats(const bitnet_ctx_t *ctx, bitnet_weight_stats_t *out);
/* Writes the KV state as a versioned, checksummed blob / takes it back. Restoring demands the same model file, the
 * same semantics and KV type; on any failure the context is as it was. Logits are not part of it. */
BITNET_API bitnet_status_t bitnet_context_save(bitnet_ctx_t *ctx, void *out, size_t *n);
BITNET_API bitnet_status_t bitnet_context_restore(bitnet_ctx_t *ctx, const void *data, size_t n);

/* ------------------------------------------------------------------------------------------------------------ *
 * 6. Tokens
 * ------------------------------------------------------------------------------------------------------------ */

#define BITNET_TOKENIZE_ADD_BOS 1u        /* begin with the BOS token, if the model has one */
#define BITNET_TOKENIZE_PARSE_SPECIAL 2u  /* "<|eot_id|>" in the text becomes that control token */

/* `text` is `n_bytes` of any bytes ((size_t)-1: up to its NUL). Never more tokens than bitnet_tokenize_bound(). */
BITNET_API bitnet_status_t bitnet_tokenize_text(const bitnet_model_t *model, const char *text, size_t n_bytes,
                                                uint32_t flags, int32_t *out, size_t *n);
BITNET_API size_t bitnet_tokenize_bound(size_t n_bytes);

#define BITNET_DETOKENIZE_SPECIAL 1u /* write control tokens as their text; otherwise they are skipped */

/* The bytes of a token sequence, with a NUL after them (*n counts it). Bytes, not necessarily valid UTF-8. */
BITNET_API bitnet_status_t bitnet_detokenize(const bitnet_model_t *model, const int32_t *tokens, size_t n_tokens,
                                             uint32_t flags, char *out, size_t *n);

#define BITNET_TOKEN_NORMAL 1
#define BITNET_TOKEN_UNKNOWN 2
#define BITNET_TOKEN_CONTROL 3
#define BITNET_TOKEN_USER_DEFINED 4
#define BITNET_TOKEN_UNUSED 5
#define BITNET_TOKEN_BYTE 6

/* A token as the vocabulary spells it; lives with the handle; NULL when out of range. */
BITNET_API const char *bitnet_token_text(const bitnet_model_t *model, int32_t token);
BITNET_API int32_t bitnet_token_type(const bitnet_model_t *model, int32_t token); /* 0 when out of range */
BITNET_API float bitnet_token_score(const bitnet_model_t *model, int32_t token);  /* 0 when there is none */

#define BITNET_SPECIAL_BOS 0
#define BITNET_SPECIAL_EOS 1
#define BITNET_SPECIAL_EOT 2
#define BITNET_SPECIAL_PAD 3
/* Token id of a special role, -1 when the model has none. */
BITNET_API int32_t bitnet_token_special(const bitnet_model_t *model, int32_t role);
/* All tokens that end a generation, ascending. */
BITNET_API bitnet_status_t bitnet_token_end_ids(const bitnet_model_t *model, int32_t *out, size_t *n);
/* 1 when the file asks for a BOS at the front of a prompt. */
BITNET_API int32_t bitnet_token_wants_bos(const bitnet_model_t *model);
/* The file's chat template (Jinja); lives with the handle; "" when there is none. */
BITNET_API const char *bitnet_chat_template(const bitnet_model_t *model);

/* ------------------------------------------------------------------------------------------------------------ *
 * 7. Eval
 * ------------------------------------------------------------------------------------------------------------ */

#define BITNET_LOGITS_LAST 0u
#define BITNET_LOGITS_ALL 1u
#define BITNET_LOGITS_NONE 2u

/* Asked between layers; non-zero cancels. Must not use the context. */
typedef int32_t (*bitnet_cancel_fn)(void *user);

typedef struct bitnet_eval_params {
    uint32_t struct_size;
    uint32_t logits;          /* rows to keep: BITNET_LOGITS_... */
    const float *embeddings;  /* (n, n_embd) row-major in place of token embeddings; then tokens may be NULL */
    bitnet_cancel_fn cancel;  /* NULL: none */
    void *cancel_user;
} bitnet_eval_params_t;

/* Evaluates `n` >= 1 tokens after the current position and moves it. On any failure the position and the KV state before
 * it are unchanged. INVALID (token out of range), OVERFLOW (the context is full) and BUSY change nothing at all; after
 * CANCELLED and NOMEM the logits of the eval before are gone. */
BITNET_API bitnet_status_t bitnet_eval_tokens(bitnet_ctx_t *ctx, const int32_t *tokens, size_t n,
                                              const bitnet_eval_params_t *params);

/* ------------------------------------------------------------------------------------------------------------ *
 * 8. Logits
 * ------------------------------------------------------------------------------------------------------------ */

/* Row i of the rows the last eval kept, n_vocab floats; negative counts from the end. After a bitnet_generate with the
 * certified head the row is computed by the first call that asks for it. Borrowed until the next call
 * that evaluates, resets, truncates, restores or frees. NULL with last error when there is no such row. Rows lie one after
 * another, and where they lie stays the same until an eval keeps more rows than any of this context before. */
BITNET_API const float *bitnet_get_logits_ith(bitnet_ctx_t *ctx, int32_t i);
/* The same copied out; *n in floats. */
BITNET_API bitnet_status_t bitnet_copy_logits(bitnet_ctx_t *ctx, int32_t i, float *out, size_t *n);
/* Number of rows kept by the last eval. */
BITNET_API int32_t bitnet_logits_count(const bitnet_ctx_t *ctx);
/* Output of the final norm of the same rows, n_embd floats, same lifetime and place. */
BITNET_API const float *bitnet_get_hidden_ith(bitnet_ctx_t *ctx, int32_t i);
/* out[j] = log softmax(logits row j)[tokens[j]] for the first n kept rows (natural log, computed in double). */
BITNET_API bitnet_status_t bitnet_token_logprobs(bitnet_ctx_t *ctx, const int32_t *tokens, size_t n, double *out);
/* The k largest logits of row i, largest first, ties to the lowest id. NaN never wins. Any output may be NULL. */
BITNET_API bitnet_status_t bitnet_top_logits(bitnet_ctx_t *ctx, int32_t i, int32_t k, int32_t *tokens, float *logits);

/* ------------------------------------------------------------------------------------------------------------ *
 * 9. Generate
 * ------------------------------------------------------------------------------------------------------------ */

/* Called for each new token before it is evaluated; `logits` is the row it was drawn from (n_vocab floats, valid
 * during the call), NULL when the certified head found the token without it. Non-zero stops the generation with BITNET_E_CANCELLED; the tokens so far are kept. */
typedef int32_t (*bitnet_token_fn)(void *user, int32_t token, const float *logits, int32_t n_vocab);

typedef struct bitnet_generate_params {
    uint32_t struct_size;
    int32_t max_tokens;        /* 0: until an end token or the context is full */
    float temperature;         /* 0: greedy, ties to the lowest id */
    int32_t top_k;             /* 0: off */
    float top_p;               /* 0 or >= 1: off */
    float min_p;               /* 0: off */
    float repeat_penalty;      /* 0 or 1: off */
    int32_t repeat_last_n;     /* tokens the penalty looks at; 0: 64 */
    uint64_t seed;             /* same seed, same tokens, on every machine */
    const int32_t *stop_tokens; /* besides the model's end tokens */
    size_t n_stop_tokens;
    const char *const *stop_strings; /* NUL-terminated; generation ends once the text contains one */
    size_t n_stop_strings;
    uint32_t flags;            /* BITNET_GENERATE_... */
    uint32_t reserved;
    bitnet_token_fn on_token;  /* NULL: none */
    void *on_token_user;
} bitnet_generate_params_t;

#define BITNET_GENERATE_IGNORE_END 1u /* do not stop at the model's end tokens */

/* Continues from the last row of the last eval. Writes up to *n tokens, the end token included; *n is then the number
 * produced, which also bounds the generation (out may be NULL with *n 0 when on_token is given and max_tokens > 0 or
 * 0: then nothing is stored). All but the last produced token have been evaluated. */
BITNET_API bitnet_status_t bitnet_generate(bitnet_ctx_t *ctx, const bitnet_generate_params_t *params, int32_t *out,
                                           size_t *n);

/* ------------------------------------------------------------------------------------------------------------ *
 * 10. Trace: every intermediate tensor, to sinks
 * ------------------------------------------------------------------------------------------------------------ */

/* Stages in execution order. `layer` is -1 for embeddings, final_norm and logits. Shapes are per token row. */
#define BITNET_STAGE_EMBEDDINGS 1           /* (n_embd) */
#define BITNET_STAGE_ATTN_NORM 2            /* (n_embd) */
#define BITNET_STAGE_Q_PROJ 3               /* (n_head, head_dim) before RoPE */
#define BITNET_STAGE_K_PROJ 4               /* (n_head_kv, head_dim) */
#define BITNET_STAGE_V_PROJ 5               /* (n_head_kv, head_dim) */
#define BITNET_STAGE_Q_ROPE 6               /* (n_head, head_dim) */
#define BITNET_STAGE_K_ROPE 7               /* (n_head_kv, head_dim) */
#define BITNET_STAGE_ATTN_SCORES 8          /* (n_head, n_kv) scaled, before softmax; off by default */
#define BITNET_STAGE_ATTN_SCORES_SOFTMAX 9  /* (n_head, n_kv) n_kv = position + 1 */
#define BITNET_STAGE_ATTN_CONTEXT 10        /* (n_head, head_dim) probabilities times V */
#define BITNET_STAGE_ATTN_SUB_NORM 11       /* (n_head, head_dim) */
#define BITNET_STAGE_ATTN_OUT 12            /* (n_embd) */
#define BITNET_STAGE_ATTN_RESIDUAL 13       /* (n_embd) */
#define BITNET_STAGE_FFN_NORM 14            /* (n_embd) */
#define BITNET_STAGE_FFN_GATE 15            /* (n_ff) */
#define BITNET_STAGE_FFN_UP 16              /* (n_ff) */
#define BITNET_STAGE_FFN_ACT 17             /* (n_ff) activation(gate) * up */
#define BITNET_STAGE_FFN_SUB_NORM 18        /* (n_ff) */
#define BITNET_STAGE_FFN_OUT 19             /* (n_embd) */
#define BITNET_STAGE_LAYER_OUT 20           /* (n_embd) */
#define BITNET_STAGE_FINAL_NORM 21          /* (n_embd) */
#define BITNET_STAGE_LOGITS 22              /* (n_vocab) */
#define BITNET_STAGE_COUNT 22
/* Integer companions, off by default: stage | companion. Named "<stage>.codes", "<stage>.scale", "<stage>.acc". */
#define BITNET_STAGE_CODES 0x100 /* int8 activation codes of attn_norm, attn_sub_norm, ffn_norm, ffn_sub_norm */
#define BITNET_STAGE_SCALE 0x200 /* f32 activation scale s = 127 / max|x| of the same */
#define BITNET_STAGE_ACC 0x300   /* int32 accumulators of q_proj, k_proj, v_proj, attn_out, ffn_gate, ffn_up, ffn_out */

/* Name of a stage or companion, "q_proj"; NULL when there is no such id. Static. */
BITNET_API const char *bitnet_stage_name(int32_t stage);

#define BITNET_DTYPE_F32 0
#define BITNET_DTYPE_F16 1
#define BITNET_DTYPE_BF16 2
#define BITNET_DTYPE_I8 3
#define BITNET_DTYPE_I32 4

#define BITNET_EVENT_RUN_BEGIN 1
#define BITNET_EVENT_STEP_BEGIN 2
#define BITNET_EVENT_TENSOR 3
#define BITNET_EVENT_STEP_END 4
#define BITNET_EVENT_RUN_END 5
#define BITNET_EVENT_KV_STATE 6

/* Every event begins with this header; an event may be copied by its size; pointers in it live during the call. */
typedef struct bitnet_event {
    uint32_t size;     /* of the whole event in bytes */
    uint32_t type;     /* BITNET_EVENT_... */
    uint32_t flags;    /* BITNET_EVENT_FLAG_... */
    int32_t layer;     /* -1: of no block */
    int32_t position;  /* first token position it is about */
    uint32_t run;      /* number of the run within this context, from 0 */
    uint64_t seq;      /* per context, from 0, in execution order; counts what was selected */
    uint64_t time_ns;  /* CLOCK_MONOTONIC */
} bitnet_event_t;

#define BITNET_EVENT_FLAG_OVERRIDDEN 1u  /* a sink replaced values of this run before this event */
#define BITNET_EVENT_FLAG_OVERRIDABLE 2u /* of a RUN_BEGIN: a sink has asked for the means to (bitnet.override/1) */

/* A run begins with the first eval, and anew after the position moved back (reset, truncate, restore), after an eval
 * failed, and after a sink was attached or the selection changed: within a run each position is evaluated once. */
typedef struct bitnet_run_begin_event {
    bitnet_event_t header;
    const char *engine;          /* "bitnet-c" */
    const char *engine_version;
    const char *model_path;      /* "" when unknown, likewise below */
    const char *model_hash;      /* BLAKE3 of the file, 64 hex digits */
    const char *architecture;
    const char *hyperparameters; /* "n_layer=30,n_embd=2560,..." */
    const char *semantics;       /* as bitnet_model_semantics */
    const char *isa;
    const char *kv_type;         /* "f32" or "f16" */
    const char *selection;       /* what is traced, as given; "" for the default */
    const char *prompt;          /* bytes, not NUL-terminated; NULL when unknown */
    uint64_t n_prompt_bytes;
    int32_t n_threads;
    int32_t n_batch;
    const int32_t *tokens;       /* of the first eval; NULL when it was given embeddings */
    uint64_t n_tokens;
} bitnet_run_begin_event_t;

typedef struct bitnet_step_event { /* STEP_BEGIN and STEP_END: one call of bitnet_eval_tokens */
    bitnet_event_t header;
    const int32_t *tokens; /* NULL when embeddings were given */
    uint64_t n_tokens;
    bitnet_status_t status; /* STEP_END: how the eval ended */
    uint32_t reserved;
} bitnet_step_event_t;

/* What the key/value cache holds after a step; delivered before its STEP_END. */
typedef struct bitnet_kv_state {
    uint32_t struct_size;
    int32_t n_valid;      /* positions held */
    int32_t n_max;        /* positions there is room for */
    int32_t oldest;       /* first position held; -1 when none is */
    uint64_t n_bytes;     /* allocated for keys and values */
    uint64_t n_bytes_used; /* of them, in positions held */
    uint64_t n_hits;      /* positions that this step found in the cache */
    uint64_t n_misses;    /* positions that this step had to compute */
    uint64_t n_evicted;   /* positions given up since the step before: truncated, reset or pushed out */
} bitnet_kv_state_t;

typedef struct bitnet_kv_event {
    bitnet_event_t header; /* position: the last one evaluated */
    bitnet_kv_state_t kv;
} bitnet_kv_event_t;

/* What an operation read, for engines that can tell (our own does not: its inputs are stages of the same run). */
typedef struct bitnet_tensor_input {
    const char *name;      /* stage name where it is one, else "k_cache", "v_cache", or the engine's own */
    int32_t stage;         /* BITNET_STAGE_..., 0: none */
    int32_t dtype;         /* BITNET_DTYPE_... */
    uint32_t n_dims;       /* of one row */
    uint32_t reserved;
    uint64_t shape[4];     /* of one row, outermost first */
    uint64_t row_elements; /* product of shape */
    uint64_t row_stride;   /* bytes from the input of row r to that of row r + 1; 0: all rows read the same */
    const void *data;
} bitnet_tensor_input_t;

/* One stage of consecutive token rows. Row r is `row_elements` elements at (const char *)data + r * row_stride. */
typedef struct bitnet_tensor_event {
    bitnet_event_t header;    /* position: of row 0; row r is at position + r */
    int32_t stage;            /* BITNET_STAGE_..., 0 for a foreign name */
    int32_t dtype;            /* BITNET_DTYPE_... */
    const char *stage_name;   /* "q_proj" */
    const char *kernel;       /* what computed it, "ternary.avx2"; "" when unknown */
    uint32_t n_rows;
    uint32_t first_row;       /* index of row 0 in its eval */
    uint32_t n_dims;          /* of one row */
    uint32_t n_inputs;        /* in `inputs` */
    uint64_t shape[4];        /* of one row, outermost first */
    uint64_t row_elements;    /* product of shape */
    uint64_t row_stride;      /* bytes */
    const void *data;
    uint64_t ns;              /* time the engine took for this stage of all rows of the batch; 0: unknown */
    const bitnet_tensor_input_t *inputs; /* of row 0; NULL when n_inputs is 0 */
} bitnet_tensor_event_t;

typedef struct bitnet_run_end_event {
    bitnet_event_t header;
    uint64_t n_tensors;  /* tensor events of this run */
    uint64_t n_rows;     /* rows in them: the number of records a sink that writes one per row has written */
    uint64_t n_tokens;   /* evaluated in this run */
} bitnet_run_end_event_t;

/* What the host offers to a sink. Extensions are found by name; ask in open(), use in event(). */
typedef struct bitnet_trace_host bitnet_trace_host_t;
struct bitnet_trace_host {
    uint32_t struct_size;
    uint32_t abi_version;
    void *self;
    /* Text for the user: log callback and statistics; also the reason for declining or failing. */
    void (*log)(const bitnet_trace_host_t *host, int32_t level, const char *text);
    /* NULL when this host does not have it. Lives as long as the host. */
    const void *(*get_extension)(const bitnet_trace_host_t *host, const char *id);
};

/* The extensions work on row `row` of the tensor event being delivered. Each result is computed once, shared by all
 * sinks, and borrowed until event() returns. */
#define BITNET_EXT_HASH "bitnet.hash/1"
typedef struct bitnet_ext_hash {
    uint32_t struct_size;
    uint32_t reserved;
    /* 32 bytes: BLAKE3 of the row's raw little-endian values. */
    const uint8_t *(*blake3)(const bitnet_trace_host_t *host, const bitnet_tensor_event_t *event, uint32_t row);
    /* Order-free hash of the same values: equal for a permutation (plugins/TRACE_FORMAT.md defines it). */
    uint64_t (*multiset)(const bitnet_trace_host_t *host, const bitnet_tensor_event_t *event, uint32_t row);
} bitnet_ext_hash_t;

#define BITNET_EXT_STATS "bitnet.stats/1"
#define BITNET_STATS_TOP 8
typedef struct bitnet_stats {
    uint32_t struct_size;
    uint32_t n_top;
    uint64_t n, n_nan, n_inf, n_zero;
    double mean, std, rms, l2;   /* over the finite values, in double; std divides by n */
    float min, max, absmax;      /* over the finite values; 0 when there are none */
    uint32_t min_index, max_index; /* the first element that has it */
    uint32_t top_index[BITNET_STATS_TOP]; /* largest by magnitude among the non-NaN, largest first, ties to the lowest index */
    float top_value[BITNET_STATS_TOP];
    uint32_t nonfinite_index; /* the first NaN or Inf; UINT32_MAX: none */
} bitnet_stats_t;
typedef struct bitnet_ext_stats {
    uint32_t struct_size;
    uint32_t reserved;
    const bitnet_stats_t *(*stats)(const bitnet_trace_host_t *host, const bitnet_tensor_event_t *event, uint32_t row);
} bitnet_ext_stats_t;

#define BITNET_EXT_SKETCH "bitnet.sketch/1"
#define BITNET_SKETCH_BUCKETS 64
typedef struct bitnet_ext_sketch {
    uint32_t struct_size;
    uint32_t reserved;
    /* 64 floats: signed bucket sums (plugins/TRACE_FORMAT.md defines signs and buckets). */
    const float *(*sketch)(const bitnet_trace_host_t *host, const bitnet_tensor_event_t *event, uint32_t row);
} bitnet_ext_sketch_t;

#define BITNET_EXT_OVERRIDE "bitnet.override/1"
typedef struct bitnet_ext_override {
    uint32_t struct_size;
    uint32_t reserved;
    /* Replaces the row's values before the engine goes on; `n` must be row_elements, the values of the event's dtype.
     * Only in-process f32 stages of our own engine; otherwise BITNET_E_UNSUPPORTED. */
    bitnet_status_t (*replace)(const bitnet_trace_host_t *host, const bitnet_tensor_event_t *event, uint32_t row,
                               const void *values, size_t n);
} bitnet_ext_override_t;

#define BITNET_EXT_LENS "bitnet.lens/1"
typedef struct bitnet_ext_lens {
    uint32_t struct_size;
    int32_t n_vocab;
    int32_t n_embd;
    uint32_t reserved;
    /* Logit lens: the model's final norm and output head applied to any n_embd values, such as a row of layer_out that the
     * sink has kept: n_vocab floats, borrowed until the next call or until event() returns. Only inside event(). Reads the
     * whole head each time. NULL: outside event(), no memory. Our own engine only: get_extension gives NULL elsewhere. */
    const float *(*logits)(const bitnet_trace_host_t *host, const float *hidden);
} bitnet_ext_lens_t;

#define BITNET_EXT_REFERENCE "bitnet.reference/1"
typedef struct bitnet_ext_reference {
    uint32_t struct_size;
    uint32_t reserved;
    /* A row of q_proj, k_proj, v_proj, attn_out, ffn_gate, ffn_up or ffn_out as the same linear gives it from the same
     * input without quantising the activations: row_elements floats. NULL: another stage, no memory. */
    const float *(*linear)(const bitnet_trace_host_t *host, const bitnet_tensor_event_t *event, uint32_t row);
    /* A row of logits as the same tokens give them when no activation is quantised anywhere: n_vocab floats. A second
     * context evaluates all of the run's tokens, slowly. NULL: another stage, a run that does not begin at position 0
     * with token ids, no memory. */
    const float *(*logits)(const bitnet_trace_host_t *host, const bitnet_tensor_event_t *event, uint32_t row);
} bitnet_ext_reference_t;

#define BITNET_EXT_STOP "bitnet.stop/1"
typedef struct bitnet_ext_stop {
    uint32_t struct_size;
    uint32_t reserved;
    /* Ends the evaluation under way, before its next layer at the latest, with BITNET_E_USER and `reason` (one line,
     * copied) as its error. A foreign engine learns of it from the status of bitnet_trace_emit, and decides. */
    void (*stop)(const bitnet_trace_host_t *host, const char *reason);
} bitnet_ext_stop_t;

/* A sink: a static table of functions, called on the thread that evaluates, in order. Nothing may throw. */
typedef struct bitnet_trace_sink {
    uint32_t struct_size;
    uint32_t abi_version;  /* BITNET_ABI_VERSION it was built with */
    const char *name;
    uint64_t want;         /* bit (1 << BITNET_EVENT_...) for each type it wants */
    /* *state: `user` of bitnet_trace_set_sink, else NULL; replace it with the sink's own. `config` is never NULL.
     * May be NULL when there is nothing to open. */
    bitnet_status_t (*open)(void **state, const bitnet_trace_host_t *host, const char *config);
    /* A failure detaches this sink, is counted and logged, and changes nothing else. */
    bitnet_status_t (*event)(void *state, const bitnet_event_t *event);
    bitnet_status_t (*flush)(void *state); /* may be NULL */
    void (*close)(void *state);            /* may be NULL; called once for each successful open */
} bitnet_trace_sink_t;

/* The one symbol a plugin exports. Returns NULL to decline, having said why through host->log. */
#define BITNET_TRACE_PLUGIN_SYMBOL "bitnet_trace_plugin_v1"
typedef const bitnet_trace_sink_t *(*bitnet_trace_plugin_fn)(const bitnet_trace_host_t *host);

/* Attaches an in-process sink with its state; both must outlive the attachment, which ends with the context at the latest
 * (freeing it delivers RUN_END). A NULL sink closes and detaches every sink and plugin of the context. */
BITNET_API bitnet_status_t bitnet_trace_set_sink(bitnet_ctx_t *ctx, const bitnet_trace_sink_t *sink, void *user);
/* Loads a plugin, "jsonl", "libjsonl.so" or a path with '/', and attaches it. `config`: "key=value,..."; NULL: "".
 * A name is looked for in BITNET_PLUGIN_PATH (':' between folders), then in <folder of libbitnet>/bitnet/plugins. */
BITNET_API bitnet_status_t bitnet_trace_load_plugin(bitnet_ctx_t *ctx, const char *path, const char *config);
/* What is traced: comma-separated "seq:layer:stage", each part a value, a range a-b, a list {a;b}, a glob or '*';
 * missing parts at the front mean '*'; a leading '!' excludes. NULL or "": every stage that is on by default, all but
 * attn_scores and the companions; "**,*.*" is everything (plugins/PLUGIN.md has the whole grammar).
 * BITNET_TRACE_SELECT is its initial value. INVALID (naming the stages there are) when nothing can match; the
 * selection is then unchanged. */
BITNET_API bitnet_status_t bitnet_trace_select(bitnet_ctx_t *ctx, const char *selection);
/* Text of the prompt for the next run record. Copied. NULL clears it. */
BITNET_API bitnet_status_t bitnet_trace_set_prompt(bitnet_ctx_t *ctx, const char *text, size_t n_bytes);

typedef struct bitnet_trace_stats {
    uint32_t struct_size;
    uint32_t n_sinks;       /* attached now */
    uint64_t n_events;      /* delivered to at least one sink */
    uint64_t n_bytes;       /* tensor bytes in them */
    uint64_t n_failures;    /* plugins that could not be attached, and sinks that were detached for failing */
    double seconds;         /* spent in sinks and services */
    char last_failure[256]; /* "" when there was none */
} bitnet_trace_stats_t;

BITNET_API bitnet_status_t bitnet_trace_get_stats(const bitnet_ctx_t *ctx, bitnet_trace_stats_t *out);
/* Ends the run if one is open (RUN_END) and flushes every sink; the sinks stay attached. PLUGIN if one failed. */
BITNET_API bitnet_status_t bitnet_trace_end_run(bitnet_ctx_t *ctx);

/* ------------------------------------------------------------------------------------------------------------ *
 * 11. Trace of a foreign engine: its tensors, into the same plugins. Needs no model.
 *
 *     bitnet_trace_t *trace = NULL;
 *     bitnet_trace_params_t run = {sizeof run};
 *     run.engine = "my-engine";
 *     if (bitnet_trace_open(&run, &trace)) fprintf(stderr, "%s\n", bitnet_last_error());
 *     ...
 *     bitnet_trace_step(trace, position, tokens, n);          // before each evaluation
 *     bitnet_trace_tensor_t t = {sizeof t};
 *     t.stage = BITNET_STAGE_Q_PROJ, t.layer = 3, t.position = position, t.n_rows = n;
 *     t.n_dims = 1, t.shape[0] = 2560, t.data = q;
 *     bitnet_trace_emit(trace, &t);                           // as often as there are tensors
 *     ...
 *     bitnet_trace_close(trace);
 * ------------------------------------------------------------------------------------------------------------ */

/* A trace that a foreign engine writes: any number of threads may use it at once; events keep the order in which the calls
 * come. A NULL trace is a trace with nothing attached: every function accepts it and does nothing. */
typedef struct bitnet_trace bitnet_trace_t;

typedef struct bitnet_trace_params { /* every text: NULL is ""; read during the call only */
    uint32_t struct_size;
    uint32_t flags;              /* 0 */
    const char *engine;          /* required: "my-engine" */
    const char *engine_version;
    const char *model_path;
    const char *model_hash;      /* BLAKE3 of the model file, 64 hex digits (bitnet_blake3), so that traces can be compared */
    const char *architecture;
    const char *hyperparameters; /* "n_layer=30,n_embd=2560,..." */
    const char *semantics;       /* "activation=relu2,...", as far as they are known */
    const char *isa;
    const char *kv_type;         /* "f32", "f16" */
    const char *plugins;         /* as BITNET_TRACE_PLUGIN; NULL: what that variable says */
    const char *selection;       /* as bitnet_trace_select; NULL: what BITNET_TRACE_SELECT says */
    const char *prompt;          /* bytes; NULL: unknown */
    size_t n_prompt_bytes;
    const int32_t *tokens;       /* ids from position 0 on, as far as they are known; may be NULL */
    size_t n_tokens;
    int32_t n_threads;
    int32_t n_batch;
} bitnet_trace_params_t;

/* Errors: INVALID (no engine, wrong selection, hash or hyperparameters), PLUGIN (of `plugins`; what the environment names
 * never fails the call), NOMEM. *out is NULL on failure. */
BITNET_API bitnet_status_t bitnet_trace_open(const bitnet_trace_params_t *params, bitnet_trace_t **out);
/* Ends the run, closes the sinks, frees. No other call may be under way. NULL is allowed. */
BITNET_API void bitnet_trace_close(bitnet_trace_t *trace);

/* 1 when a sink is attached; asks before work that only a trace needs. One load and one branch. */
BITNET_API int32_t bitnet_trace_enabled(const bitnet_trace_t *trace);
/* 1 when a sink is attached and the selection has this stage, layer and position. */
BITNET_API int32_t bitnet_trace_wants(const bitnet_trace_t *trace, int32_t stage, int32_t layer, int32_t position);

/* More sinks, and another selection: as bitnet_trace_set_sink (which here adds), bitnet_trace_load_plugin and bitnet_trace_select
 * on a context. Each ends the run that is open. */
BITNET_API bitnet_status_t bitnet_trace_add_sink(bitnet_trace_t *trace, const bitnet_trace_sink_t *sink, void *user);
BITNET_API bitnet_status_t bitnet_trace_add_plugin(bitnet_trace_t *trace, const char *path, const char *config);
BITNET_API bitnet_status_t bitnet_trace_reselect(bitnet_trace_t *trace, const char *selection);

/* An evaluation of `n` >= 1 tokens begins at `position`; the one before it ends. A position that was evaluated before begins
 * a new run. `tokens` may be NULL: then those of the params, where they reach. */
BITNET_API bitnet_status_t bitnet_trace_step(bitnet_trace_t *trace, int32_t position, const int32_t *tokens, size_t n);

typedef struct bitnet_trace_tensor {
    uint32_t struct_size;
    int32_t stage;         /* BITNET_STAGE_..., companions too; 0: `name` says it */
    const char *name;      /* with stage 0: "q_proj", or "t0/blk3/q_proj", which also sets position and layer */
    int32_t layer;         /* -1: of no block (embeddings, final_norm, logits) */
    int32_t position;      /* of row 0 */
    int32_t dtype;         /* BITNET_DTYPE_... */
    uint32_t n_rows;       /* consecutive positions; 0: 1 */
    uint32_t n_dims;       /* of one row, 1..4 */
    uint32_t n_inputs;
    uint64_t shape[4];     /* of one row, outermost first */
    uint64_t row_stride;   /* bytes; 0: row after row */
    const void *data;
    const bitnet_tensor_input_t *inputs; /* n_inputs of them, what the operation read; may be NULL when there are none */
    const char *kernel;    /* what computed it; NULL: unknown */
    uint64_t ns;           /* time it took; 0: unknown, then the time since the call before */
} bitnet_trace_tensor_t;

/* Delivers the selected rows. Without a bitnet_trace_step that covers its position, a step begins by itself. Errors:
 * INVALID (no such stage, a stage that cannot be at this layer, shape, dtype or stride), USER (a sink asked to stop: the text is
 * its reason; it is reported once). With nothing attached: BITNET_OK after one load and one branch. */
BITNET_API bitnet_status_t bitnet_trace_emit(bitnet_trace_t *trace, const bitnet_trace_tensor_t *tensor);
/* The state of the key/value cache, inside a step. */
BITNET_API bitnet_status_t bitnet_trace_kv(bitnet_trace_t *trace, const bitnet_kv_state_t *kv);
/* Ends the step and the run, and flushes every sink; what comes next begins a new run. PLUGIN if a sink failed. */
BITNET_API bitnet_status_t bitnet_trace_end(bitnet_trace_t *trace);
BITNET_API bitnet_status_t bitnet_trace_statistics(const bitnet_trace_t *trace, bitnet_trace_stats_t *out);

/* ------------------------------------------------------------------------------------------------------------ *
 * 12. Compare: the logits of two engines, position by position
 *
 *     bitnet_logits_limits_t limits = {sizeof limits};
 *     bitnet_logits_row_t rows[2] = {{sizeof rows[0]}, {sizeof rows[0]}};
 *     bitnet_logits_summary_t summary = {sizeof summary};
 *     bitnet_compare_preset("bitnet", &limits);
 *     bitnet_compare_logits(ours, theirs, 2, n_vocab, &limits, rows, &summary);
 *     if (summary.verdict == BITNET_COMPARE_DIVERGED) printf("first at row %d\n", (int)summary.first_failed);
 *
 * Every language gets the same numbers and the same answer. Sums are f64 in ascending order of the index, exp and log are this
 * library's own: the same bits on every machine. `a` is the reference.
 * ------------------------------------------------------------------------------------------------------------ */

/* What is measured of a position, and what a limit can be set on. */
#define BITNET_METRIC_COSINE 0x1u   /* of the two rows; 1 for two rows of zeros, 0 when one of them is */
#define BITNET_METRIC_L2 0x2u       /* |a - b| */
#define BITNET_METRIC_MAX_ABS 0x4u  /* the largest |a[i] - b[i]| */
#define BITNET_METRIC_CLOSE 0x8u    /* no element with |a[i] - b[i]| > atol + rtol * |a[i]| */
#define BITNET_METRIC_MSE 0x10u     /* |a - b|^2 / n */
#define BITNET_METRIC_NMSE 0x20u    /* |a - b|^2 / |a|^2; infinite when only `a` is zeros */
#define BITNET_METRIC_KL 0x40u      /* sum softmax(a) (log softmax(a) - log softmax(b)), nats */
#define BITNET_METRIC_MEAN_KL 0x80u /* its mean over the positions: a limit of the summary alone */
#define BITNET_METRIC_TOP1 0x100u   /* the same largest element, or a lead of `a` that is within the noise */
#define BITNET_METRIC_TOP_K 0x200u  /* how many of the k largest of `a` are of the k largest of `b`, over k */
#define BITNET_METRIC_EITHER 0x400u /* at least one of cosine and max_abs inside the limits either_... */
#define BITNET_METRIC_FINITE 0x800u /* always judged: NaN, +Inf, and -Inf on one side alone are a divergence */
#define BITNET_METRIC_ALL 0xfffu

/* Limits of a verdict. A value exactly at its limit passes. */
typedef struct bitnet_logits_limits {
    uint32_t struct_size;
    uint32_t judged;           /* BITNET_METRIC_..., which of the limits below count; 0: all of preset "bitnet" instead */
    double cosine_min;
    double cosine_warn;        /* a cosine below it, but not below cosine_min, is a warning */
    double l2_max;
    double max_abs_max;
    double atol, rtol;         /* of CLOSE, also when it is only measured */
    double mse_max;
    double nmse_max;
    double kl_max;
    double mean_kl_max;
    double top_k_min;          /* 0..1 */
    double top1_noise;         /* noise of a lead, in units of the row's RMS difference */
    double either_cosine_min;
    double either_max_abs_max;
    int32_t top_k;             /* k of TOP_K; 0: 5 */
    uint32_t reserved;         /* 0 */
} bitnet_logits_limits_t;

/* Presets: "bitnet" for two engines that run freely, "bitnet-same-class" for two of the same arithmetic, and the numbers of
 * others: "seed", "trueno", "polygraphy", "torch-f32", "torch-f16", "torch-bf16", "ggml", "msprobe". The source's
 * abi/cli/crossval/CROSSVAL.md lists them. Static; NULL when out of range. */
BITNET_API const char *bitnet_compare_preset_name(int32_t index);
/* Fills *out up to out->struct_size bytes. INVALID, naming the presets, when there is none of that name. */
BITNET_API bitnet_status_t bitnet_compare_preset(const char *name, bitnet_logits_limits_t *out);

/* One position. In an array every element has its struct_size set, all the same. */
typedef struct bitnet_logits_row {
    uint32_t struct_size;
    uint32_t measured;      /* BITNET_METRIC_...: which of the fields below hold */
    uint32_t failed;        /* outside their limits; not 0: this position diverges */
    uint32_t warned;
    uint64_t n;             /* elements compared: finite on both sides */
    uint64_t n_masked;      /* -Inf on both sides: left out */
    uint64_t n_nonfinite;   /* NaN, +Inf, or -Inf on one side alone: left out, and a divergence */
    uint64_t n_not_close;
    uint64_t worst_index;   /* of max_abs; when n_nonfinite is not 0 of the first of those */
    float worst_a, worst_b; /* the two values there */
    double cosine;
    double l2;
    double max_abs;
    double mse;
    double nmse;
    double kl;
    double top_k;
    double top1_lead;       /* a[top1_a] - a[top1_b] */
    double rms_difference;
    int32_t top1_a, top1_b; /* ties to the lowest index; NaN never wins */
} bitnet_logits_row_t;

#define BITNET_COMPARE_MATCH 0
#define BITNET_COMPARE_DIVERGED 1
#define BITNET_COMPARE_NOTHING 2 /* no row, or nothing diverges but a row had no limit that could be judged */

typedef struct bitnet_logits_summary {
    uint32_t struct_size;
    int32_t verdict;        /* BITNET_COMPARE_... */
    uint32_t failed;        /* of all rows, and MEAN_KL */
    uint32_t warned;
    uint32_t unmeasured;    /* limits that count but were not measured in some row */
    int32_t reserved;
    uint64_t n_rows;
    uint64_t n_failed;
    uint64_t n_warned;      /* rows with a warning that do not diverge */
    uint64_t first_failed;  /* n_rows: none. MEAN_KL belongs to no row */
    uint64_t n_top1_equal;
    double cosine_least;    /* the ones below: over the rows that measured it, NaN when none did */
    double l2_largest;
    double max_abs_largest;
    double mse_mean;
    double nmse_largest;
    double kl_mean, kl_largest;
    double top_k_mean;
} bitnet_logits_summary_t;

/* Compares `n_rows` rows of `n_vocab` >= 1 floats each, one after another on either side. limits NULL: preset "bitnet". `rows`
 * (n_rows of them) or `summary` may be NULL. Any thread. A divergence is no failure: the status stays BITNET_OK. */
BITNET_API bitnet_status_t bitnet_compare_logits(const float *a, const float *b, size_t n_rows, size_t n_vocab,
                                                 const bitnet_logits_limits_t *limits, bitnet_logits_row_t *rows,
                                                 bitnet_logits_summary_t *summary);
/* out[j] = log softmax(row j)[tokens[j]], natural log, in double, as bitnet_token_logprobs, for `n_rows` rows of `n_vocab` >= 1
 * floats of any engine. NaN for a row with NaN or +Inf, or of -Inf alone. INVALID when a token is not in 0..n_vocab-1. Any
 * thread. */
BITNET_API bitnet_status_t bitnet_logprobs(const float *logits, size_t n_rows, size_t n_vocab, const int32_t *tokens,
                                           double *out);
/* Judges rows again, or rows that were gathered one by one or measured elsewhere (`measured` says how far): writes `failed` and
 * `warned` of each, and the summary. */
BITNET_API bitnet_status_t bitnet_compare_rows(bitnet_logits_row_t *rows, size_t n_rows,
                                               const bitnet_logits_limits_t *limits, bitnet_logits_summary_t *summary);

/* ------------------------------------------------------------------------------------------------------------ *
 * 13. Replay: one operation of a layer, recomputed from recorded inputs
 *
 * Whether another engine's operation is right does not depend on what happened before it: give the operation that engine's own
 * recorded inputs, and compare the output. With other semantics ("activation=silu", "rope_offset=1") the same operation tells
 * what that engine does instead. model/FORMAT.md in the source lists the semantics.
 * ------------------------------------------------------------------------------------------------------------ */

/* One model under one set of semantics. Scratch of its own: one thread at a time, a second entry returns BITNET_E_BUSY; many
 * may share a model, which they keep alive. Every instruction set gives the same bits, those of an evaluation. */
typedef struct bitnet_replay bitnet_replay_t;

/* `semantics`: overrides on top of the model's, in the syntax of bitnet_load_params.semantics; NULL: the model's. INVALID when
 * they are wrong, name a layer or a sub-norm that the model has not, or change head_tied. *out is NULL on failure. */
BITNET_API bitnet_status_t bitnet_replay_create(const bitnet_model_t *model, const char *semantics, bitnet_replay_t **out);
BITNET_API void bitnet_replay_free(bitnet_replay_t *replay); /* NULL is allowed */
/* The semantics in full; lives with the handle; NULL for NULL. */
BITNET_API const char *bitnet_replay_semantics(const bitnet_replay_t *replay);

#define BITNET_OPERATION_INPUTS 3
typedef struct bitnet_operation {
    uint32_t struct_size;
    int32_t stage;           /* what it computes, companions included */
    int32_t layer;           /* -1: of no block */
    int32_t dtype;           /* of the output: F32, of codes I8, of accumulators I32 */
    uint64_t row_elements;   /* of the output; 0: n_head * (position + 1), as attn_scores */
    uint32_t n_inputs;       /* 0: the token ids alone */
    uint32_t every_position; /* bit i: input i is needed for all positions from 0 to the last, whichever rows are computed */
    int32_t input_stage[BITNET_OPERATION_INPUTS];
    int32_t input_layer[BITNET_OPERATION_INPUTS]; /* where it is recorded */
} bitnet_operation_t;

/* Every operation of the model in execution order, each layer's own. */
BITNET_API size_t bitnet_replay_operation_count(const bitnet_replay_t *replay);
BITNET_API bitnet_status_t bitnet_replay_operation(const bitnet_replay_t *replay, size_t index, bitnet_operation_t *out);

/* Recorded rows of one stage. Row r is `row_elements` elements at (const char *)data + r * row_stride, of any alignment. */
typedef struct bitnet_rows {
    int32_t stage;         /* BITNET_STAGE_..., companions included; 0: token ids */
    int32_t dtype;         /* F32, F16 or BF16; of codes I8, of scales F32, of accumulators and token ids I32 */
    uint64_t n_rows;
    uint64_t row_elements;
    uint64_t row_stride;   /* bytes */
    const void *data;
} bitnet_rows_t;

typedef struct bitnet_replay_params {
    uint32_t struct_size;
    int32_t stage;               /* the operation: BITNET_STAGE_..., companions included */
    int32_t layer;
    uint32_t n_inputs;
    const bitnet_rows_t *inputs;
    const int32_t *positions;    /* of the rows; NULL: 0, 1, 2, ... */
} bitnet_replay_params_t;

/* Computes the operation for every row and writes the rows one after another in the operation's dtype; *n counts elements (the
 * buffer rule: NULL `out` asks for the size). Inputs, as bitnet_replay_operation lists them:
 *  - A linear takes float rows, or the codes and scales of the stage it reads, or its own accumulators and those scales; its
 *    accumulators take float rows or codes.
 *  - Attention takes q_rope for the rows to compute, k_rope and v_proj for all positions from 0. attn_context also takes
 *    attn_scores_softmax with v_proj: rows of (head, position + 1), so that all of a call are of one position.
 *  - The residual stream may be given as layer_out or as embeddings.
 *  - With quant=tensor_int8 the rows of one call are the tensor.
 * INVALID when an input is missing, given twice, not one of the operation's, or of another size or dtype. */
BITNET_API bitnet_status_t bitnet_replay_run(bitnet_replay_t *replay, const bitnet_replay_params_t *params, void *out,
                                             size_t *n);

/* ------------------------------------------------------------------------------------------------------------ *
 * 14. Compatibility: the C interface of BitNet-rs's crate bitnet-sys
 *
 * For programs that were written against that crate's header of the same name, which these declarations and the two frees
 * above replace: the handles are the ones above. New programs have no use for this section. Types and return codes are that
 * crate's; bitnet_last_error() holds the text of a failure here too. Version node BITNET_COMPAT_1.0.
 * ------------------------------------------------------------------------------------------------------------ */

typedef struct bitnet_params {
    int32_t n_ctx;     /* positions; 0: the model's n_ctx_train */
    int32_t n_threads; /* 0: the processors this process may run on */
    int32_t seed;      /* not used: this interface only decodes greedily */
    float rope_freq;   /* not used: the model file says it */
} bitnet_params_t;

/* bitnet_load without parameters; NULL on failure. */
BITNET_API bitnet_model_t *bitnet_model_new_from_file(const char *path);
/* NULL on failure, also when `params` is NULL. The context keeps its model alive. */
BITNET_API bitnet_ctx_t *bitnet_context_new(bitnet_model_t *model, const bitnet_params_t *params);
/* Number of tokens written. `out` NULL or `cap` 0: the number needed, nothing is written. -1: an argument is wrong, -2: `cap` is
 * too small (nothing is written), -4: internal. `add_bos` begins with the BOS token whatever the file's preference is. */
BITNET_API int bitnet_tokenize(bitnet_model_t *model, const char *text, int add_bos, int parse_special, int32_t *out,
                               int cap);
/* Forgets what the context holds, evaluates `n` tokens from position 0, and writes the logits of the last one, n_vocab floats.
 * 0, or -1: an argument is wrong, -2: the evaluation failed (a token out of range, more than the context holds), -3: there are
 * no logits, -4: `cap` is less than n_vocab, -5: internal. A failure on an argument, a token or a size changes nothing. */
BITNET_API int bitnet_eval(bitnet_ctx_t *ctx, const int32_t *tokens, int n, float *logits, int cap);
/* The same without the logits: 0, -1, -2 or -5. */
BITNET_API int bitnet_prefill(bitnet_ctx_t *ctx, const int32_t *tokens, int n);
/* -1 for NULL. */
BITNET_API int bitnet_vocab_size(bitnet_ctx_t *ctx);
/* Continues greedily from the last evaluation, ties to the lowest id, until `max` tokens or one that equals `eos` or `eot` (-1:
 * none). Returns the number of tokens written to `out`, the end token included. Every token but an end token is evaluated, so
 * that the next call goes on from there. -1: an argument is wrong, -2: nothing was evaluated before, -3: an evaluation failed (the
 * context is full), -5: more than `cap` tokens; after -3 and -5 the tokens so far are written and evaluated. `model`: not NULL. */
BITNET_API int bitnet_decode_greedy(bitnet_model_t *model, bitnet_ctx_t *ctx, int eos, int eot, int max, int *out,
                                    int cap);

#ifdef __cplusplus
}
#endif

#endif /* BITNET_C_H */
