/* mock_llama.c - a two-layer model on mock_ggml.c, its graph built as libllama builds one: nodes with names that say
 * nothing, a cache, output rows alone in the last layer, one graph per batch. */
#include "mock_llama.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mock_ggml.h"

#define EXPORT __attribute__((visibility("default")))
enum {
    N_EMBD = 32,
    N_FF = 48,
    N_HEAD = 4,
    N_HEAD_KV = 2,
    HEAD = 8,
    CHANGES_AT = 6,
    N_LAYER = 2,
    N_VOCAB = 40,
    N_CTX = 32
};
enum { F32 = 0, I32 = 18 };
typedef struct ggml_tensor T;
typedef struct ggml_context C;

struct mock_llama {
    C *weights, *inputs, *graph;
    struct ggml_cgraph *g;
    struct ggml_backend_sched *sched;
    T *embd, *output_norm, *layer[N_LAYER][16], *cache_k[N_LAYER], *cache_v[N_LAYER];
    T *logits;
    T *tokens, *positions, *outputs, *mask;
    unsigned how, changes; /* MOCK_...; those of the graph */
    int n, n_kv, n_outputs, n_seen, in_place;
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
EXPORT void mock_llama_make(struct mock_llama *m, unsigned how) { m->how = how; }
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

static T *attention(struct mock_llama *m, C *c, int l, T *x, int from) {
    T **w = m->layer[l], *positions = m->positions;
    const int n = m->n, n_kv = m->n_kv, wider = m->changes & MOCK_OTHER_HEADS ? 2 : 1;
    const int head = HEAD * wider, n_head = N_HEAD / wider, n_head_kv = N_HEAD_KV / wider;
    const float scale = m->changes & MOCK_OTHER_SCALE ? 0.5f : 1.0f / sqrtf(HEAD);
    T *q = ggml_rope(c, ggml_reshape_3d(c, ggml_mul_mat(c, w[Q], x), head, n_head, n), positions, 10000);
    T *k = ggml_rope(c, ggml_reshape_3d(c, ggml_mul_mat(c, w[K], x), head, n_head_kv, n), positions, 10000);
    T *v = ggml_mul_mat(c, w[V], x);
    const size_t row = N_HEAD_KV * HEAD * S;
    /* keys cell by cell, values transposed, as llama.cpp keeps them without flash attention */
    T *to_k = ggml_view_3d(c, m->cache_k[l], head, n_head_kv, n, (size_t)head * S, row, (size_t)from * row);
    T *to_v = ggml_view_3d(c, m->cache_v[l], n, N_HEAD_KV * HEAD, 1, N_CTX * S, N_CTX * row, (size_t)from * S);
    ggml_build_forward_expand(m->g, ggml_cpy(c, k, to_k));
    ggml_build_forward_expand(m->g, ggml_cpy(c, ggml_swap(c, v, 0, 1), to_v));
    T *keys = ggml_swap(c, ggml_view_3d(c, m->cache_k[l], head, n_head_kv, n_kv, (size_t)head * S, row, 0), 1, 2);
    T *values = ggml_view_3d(c, m->cache_v[l], n_kv, head, n_head_kv, N_CTX * S, N_CTX * (size_t)head * S, 0);
    T *scores = ggml_mul_mat(c, keys, ggml_swap(c, q, 1, 2));
    T *probabilities = ggml_soft_max_ext(c, scores, m->mask, scale);
    T *context = ggml_cont(c, ggml_swap(c, ggml_mul_mat(c, values, probabilities), 1, 2));
    return ggml_mul_mat(c, w[OUT], norm(c, ggml_reshape_3d(c, context, N_EMBD, n, 1), w[SUB]));
}

static T *feed_forward(struct mock_llama *m, C *c, int l, T *x) {
    T **w = m->layer[l];
    const int swapped = (m->changes & MOCK_OTHER_SOURCES) != 0;
    T *gate = ggml_mul_mat(c, w[swapped ? UP : GATE], x), *up = ggml_mul_mat(c, w[swapped ? GATE : UP], x);
    if (m->changes & MOCK_OTHER_ORDER) ggml_build_forward_expand(m->g, up);
    T *act = ggml_mul(c, ggml_silu(c, gate), up);
    return ggml_mul(c, ggml_mul_mat(c, w[DOWN], norm(c, act, w[FFN_SUB])), w[DOWN_SCALE]);
}

static void name_weights(struct mock_llama *m) {
    char name[64];
    int l;
    for (l = 0; l < N_LAYER; l++) {
        const int swapped = (m->changes & MOCK_OTHER_NAMES) != 0;
        snprintf(name, sizeof name, "blk.%d.ffn_gate.weight", l);
        ggml_set_name(m->layer[l][swapped ? UP : GATE], name);
        snprintf(name, sizeof name, "blk.%d.ffn_up.weight", l);
        ggml_set_name(m->layer[l][swapped ? GATE : UP], name);
    }
}

static void make_inputs(struct mock_llama *m) {
    C *in = m->inputs;
    m->tokens = ggml_new_tensor_4d(in, I32, m->n, 1, 1, 1);
    m->positions = ggml_new_tensor_4d(in, I32, m->n, 1, 1, 1);
    m->outputs = ggml_new_tensor_4d(in, I32, m->n_outputs, 1, 1, 1);
    m->mask = ggml_new_tensor_4d(in, F32, m->n_kv, m->n, 1, 1);
    ggml_backend_alloc_ctx_tensors_from_buft(in, ggml_backend_cpu_buffer_type());
}

static void set_inputs(struct mock_llama *m, const struct mock_batch *b, int from) {
    const int n = b->n, n_kv = m->n_kv;
    int i, j;
    memcpy(ggml_get_data(m->tokens), b->tokens, (size_t)n * sizeof(int32_t));
    memcpy(ggml_get_data(m->positions), b->positions, (size_t)n * sizeof(int32_t));
    for (i = 0; i < b->n_outputs; i++) ((int32_t *)ggml_get_data(m->outputs))[i] = n - b->n_outputs + i;
    for (i = 0; i < n; i++) {
        m->owner[from + i] = 1 + (b->sequences ? b->sequences[i] : 0);
        m->position[from + i] = b->positions[i];
    }
    if (from + n > m->n_cells) m->n_cells = from + n;
    for (i = 0; i < n; i++)
        for (j = 0; j < n_kv; j++)
            ((float *)ggml_get_data(m->mask))[i * n_kv + j] =
                m->owner[j] == m->owner[from + i] && m->position[j] <= b->positions[i] ? 0 : -INFINITY;
}

static void make_graph(struct mock_llama *m, int from) {
    C *c = m->graph;
    T *x = ggml_get_rows(c, m->embd, m->tokens);
    int l;
    for (l = 0; l < N_LAYER; l++) {
        T *out = attention(m, c, l, norm(c, x, m->layer[l][ATTN_NORM]), from);
        ggml_set_name(out, "kqv_out-7"); /* a name that lies */
        if (l == N_LAYER - 1) {
            out = ggml_get_rows(c, out, m->outputs);
            x = ggml_get_rows(c, x, m->outputs);
        }
        T *residual = m->changes & MOCK_OTHER_OPERATION ? ggml_mul(c, out, x) : ggml_add(c, out, x);
        T *down = feed_forward(m, c, l, norm(c, residual, m->layer[l][FFN_NORM]));
        /* in place: the residual is lost once the layer has run */
        x = m->in_place || m->changes & MOCK_OTHER_VIEW ? ggml_add_inplace(c, residual, down)
                                                        : ggml_add(c, residual, down);
    }
    m->logits = ggml_mul_mat(c, m->embd, norm(c, x, m->output_norm));
    ggml_set_output(m->logits);
    ggml_build_forward_expand(m->g, m->logits);
}

static void build(struct mock_llama *m, const struct mock_batch *b) {
    struct ggml_init_params params = {1 << 20, NULL, 1};
    const int n = b->n, from = b->sequences ? m->n_cells : b->positions[0], last = b->positions[n - 1];
    m->n = n, m->n_outputs = b->n_outputs, m->n_kv = ((b->sequences ? from + n : last + 1) + 7) / 8 * 8;
    m->changes = from >= CHANGES_AT ? m->how : 0;
    if (m->g && m->how & MOCK_SAME_MEMORY) {
        ggml_reset(m->inputs);
        ggml_reset(m->graph);
        ggml_graph_clear(m->g);
    } else {
        m->inputs = ggml_init(params);
        m->graph = ggml_init(params);
        m->g = ggml_new_graph();
    }
    name_weights(m);
    make_inputs(m);
    set_inputs(m, b, from);
    make_graph(m, from);
}

EXPORT int mock_llama_decode(struct mock_llama *m, const struct mock_batch *b) {
    build(m, b);
    ggml_backend_sched_reset(m->sched);
    if (m->changes & MOCK_UNSEEN) mock_allot(m->sched, m->g);
    if (!(m->changes & (MOCK_UNSEEN | MOCK_WITHIN)) && !ggml_backend_sched_alloc_graph(m->sched, m->g)) return 1;
    return ggml_backend_sched_graph_compute_async(m->sched, m->g);
}
EXPORT const float *mock_llama_logits(const struct mock_llama *m) {
    return (const float *)ggml_get_data(m->logits) + (m->n_outputs - 1) * N_VOCAB;
}
EXPORT int mock_llama_n_vocab(void) { return N_VOCAB; }
