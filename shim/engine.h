// The foreign engine as we use it: functions that it exports, and where its tensors keep what no function tells. No
// header of it is included: every version is met with the same code, and one that does not fit is left alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace bitnet::shim {

struct Tensor;     // ggml_tensor
struct Graph;      // ggml_cgraph
struct Scheduler;  // ggml_backend_sched
struct Backend;    // ggml_backend
struct Context;    // ggml_context
struct Buffer;     // ggml_backend_buffer
struct Gguf;       // gguf_context

// Returns bool in all versions; as int it is right for callers that read only the low byte and for those that read all.
typedef int (*EvalCallback)(Tensor *tensor, bool ask, void *user);

struct InitParams {  // ggml_init_params
    size_t mem_size;
    void *mem_buffer;
    bool no_alloc;
};

struct GgufInitParams {  // gguf_init_params
    bool no_alloc;
    Context **ctx;
};

constexpr int kSourcesMax = 6;  // of which we look at

// What a node computes, as far as stages depend on it.
enum class Op : uint8_t {
    unseen = 0,  // of the table only
    leaf,        // GGML_OP_NONE
    mul_mat,
    mul,
    add,
    rope,
    get_rows,
    soft_max,
    flash_attn,
    norm,   // RMS_NORM and its like, without weights
    move,   // the same values elsewhere, or seen otherwise: RESHAPE, VIEW, PERMUTE, TRANSPOSE, CONT
    store,  // into the cache: CPY, SET_ROWS
    unary,  // of one value each: UNARY, SQR, SCALE, CLAMP
    other,
};

enum class Type : uint8_t { unseen = 0, f32, f16, bf16, i8, i32, other };

// Offsets in bytes inside a tensor, found by making tensors whose values are known.
struct Layout {
    int type, op, ne, nb, op_params, src, view_src, buffer;
    int n_src;
};

// One loaded copy of the engine. Lives as long as the process.
struct Engine {
    Engine *next;
    const void *base;  // of the library that called
    void *handle;
    bool is_static;     // it is the program itself, which exports nothing
    char path[512];     // of that library
    char version[160];  // "ggml 0.9.5 (a1b2c3), libllama.so"
    const char *why;    // NULL: usable; else why it is not traced, in one line
    char why_text[160];
    Layout layout;
    Op op_of[256];
    Type type_of[256];

    // Hooked functions, the engine's own.
    bool (*sched_alloc_graph)(Scheduler *, Graph *);
    bool (*sched_reserve)(Scheduler *, Graph *);
    void (*sched_reserve_size)(Scheduler *, Graph *, size_t *);
    void (*sched_reset)(Scheduler *);
    int (*sched_graph_compute)(Scheduler *, Graph *);
    int (*sched_graph_compute_async)(Scheduler *, Graph *);
    void (*sched_set_eval_callback)(Scheduler *, EvalCallback, void *);
    Backend *(*sched_get_tensor_backend)(Scheduler *, Tensor *);
    void *(*get_device)(Backend *);
    void (*sched_free)(Scheduler *);
    Gguf *(*gguf_init_from_file)(const char *, GgufInitParams);
    void (*set_warmup)(void *, bool);

    // Used.
    void (*sched_synchronize)(Scheduler *);
    int (*graph_n_nodes)(Graph *);
    Tensor *(*graph_node)(Graph *, int);
    void (*set_output)(Tensor *);
    const char *(*get_name)(const Tensor *);
    const char *(*op_name)(int);
    const char *(*type_name)(int);
    size_t (*nbytes)(const Tensor *);
    void *(*get_data)(const Tensor *);
    bool (*buffer_is_host)(Buffer *);
    void (*tensor_get)(const Tensor *, void *, size_t offset, size_t n);

    template <class T> const T *at(const Tensor *tensor, int offset) const {
        return reinterpret_cast<const T *>(reinterpret_cast<const char *>(tensor) + offset);
    }
    const int64_t *ne(const Tensor *t) const { return at<int64_t>(t, layout.ne); }
    const size_t *nb(const Tensor *t) const { return at<size_t>(t, layout.nb); }
    Tensor *src(const Tensor *t, int i) const { return i < layout.n_src ? at<Tensor *>(t, layout.src)[i] : nullptr; }
    Tensor *view_src(const Tensor *t) const { return *at<Tensor *>(t, layout.view_src); }
    const char *type_name_of(const Tensor *t) const { return type_name(*at<int32_t>(t, layout.type)); }
    float float_param(const Tensor *t, int i) const { return at<float>(t, layout.op_params)[i]; }
    int32_t int_param(const Tensor *t, int i) const { return at<int32_t>(t, layout.op_params)[i]; }
    Op op(const Tensor *t);
    Type type(const Tensor *t);
    const Tensor *root(const Tensor *t) const;     // what a view is a view of
    bool has_data(const Tensor *t) const;          // allocated, and not empty
    const void *host_data(const Tensor *t) const;  // NULL: not in this process's memory
};

// The copy that the library around `caller` uses; NULL: out of memory. Slow only the first time.
Engine *engine_of(const void *caller, const void *our_function);

// A function of the engine. False: it has none, `out` is then NULL.
void *symbol_of(const Engine &engine, const char *name);
template <class Function> bool take(const Engine &engine, const char *name, Function *out) {
    void *found = symbol_of(engine, name);
    memcpy(out, &found, sizeof found);
    return found != nullptr;
}

size_t element_bytes(Type type);  // 0: not one that can be traced
int32_t traced_dtype(Type type);  // BITNET_DTYPE_...

bool probe_layout(Engine *engine);  // false with `why`

}  // namespace bitnet::shim
