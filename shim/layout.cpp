// Where a tensor keeps its type, shape, sources: found by making tensors of known contents and looking for them. All
// of it happens in memory that is ours; nothing is taken for granted, and a surprise means that nothing is traced.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "shim/engine.h"

namespace bitnet::shim {

namespace {

constexpr size_t kArenaBytes = 256 * 1024;
constexpr int kTensorBytesMax = 512;  // the largest known is 400
constexpr int kOpNumberMax = 79;      // of those we make; every version knows more than 80, so their names may be asked
constexpr int kTypeNumberMax = 23;    // likewise
constexpr int kF32 = 0, kF16 = 1;     // ggml's type numbers, since its first version

struct Probe {
    Context *(*init)(InitParams);
    void (*free)(Context *);
    Tensor *(*new_tensor_4d)(Context *, int type, int64_t, int64_t, int64_t, int64_t);
    Tensor *(*mul_mat)(Context *, Tensor *, Tensor *);
    Tensor *(*scale)(Context *, Tensor *, float);
    Tensor *(*view_1d)(Context *, Tensor *, int64_t n, size_t offset);
    size_t (*overhead)();
    void *(*cpu_buffer_type)();
    Buffer *(*alloc)(Context *, void *buffer_type);
    void (*buffer_free)(Buffer *);

    Tensor *a, *half, *b, *product, *scaled, *view;
    Buffer *buffer;
    int n_bytes;  // of a tensor
};

constexpr int64_t kShapeA[4] = {70, 5, 3, 2}, kShapeB[4] = {70, 11, 3, 2};
constexpr float kScale = 1234.5f;

// Offset of `n` bytes in a tensor at which `expected` stands; -1: nowhere, or not once only.
int find(const Probe &p, const Tensor *tensor, const void *expected, size_t n, size_t alignment, int skip = -1) {
    int found = -1;
    for (int at = 0; at + int(n) <= p.n_bytes; at += int(alignment)) {
        if (at == skip || memcmp(reinterpret_cast<const char *>(tensor) + at, expected, n) != 0) continue;
        if (found >= 0) return -1;
        found = at;
    }
    return found;
}

int32_t int_at(const Tensor *tensor, int offset) {
    int32_t value;
    memcpy(&value, reinterpret_cast<const char *>(tensor) + offset, sizeof value);
    return value;
}

bool is_name(const char *(*name_of)(int), int number, int max, const char *expected) {
    if (number < 0 || number > max) return false;
    const char *name = name_of(number);
    return name && strcmp(name, expected) == 0;
}

int find_op(const Engine &engine, const Probe &p) {
    for (int at = 0; at + 4 <= p.n_bytes; at += 4) {
        if (is_name(engine.op_name, int_at(p.a, at), kOpNumberMax, "NONE") &&
            is_name(engine.op_name, int_at(p.product, at), kOpNumberMax, "MUL_MAT") &&
            is_name(engine.op_name, int_at(p.scaled, at), kOpNumberMax, "SCALE") &&
            is_name(engine.op_name, int_at(p.view, at), kOpNumberMax, "VIEW")) {
            return at;
        }
    }
    return -1;
}

int find_type(const Engine &engine, const Probe &p) {
    for (int at = 0; at + 4 <= p.n_bytes; at += 4) {
        if (int_at(p.a, at) == kF32 && int_at(p.half, at) == kF16 && int_at(p.b, at) == kF32 &&
            is_name(engine.type_name, kF32, kTypeNumberMax, "f32") &&
            is_name(engine.type_name, kF16, kTypeNumberMax, "f16")) {
            return at;
        }
    }
    return -1;
}

// What is wrong, or NULL.
const char *measure(const Engine &engine, const Probe &p, Layout *out) {
    const size_t strides[4] = {4, 4 * 70, 4 * 70 * 5, 4 * 70 * 5 * 3};
    Tensor *const sources[2] = {p.a, p.b};
    if ((out->ne = find(p, p.a, kShapeA, sizeof kShapeA, 8)) < 0) return "no dimensions found in its tensors";
    if (find(p, p.b, kShapeB, sizeof kShapeB, 8) != out->ne) return "dimensions found at two places in its tensors";
    if ((out->nb = find(p, p.a, strides, sizeof strides, 8)) < 0) return "no strides found in its tensors";
    if ((out->type = find_type(engine, p)) < 0) return "no type found in its tensors";
    if ((out->op = find_op(engine, p)) < 0) return "no operation found in its tensors";
    if ((out->op_params = find(p, p.scaled, &kScale, sizeof kScale, 4)) < 0)
        return "no parameters found in its tensors";
    if ((out->src = find(p, p.product, sources, sizeof sources, 8)) < 0) return "no sources found in its tensors";
    if (find(p, p.scaled, &p.a, sizeof p.a, 8) != out->src) return "sources found at two places in its tensors";
    if ((out->view_src = find(p, p.view, &p.a, sizeof p.a, 8, out->src)) < 0) return "no view found in its tensors";
    if ((out->buffer = find(p, p.a, &p.buffer, sizeof p.buffer, 8)) < 0) return "no buffer found in its tensors";
    out->n_src = out->view_src > out->src ? (out->view_src - out->src) / 8 : 0;
    if (out->n_src < 4 || out->n_src > 32) return "its tensors have an unexpected number of sources";
    if (engine.nbytes(p.a) != size_t(70 * 5 * 3 * 2 * 4)) return "its tensors are not dense";
    if (!engine.get_data(p.a)) return "its tensors have no data";
    return nullptr;
}

bool take_functions(const Engine &e, Probe *p) {
    return take(e, "ggml_init", &p->init) && take(e, "ggml_free", &p->free) &&
           take(e, "ggml_new_tensor_4d", &p->new_tensor_4d) && take(e, "ggml_mul_mat", &p->mul_mat) &&
           take(e, "ggml_scale", &p->scale) && take(e, "ggml_view_1d", &p->view_1d) &&
           take(e, "ggml_tensor_overhead", &p->overhead) &&
           take(e, "ggml_backend_cpu_buffer_type", &p->cpu_buffer_type) &&
           take(e, "ggml_backend_alloc_ctx_tensors_from_buft", &p->alloc) &&
           take(e, "ggml_backend_buffer_free", &p->buffer_free);
}

const char *make_tensors(Probe *p, Context *ctx) {
    const size_t overhead = p->overhead();
    if (overhead < 200 || overhead > size_t(kTensorBytesMax)) return "its tensors have an unexpected size";
    // The overhead counts a header of the arena's as well: less than that is the tensor alone.
    p->n_bytes = int(overhead) - 32;
    p->a = p->new_tensor_4d(ctx, kF32, kShapeA[0], kShapeA[1], kShapeA[2], kShapeA[3]);
    p->half = p->new_tensor_4d(ctx, kF16, kShapeA[0], kShapeA[1], kShapeA[2], kShapeA[3]);
    p->b = p->new_tensor_4d(ctx, kF32, kShapeB[0], kShapeB[1], kShapeB[2], kShapeB[3]);
    if (!p->a || !p->half || !p->b) return "it makes no tensors";
    p->product = p->mul_mat(ctx, p->a, p->b);
    p->scaled = p->scale(ctx, p->a, kScale);
    p->view = p->view_1d(ctx, p->a, 7, 0);
    if (!p->product || !p->scaled || !p->view) return "it makes no tensors";
    p->buffer = p->alloc(ctx, p->cpu_buffer_type());
    return p->buffer ? nullptr : "it allocates no tensors";
}

}  // namespace

bool probe_layout(Engine *engine) {
    Probe p = {};
    if (!take_functions(*engine, &p)) {
        engine->why = "it does not export what its tensor layout is found with";
        return false;
    }
    void *arena = aligned_alloc(64, kArenaBytes);
    if (!arena) {
        engine->why = "out of memory";
        return false;
    }
    memset(arena, 0, kArenaBytes);
    Context *ctx = p.init({kArenaBytes, arena, true});
    if (ctx) {
        engine->why = make_tensors(&p, ctx);
        if (!engine->why) engine->why = measure(*engine, p, &engine->layout);
        if (p.buffer) p.buffer_free(p.buffer);
        p.free(ctx);
    } else {
        engine->why = "it makes no tensors";
    }
    free(arena);
    return !engine->why;
}

}  // namespace bitnet::shim
