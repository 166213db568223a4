/* mock_llama.c - a two-layer model on mock_ggml.c, its graph built as libllama builds one: nodes with names that say
 * nothing, a cache, output rows alone in the last layer, one graph per batch. */
#include "mock_llama.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mock_ggml.h"

#define EXPORT __attribute__((visibility("default")))
enum { N_EMBD = 32, N_FF = 48, N_HEAD = 4, N_HEAD_KV = 2, HEAD = 8, N_LAYER = 2, N_VOCAB = 40, N_CTX = 32 };
enum { F32 = 0, I32 = 18 };
typedef struct ggml_tensor T;
typedef struct ggml_context C;

struct mock_llama {
    C *weights, *inputs, *graph;
    struct ggml_cgraph *g;
    struct ggml_backend_sched *sched;
    T *embd, *output_norm, *layer[N_LAYER][16], *cache_k[N_LAYER], *cache_v[N_LAYER];
    T *logits;
    int n_outputs, n_seen, in_place;
    int owner[N_CTX], position[N_CTX], n_cells; /* of the cache; owner: sequence + 1 */
};
enum { ATTN_NORM, Q, K, V, SUB, OUT, FFN_NORM, GATE, UP, FFN_SUB, DOWN, DOWN_SCALE };

static __thread uint32_t seed;
static float noise(void) {
    seed = seed * 1664525u + 1013904223u;
    return ((float)(seed >> 8) / 16777216.0f - 0.5f);
}
static T *weight(struct mock_llama *m, const char *name, int64_t a, int64_t b) {
    T *t = ggml_new_tensor_4d(m->weights, F32, a, b, 1, 1);
    ggml_set_name(t, name);
    return t;
}
static T *in_block(struct mock_llama *m, int layer, const char *name, int64_t a, int64_t b) {
    char full[64];
    snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    return weight(m, full, a, b);
}
static void fill(T *t) {
    float *values = ggml_get_data(t);
    size_t i;
    for (i = 0; i < ggml_nbytes(t) / sizeof *values; i++) values[i] = noise();
}

EXPORT struct mock_llama *mock_llama_new(const char *path, int in_place) {
    struct mock_llama *m = calloc(1, sizeof *m);
    struct gguf_init_params gguf = {1, NULL};
    struct ggml_init_params params = {1 << 20, NULL, 1};
    int l, i;
    gguf_init_from_file(path, gguf);
    seed = 1; /* every model is the same */
    m->in_place = in_place;
    m->weights = ggml_init(params);
    m->embd = weight(m, "token_embd.weight", N_EMBD, N_VOCAB);
    m->output_norm = weight(m, "output_norm.weight", N_EMBD, 1);
    for (l = 0; l < N_LAYER; l++) {
        T **w = m->layer[l];
        w[ATTN_NORM] = in_block(m, l, "attn_norm.weight", N_EMBD, 1);
        w[Q] = in_block(m, l, "attn_q.weight", N_EMBD, N_HEAD * HEAD);
        w[K] = in_block(m, l, "attn_k.weight", N_EMBD, N_HEAD_KV * HEAD);
        w[V] = in_block(m, l, "attn_v.weight", N_EMBD, N_HEAD_KV * HEAD);
        w[SUB] = in_block(m, l, "attn_sub_norm.weight", N_EMBD, 1);
        w[OUT] = in_block(m, l, "attn_output.weight", N_EMBD, N_EMBD);
        w[FFN_NORM] = in_block(m, l, "ffn_norm.weight", N_EMBD, 1);
        w[GATE] = in_block(m, l, "ffn_gate.weight", N_EMBD, N_FF);
        w[UP] = in_block(m, l, "ffn_up.weight", N_EMBD, N_FF);
        w[FFN_SUB] = in_block(m, l, "ffn_sub_norm.weight", N_FF, 1);
        w[DOWN] = in_block(m, l, "ffn_down.weight", N_FF, N_EMBD);
        w[DOWN_SCALE] = in_block(m, l, "ffn_down.scale", 1, 1);
        m->cache_k[l] = ggml_new_tensor_4d(m->weights, F32, N_HEAD_KV * HEAD * N_CTX, 1, 1, 1);
        m->cache_v[l] = ggml_new_tensor_4d(m->weights, F32, N_HEAD_KV * HEAD * N_CTX, 1, 1, 1);
    }
    ggml_backend_alloc_ctx_tensors_from_buft(m->weights, ggml_backend_cpu_buffer_type());
    fill(m->embd);
    fill(m->output_norm);
    for (l = 0; l < N_LAYER; l++)
        for (i = 0; i <= DOWN_SCALE; i++) fill(m->layer[l][i]);
    m->sched = ggml_backend_sched_new();
    return m;
}
EXPORT void mock_llama_free(struct mock_llama *m) { ggml_backend_sched_free(m->sched); }
EXPORT void llama_set_warmup(void *m, _Bool now) { (void)m, (void)now; }
#ifdef FOLDED /* as a linker makes one function of two that are alike */
void mock_llama_twin(void *, _Bool) __attribute__((alias("llama_set_warmup")));
#endif

/* The program's own callback: asks for every tenth node. */
static int n_asked;
static _Bool on_evaluation(T *t, _Bool ask, void *user) {
    (void)t;
    if (!ask) ++*(int *)user;
    return ask ? ++n_asked % 10 == 0 : 1;
}
EXPORT void mock_llama_watch(struct mock_llama *m) {
    ggml_backend_sched_set_eval_callback(m->sched, on_evaluation, &m->n_seen);
}
EXPORT int mock_llama_seen(const struct mock_llama *m) { return m->n_seen; }

static T *norm(C *c, T *x, T *w) { return ggml_mul(c, ggml_rms_norm(c, x, 1e-5f), w); }
static const size_t S = sizeof(float);

static T *attention(struct mock_llama *m, C *c, int l, T *x, T *positions, T *mask, int n, int from, int n_kv) {
    T **w = m->layer[l];
    T *q = ggml_rope(c, ggml_reshape_3d(c, ggml_mul_mat(c, w[Q], x), HEAD, N_HEAD, n), positions, 10000);
    T *k = ggml_rope(c, ggml_reshape_3d(c, ggml_mul_mat(c, w[K], x), HEAD, N_HEAD_KV, n), positions, 10000);
    T *v = ggml_mul_mat(c, w[V], x);
    const size_t row = N_HEAD_KV * HEAD * S;
    /* keys cell by cell, values transposed, as llama.cpp keeps them without flash attention */
    T *to_k = ggml_view_3d(c, m->cache_k[l], HEAD, N_HEAD_KV, n, HEAD * S, row, (size_t)from * row);
    T *to_v = ggml_view_3d(c, m->cache_v[l], n, N_HEAD_KV * HEAD, 1, N_CTX * S, N_CTX * row, (size_t)from * S);
    ggml_build_forward_expand(m->g, ggml_cpy(c, k, to_k));
    ggml_build_forward_expand(m->g, ggml_cpy(c, ggml_swap(c, v, 0, 1), to_v));
    T *keys = ggml_swap(c, ggml_view_3d(c, m->cache_k[l], HEAD, N_HEAD_KV, n_kv, HEAD * S, row, 0), 1, 2);
    T *values = ggml_view_3d(c, m->cache_v[l], n_kv, HEAD, N_HEAD_KV, N_CTX * S, N_CTX * HEAD * S, 0);
    T *scores = ggml_mul_mat(c, keys, ggml_swap(c, q, 1, 2));
    T *probabilities = ggml_soft_max_ext(c, scores, mask, 1.0f / sqrtf(HEAD));
    T *context = ggml_cont(c, ggml_swap(c, ggml_mul_mat(c, values, probabilities), 1, 2));
    return ggml_mul_mat(c, w[OUT], norm(c, ggml_reshape_3d(c, context, N_EMBD, n, 1), w[SUB]));
}

static T *feed_forward(struct mock_llama *m, C *c, int l, T *x) {
    T **w = m->layer[l];
    T *act = ggml_mul(c, ggml_silu(c, ggml_mul_mat(c, w[GATE], x)), ggml_mul_mat(c, w[UP], x));
    return ggml_mul(c, ggml_mul_mat(c, w[DOWN], norm(c, act, w[FFN_SUB])), w[DOWN_SCALE]);
}

static void build(struct mock_llama *m, const struct mock_batch *b) {
    struct ggml_init_params params = {1 << 20, NULL, 1};
    const int n = b->n, from = b->sequences ? m->n_cells : b->positions[0], last = b->positions[n - 1];
    const int n_kv = ((b->sequences ? from + n : last + 1) + 7) / 8 * 8;
    C *in = m->inputs = ggml_init(params), *c = m->graph = ggml_init(params);
    T *tokens = ggml_new_tensor_4d(in, I32, n, 1, 1, 1), *positions = ggml_new_tensor_4d(in, I32, n, 1, 1, 1);
    T *outputs = ggml_new_tensor_4d(in, I32, b->n_outputs, 1, 1, 1), *mask = ggml_new_tensor_4d(in, F32, n_kv, n, 1, 1);
    int l, i, j;
    ggml_backend_alloc_ctx_tensors_from_buft(in, ggml_backend_cpu_buffer_type());
    memcpy(ggml_get_data(tokens), b->tokens, (size_t)n * sizeof(int32_t));
    memcpy(ggml_get_data(positions), b->positions, (size_t)n * sizeof(int32_t));
    for (i = 0; i < b->n_outputs; i++) ((int32_t *)ggml_get_data(outputs))[i] = n - b->n_outputs + i;
    for (i = 0; i < n; i++) {
        m->owner[from + i] = 1 + (b->sequences ? b->sequences[i] : 0);
        m->position[from + i] = b->positions[i];
    }
    if (from + n > m->n_cells) m->n_cells = from + n;
    for (i = 0; i < n; i++)
        for (j = 0; j < n_kv; j++)
            ((float *)ggml_get_data(mask))[i * n_kv + j] =
                m->owner[j] == m->owner[from + i] && m->position[j] <= b->positions[i] ? 0 : -INFINITY;
    m->g = ggml_new_graph();
    T *x = ggml_get_rows(c, m->embd, tokens);
    for (l = 0; l < N_LAYER; l++) {
        T *out = attention(m, c, l, norm(c, x, m->layer[l][ATTN_NORM]), positions, mask, n, from, n_kv);
        ggml_set_name(out, "kqv_out-7"); /* a name that lies */
        if (l == N_LAYER - 1) {
            out = ggml_get_rows(c, out, outputs);
            x = ggml_get_rows(c, x, outputs);
        }
        T *residual = ggml_add(c, out, x);
        T *down = feed_forward(m, c, l, norm(c, residual, m->layer[l][FFN_NORM]));
        /* in place: the residual is lost once the layer has run */
        x = m->in_place ? ggml_add_inplace(c, residual, down) : ggml_add(c, down, residual);
    }
    m->logits = ggml_mul_mat(c, m->embd, norm(c, x, m->output_norm));
    ggml_set_output(m->logits);
    ggml_build_forward_expand(m->g, m->logits);
    m->n_outputs = b->n_outputs;
}

EXPORT int mock_llama_decode(struct mock_llama *m, const struct mock_batch *b) {
    build(m, b);
    if (!ggml_backend_sched_alloc_graph(m->sched, m->g)) return 1;
    return ggml_backend_sched_graph_compute_async(m->sched, m->g);
}
EXPORT const float *mock_llama_logits(const struct mock_llama *m) {
    return (const float *)ggml_get_data(m->logits) + (m->n_outputs - 1) * N_VOCAB;
}
EXPORT int mock_llama_n_vocab(void) { return N_VOCAB; }
