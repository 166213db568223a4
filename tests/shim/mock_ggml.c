/* mock_ggml.c - as much of ggml as a small model needs, with the tensor layouts that are about: LAYOUT=1 today's, 2
 * that of 2024 (a gradient before the sources), 3 with more sources, 4 one that nobody has. The arithmetic is plain and
 * the same in all of them. Memory is recycled as soon as nothing reads it, so that what was not marked as output is
 * lost. */
#include "mock_ggml.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

struct ggml_tensor {
    int32_t type, backend;
    void *buffer;
#if LAYOUT == 4
    int64_t ne_again[4]; /* nobody can tell which of the two counts */
#endif
    int64_t ne[4];
    size_t nb[4];
    int32_t op, op_params[16], flags;
#if LAYOUT == 2 || LAYOUT == 3
    struct ggml_tensor *grad;
#endif
#if LAYOUT == 3
    struct ggml_tensor *src[16];
#else
    struct ggml_tensor *src[10];
#endif
    struct ggml_tensor *view_src;
    size_t view_offs;
    void *data;
    char name[64];
    void *extra;
    char padding[16];
};
typedef struct ggml_tensor T;

enum { F32 = 0, F16 = 1, I32 = 18 };
enum { FLAG_OUTPUT = 2 };
enum {
    NONE,
    DUP,
    ADD,
    MUL,
    SQR,
    SCALE,
    RMS_NORM,
    MUL_MAT,
    SOFT_MAX,
    ROPE,
    GET_ROWS,
    VIEW,
    RESHAPE,
    PERMUTE,
    CONT,
    CPY,
    UNARY
};
static const char *const op_names[] = {"NONE",     "DUP",     "ADD",      "MUL",  "SQR",      "SCALE",
                                       "RMS_NORM", "MUL_MAT", "SOFT_MAX", "ROPE", "GET_ROWS", "VIEW",
                                       "RESHAPE",  "PERMUTE", "CONT",     "CPY",  "UNARY"};

struct ggml_context {
    char *arena;
    size_t size, used;
    int own;
};
struct ggml_cgraph {
    int n;
    T *nodes[512];
};
struct buffer {
    void *memory;
};

EXPORT const char *ggml_op_name(int op) { return op >= 0 && op <= UNARY ? op_names[op] : "?"; }
EXPORT const char *ggml_type_name(int type) {
    return type == F32 ? "f32" : type == F16 ? "f16" : type == I32 ? "i32" : "?";
}
EXPORT const char *ggml_version(void) { return "mock"; }
EXPORT size_t ggml_tensor_overhead(void) { return sizeof(T) + 32; }
EXPORT const char *ggml_get_name(const T *t) { return t->name; }
EXPORT void ggml_set_name(T *t, const char *name) { snprintf(t->name, sizeof t->name, "%s", name); }
EXPORT void *ggml_get_data(const T *t) { return t->data; }
EXPORT void ggml_set_output(T *t) { t->flags |= FLAG_OUTPUT; }
EXPORT int ggml_graph_n_nodes(struct ggml_cgraph *g) { return g->n; }
EXPORT T *ggml_graph_node(struct ggml_cgraph *g, int i) { return g->nodes[i]; }

static size_t type_size(int type) { return type == F16 ? 2 : 4; }
EXPORT size_t ggml_nbytes(const T *t) {
    size_t n = type_size(t->type);
    int i;
    for (i = 0; i < 4; i++) {
        if (t->ne[i] <= 0) return 0;
        n += (size_t)(t->ne[i] - 1) * t->nb[i];
    }
    return n;
}

EXPORT struct ggml_context *ggml_init(struct ggml_init_params params) {
    struct ggml_context *ctx = calloc(1, sizeof *ctx);
    ctx->size = params.mem_size;
    ctx->own = !params.mem_buffer;
    ctx->arena = params.mem_buffer ? params.mem_buffer : calloc(1, params.mem_size);
    return ctx;
}
EXPORT void ggml_free(struct ggml_context *ctx) {
    if (ctx->own) free(ctx->arena);
    free(ctx);
}

EXPORT void ggml_reset(struct ggml_context *ctx) { ctx->used = 0; }

static T *make(struct ggml_context *ctx, int op, int type, int64_t a, int64_t b, int64_t c, int64_t d) {
    T *t = (T *)(ctx->arena + ctx->used);
    ctx->used += (sizeof(T) + 63) / 64 * 64;
    if (ctx->used > ctx->size) abort();
    memset(t, 0, sizeof *t);
    t->type = type;
    t->op = op;
    t->ne[0] = a, t->ne[1] = b, t->ne[2] = c, t->ne[3] = d;
#if LAYOUT == 4
    memcpy(t->ne_again, t->ne, sizeof t->ne);
#endif
    t->nb[0] = type_size(type);
    t->nb[1] = t->nb[0] * (size_t)a, t->nb[2] = t->nb[1] * (size_t)b, t->nb[3] = t->nb[2] * (size_t)c;
    return t;
}
EXPORT T *ggml_new_tensor_4d(struct ggml_context *ctx, int type, int64_t a, int64_t b, int64_t c, int64_t d) {
    return make(ctx, NONE, type, a, b, c, d);
}
static T *like(struct ggml_context *ctx, int op, T *a, T *b) {
    T *t = make(ctx, op, F32, a->ne[0], a->ne[1], a->ne[2], a->ne[3]);
    t->src[0] = a, t->src[1] = b;
    return t;
}
EXPORT T *ggml_mul_mat(struct ggml_context *ctx, T *a, T *b) {
    T *t = make(ctx, MUL_MAT, F32, a->ne[1], b->ne[1], b->ne[2], b->ne[3]);
    t->src[0] = a, t->src[1] = b;
    return t;
}
EXPORT T *ggml_add(struct ggml_context *ctx, T *a, T *b) { return like(ctx, ADD, a, b); }
EXPORT T *ggml_mul(struct ggml_context *ctx, T *a, T *b) { return like(ctx, MUL, a, b); }
EXPORT T *ggml_silu(struct ggml_context *ctx, T *a) { return like(ctx, UNARY, a, NULL); }
EXPORT T *ggml_cont(struct ggml_context *ctx, T *a) { return like(ctx, CONT, a, NULL); }
static T *with_float(T *t, int i, float value) {
    memcpy(&t->op_params[i], &value, sizeof value);
    return t;
}
static float float_of(const T *t, int i) {
    float value;
    memcpy(&value, &t->op_params[i], sizeof value);
    return value;
}
EXPORT T *ggml_scale(struct ggml_context *ctx, T *a, float s) { return with_float(like(ctx, SCALE, a, NULL), 0, s); }
EXPORT T *ggml_rms_norm(struct ggml_context *ctx, T *a, float eps) {
    return with_float(like(ctx, RMS_NORM, a, NULL), 0, eps);
}
EXPORT T *ggml_soft_max_ext(struct ggml_context *ctx, T *a, T *mask, float scale) {
    return with_float(like(ctx, SOFT_MAX, a, mask), 0, scale);
}
EXPORT T *ggml_rope(struct ggml_context *ctx, T *a, T *positions, float base) {
    T *t = with_float(like(ctx, ROPE, a, positions), 5, base);
    t->op_params[1] = (int32_t)a->ne[0];
    return t;
}
EXPORT T *ggml_get_rows(struct ggml_context *ctx, T *a, T *ids) {
    T *t = make(ctx, GET_ROWS, F32, a->ne[0], ids->ne[0], 1, 1);
    t->src[0] = a, t->src[1] = ids;
    return t;
}
static T *view_of(struct ggml_context *ctx, int op, T *a, int64_t b, int64_t c, int64_t d, size_t offset) {
    T *t = make(ctx, op, a->type, b, c, d, 1);
    t->src[0] = a;
    t->view_src = a->view_src ? a->view_src : a;
    t->view_offs = a->view_offs + offset;
    if (t->view_src->data) t->data = (char *)t->view_src->data + t->view_offs;
    t->buffer = t->view_src->buffer;
    return t;
}
EXPORT T *ggml_view_1d(struct ggml_context *ctx, T *a, int64_t n, size_t offset) {
    return view_of(ctx, VIEW, a, n, 1, 1, offset);
}
EXPORT T *ggml_view_3d(struct ggml_context *ctx, T *a, int64_t b, int64_t c, int64_t d, size_t nb1, size_t nb2,
                       size_t offset) {
    T *t = view_of(ctx, VIEW, a, b, c, d, offset);
    t->nb[1] = nb1, t->nb[2] = nb2, t->nb[3] = nb2 * (size_t)d;
    return t;
}
EXPORT T *ggml_reshape_3d(struct ggml_context *ctx, T *a, int64_t b, int64_t c, int64_t d) {
    return view_of(ctx, RESHAPE, a, b, c, d, 0);
}
EXPORT T *ggml_swap(struct ggml_context *ctx, T *a, int x, int y) { /* PERMUTE of two dimensions */
    T *t = view_of(ctx, PERMUTE, a, a->ne[0], a->ne[1], a->ne[2], 0);
    memcpy(t->nb, a->nb, sizeof t->nb);
    t->ne[x] = a->ne[y], t->ne[y] = a->ne[x];
    t->nb[x] = a->nb[y], t->nb[y] = a->nb[x];
    return t;
}
EXPORT T *ggml_cpy(struct ggml_context *ctx, T *a, T *to) { /* the result is a view of where it goes */
    T *t = view_of(ctx, CPY, to, to->ne[0], to->ne[1], to->ne[2], 0);
    memcpy(t->nb, to->nb, sizeof t->nb);
    t->src[0] = a, t->src[1] = to;
    return t;
}
EXPORT T *ggml_add_inplace(struct ggml_context *ctx, T *a, T *b) {
    T *t = view_of(ctx, ADD, a, a->ne[0], a->ne[1], a->ne[2], 0);
    t->src[1] = b;
    return t;
}

static void visit(struct ggml_cgraph *g, T *t) {
    int i;
    if (!t) return;
    for (i = 0; i < g->n; i++)
        if (g->nodes[i] == t) return;
    for (i = 0; i < 4; i++) visit(g, t->src[i]);
    if (t->op != NONE) g->nodes[g->n++] = t;
}
EXPORT struct ggml_cgraph *ggml_new_graph(void) { return calloc(1, sizeof(struct ggml_cgraph)); }
EXPORT void ggml_graph_clear(struct ggml_cgraph *g) { g->n = 0; }
EXPORT void ggml_build_forward_expand(struct ggml_cgraph *g, T *t) { visit(g, t); }

/* ---- backend: one, this process's memory ---- */

static struct buffer the_buffer;
EXPORT void *ggml_backend_cpu_buffer_type(void) { return &the_buffer; }
EXPORT void *ggml_backend_alloc_ctx_tensors_from_buft(struct ggml_context *ctx, void *type) {
    struct buffer *b = calloc(1, sizeof *b);
    size_t at, n = (sizeof(T) + 63) / 64 * 64;
    (void)type;
    for (at = 0; at < ctx->used; at += n) {
        T *t = (T *)(ctx->arena + at);
        t->buffer = b;
        if (!t->data && !t->view_src) t->data = calloc(1, ggml_nbytes(t) + 64); /* never given back */
        if (t->view_src && t->view_src->data) t->data = (char *)t->view_src->data + t->view_offs;
    }
    return b;
}
EXPORT void ggml_backend_buffer_free(void *b) { free(b); }
EXPORT _Bool ggml_backend_buffer_is_host(void *b) { return b != NULL && !getenv("MOCK_DEVICE"); }
EXPORT void ggml_backend_tensor_get(const T *t, void *out, size_t offset, size_t n) {
    if (!t->buffer || !t->data || offset + n > ggml_nbytes(t)) abort();
    memcpy(out, (const char *)t->data + offset, n);
}

struct ggml_backend_sched {
    _Bool (*callback)(T *, _Bool, void *);
    void *user;
    char *pool;
    size_t pool_size;
    struct {
        size_t from, to;
        int last; /* the node that reads it last */
    } blocks[512];
    int n_blocks;
    _Bool is_alloc;
    struct buffer buffer;
};
typedef struct ggml_backend_sched Sched;

EXPORT Sched *ggml_backend_sched_new(void) {
    Sched *s = calloc(1, sizeof *s);
    s->pool_size = 8 << 20;
    s->pool = calloc(1, s->pool_size);
    return s;
}
EXPORT void ggml_backend_sched_free(Sched *s) {
    free(s->pool);
    free(s);
}
EXPORT void ggml_backend_sched_set_eval_callback(Sched *s, _Bool (*callback)(T *, _Bool, void *), void *user) {
    s->callback = callback;
    s->user = user;
}

static const T *root_of(const T *t) { return t->view_src ? t->view_src : t; }
static int last_reader(const struct ggml_cgraph *g, const T *t) {
    int i, k, last = -1;
    for (i = 0; i < g->n; i++)
        for (k = 0; k < 4; k++)
            if (g->nodes[i]->src[k] && root_of(g->nodes[i]->src[k]) == t) last = i;
    return (t->flags & FLAG_OUTPUT) || last < 0 ? 1 << 30 : last;
}
static size_t place(Sched *s, int at, size_t n) {
    size_t from = 0;
    int i, again = 1;
    while (again) {
        again = 0;
        for (i = 0; i < s->n_blocks; i++) {
            if (s->blocks[i].last < at || from >= s->blocks[i].to || from + n <= s->blocks[i].from) continue;
            from = s->blocks[i].to;
            again = 1;
        }
    }
    return from;
}
EXPORT _Bool mock_allot(Sched *s, struct ggml_cgraph *g) {
    int i;
    s->n_blocks = 0;
    for (i = 0; i < g->n; i++) {
        T *t = g->nodes[i];
        const size_t n = (ggml_nbytes(t) + 63) / 64 * 64;
        if (t->view_src) {
            t->data = t->view_src->data ? (char *)t->view_src->data + t->view_offs : NULL;
            t->buffer = t->view_src->buffer;
            continue;
        }
        const size_t from = place(s, i, n);
        if (from + n > s->pool_size) return 0;
        s->blocks[s->n_blocks].from = from;
        s->blocks[s->n_blocks].to = from + n;
        s->blocks[s->n_blocks++].last = last_reader(g, t);
        t->data = s->pool + from;
        t->buffer = &s->buffer;
    }
    return s->is_alloc = 1;
}
EXPORT _Bool ggml_backend_sched_alloc_graph(Sched *s, struct ggml_cgraph *g) { return mock_allot(s, g); }
EXPORT _Bool ggml_backend_sched_reserve(Sched *s, struct ggml_cgraph *g) {
    return ggml_backend_sched_alloc_graph(s, g);
}
EXPORT void ggml_backend_sched_reset(Sched *s) { s->is_alloc = 0; }
EXPORT void ggml_backend_sched_synchronize(Sched *s) { (void)s; }
EXPORT void *ggml_backend_sched_get_tensor_backend(Sched *s, T *t) {
    (void)t;
    return s;
}
EXPORT void *ggml_backend_get_device(void *backend) {
    if (!backend) abort();
    return backend;
}

/* ---- arithmetic ---- */

#define AT(t, i, j, k)                                                                                                 \
    (*(float *)((char *)(t)->data + (size_t)(i) * (t)->nb[0] + (size_t)(j) * (t)->nb[1] + (size_t)(k) * (t)->nb[2]))
#define EACH_ROW(t)                                                                                                    \
    for (k = 0; k < (t)->ne[2]; k++)                                                                                   \
        for (j = 0; j < (t)->ne[1]; j++)

static void soft_max(T *t, const T *a, const T *mask) {
    int64_t i, j, k;
    EACH_ROW(t) {
        float max = -INFINITY, sum = 0;
        for (i = 0; i < t->ne[0]; i++) {
            AT(t, i, j, k) = AT(a, i, j, k) * float_of(t, 0) + AT(mask, i, j, 0);
            if (AT(t, i, j, k) > max) max = AT(t, i, j, k);
        }
        for (i = 0; i < t->ne[0]; i++) sum += AT(t, i, j, k) = expf(AT(t, i, j, k) - max);
        for (i = 0; i < t->ne[0]; i++) AT(t, i, j, k) /= sum;
    }
}
static void rope(T *t, const T *a, const int32_t *positions) {
    int64_t i, j, k, half = t->ne[0] / 2;
    EACH_ROW(t) for (i = 0; i < half; i++) {
        const float angle = (float)positions[k] * powf(float_of(t, 5), -(float)i / (float)half);
        const float x = AT(a, i, j, k), y = AT(a, i + half, j, k);
        AT(t, i, j, k) = x * cosf(angle) - y * sinf(angle);
        AT(t, i + half, j, k) = x * sinf(angle) + y * cosf(angle);
    }
}
static void compute(T *t) {
    const T *a = t->src[0], *b = t->src[1];
    int64_t i, j, k, m;
    switch (t->op) {
    case ADD:
        EACH_ROW(t)
        for (i = 0; i < t->ne[0]; i++) AT(t, i, j, k) = AT(a, i, j, k) + AT(b, i, j % b->ne[1], k % b->ne[2]);
        break;
    case MUL:
        EACH_ROW(t)
        for (i = 0; i < t->ne[0]; i++)
            AT(t, i, j, k) = AT(a, i, j, k) * AT(b, i % b->ne[0], j % b->ne[1], k % b->ne[2]);
        break;
    case UNARY:
        EACH_ROW(t) for (i = 0; i < t->ne[0]; i++) AT(t, i, j, k) = AT(a, i, j, k) / (1 + expf(-AT(a, i, j, k)));
        break;
    case CONT: EACH_ROW(t) for (i = 0; i < t->ne[0]; i++) AT(t, i, j, k) = AT(a, i, j, k); break;
    case CPY: EACH_ROW(t) for (i = 0; i < t->ne[0]; i++) AT(t, i, j, k) = AT(a, i, j, k); break;
    case RMS_NORM:
        EACH_ROW(t) {
            float sum = 0;
            for (i = 0; i < t->ne[0]; i++) sum += AT(a, i, j, k) * AT(a, i, j, k);
            for (i = 0; i < t->ne[0]; i++)
                AT(t, i, j, k) = AT(a, i, j, k) / sqrtf(sum / (float)t->ne[0] + float_of(t, 0));
        }
        break;
    case MUL_MAT:
        EACH_ROW(t) for (i = 0; i < t->ne[0]; i++) {
            float sum = 0;
            for (m = 0; m < a->ne[0]; m++) sum += AT(a, m, i, k * a->ne[2] / t->ne[2]) * AT(b, m, j, k);
            AT(t, i, j, k) = sum;
        }
        break;
    case GET_ROWS:
        for (j = 0; j < t->ne[1]; j++)
            for (i = 0; i < t->ne[0]; i++) AT(t, i, j, 0) = AT(a, i, ((const int32_t *)b->data)[j], 0);
        break;
    case SOFT_MAX: soft_max(t, a, b); break;
    case ROPE: rope(t, a, b->data); break;
    default: break;
    }
}

/* An engine with a fault: the result changes when more than it is kept. */
static void feel_watched(struct ggml_cgraph *g) {
    int i, n = 0;
    for (i = 0; i < g->n; i++) n += (g->nodes[i]->flags & FLAG_OUTPUT) != 0;
    if (n > 1) *(float *)g->nodes[g->n - 1]->data += 1;
}

EXPORT int ggml_backend_sched_graph_compute_async(Sched *s, struct ggml_cgraph *g) {
    int i;
    if (!s->is_alloc && !mock_allot(s, g)) return 1;
    for (i = 0; i < g->n; i++) {
        const _Bool asked = s->callback && s->callback(g->nodes[i], 1, s->user);
        compute(g->nodes[i]);
        if (asked && !s->callback(g->nodes[i], 0, s->user)) break;
    }
    if (getenv("MOCK_SENSITIVE")) feel_watched(g);
    return 0;
}
EXPORT int ggml_backend_sched_graph_compute(Sched *s, struct ggml_cgraph *g) {
    return ggml_backend_sched_graph_compute_async(s, g);
}

/* ---- GGUF: the keys of one made-up file ---- */

static const char *const keys[] = {"general.architecture", "tokenizer.ggml.bos_token_id",
                                   "tokenizer.ggml.eos_token_id"};
EXPORT void *gguf_init_from_file(const char *path, struct gguf_init_params params) {
    FILE *file = fopen(path, "r");
    (void)params;
    if (file) fclose(file);
    return file ? (void *)keys : NULL;
}
EXPORT int64_t gguf_find_key(const void *g, const char *key) {
    int i;
    (void)g;
    for (i = 0; i < 3; i++)
        if (strcmp(key, keys[i]) == 0) return i;
    return -1;
}
EXPORT int gguf_get_kv_type(const void *g, int64_t key) {
    (void)g;
    return key == 0 ? 8 : 4;
}
EXPORT const char *gguf_get_val_str(const void *g, int64_t key) {
    (void)g, (void)key;
    return "mock";
}
EXPORT uint32_t gguf_get_val_u32(const void *g, int64_t key) {
    (void)g;
    return (uint32_t)key; /* BOS is 1, EOS is 2 */
}
