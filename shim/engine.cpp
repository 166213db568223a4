#include "shim/engine.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "bitnet_c.h"
#include "shim/environment.h"
#include "shim/report.h"
#include "shim/static_program.h"

namespace bitnet::shim {

namespace {

struct Symbol {
    const char *name;
    size_t offset;  // in Engine
    bool required;
};

#define SYMBOL(field, symbol, required)                                                                                \
    { symbol, offsetof(Engine, field), required }
constexpr Symbol kSymbols[] = {
    SYMBOL(sched_alloc_graph, "ggml_backend_sched_alloc_graph", true),
    SYMBOL(sched_reserve, "ggml_backend_sched_reserve", true),
    SYMBOL(sched_reserve_size, "ggml_backend_sched_reserve_size", false),
    SYMBOL(sched_reset, "ggml_backend_sched_reset", false),
    SYMBOL(sched_graph_compute, "ggml_backend_sched_graph_compute", true),
    SYMBOL(sched_graph_compute_async, "ggml_backend_sched_graph_compute_async", true),
    SYMBOL(sched_set_eval_callback, "ggml_backend_sched_set_eval_callback", true),
    SYMBOL(sched_get_tensor_backend, "ggml_backend_sched_get_tensor_backend", false),
    SYMBOL(get_device, "ggml_backend_get_device", false),
    SYMBOL(sched_free, "ggml_backend_sched_free", true),
    SYMBOL(gguf_init_from_file, "gguf_init_from_file", false),
    SYMBOL(set_warmup, "llama_set_warmup", false),
    SYMBOL(sched_synchronize, "ggml_backend_sched_synchronize", true),
    SYMBOL(graph_n_nodes, "ggml_graph_n_nodes", true),
    SYMBOL(graph_node, "ggml_graph_node", true),
    SYMBOL(set_output, "ggml_set_output", true),
    SYMBOL(get_name, "ggml_get_name", true),
    SYMBOL(op_name, "ggml_op_name", true),
    SYMBOL(type_name, "ggml_type_name", true),
    SYMBOL(nbytes, "ggml_nbytes", true),
    SYMBOL(get_data, "ggml_get_data", true),
    SYMBOL(buffer_is_host, "ggml_backend_buffer_is_host", true),
    SYMBOL(tensor_get, "ggml_backend_tensor_get", true),
};
#undef SYMBOL

struct NamedOp {
    const char *name;
    Op op;
};
constexpr NamedOp kOps[] = {
    {"NONE", Op::leaf},      {"MUL_MAT", Op::mul_mat},   {"MUL", Op::mul},           {"ADD", Op::add},
    {"ROPE", Op::rope},      {"GET_ROWS", Op::get_rows}, {"SOFT_MAX", Op::soft_max}, {"FLASH_ATTN_EXT", Op::flash_attn},
    {"RMS_NORM", Op::norm},  {"NORM", Op::norm},         {"RESHAPE", Op::move},      {"VIEW", Op::move},
    {"PERMUTE", Op::move},   {"TRANSPOSE", Op::move},    {"CONT", Op::move},         {"CPY", Op::store},
    {"SET_ROWS", Op::store}, {"UNARY", Op::unary},       {"SQR", Op::unary},         {"SCALE", Op::unary},
    {"CLAMP", Op::unary},
};

struct NamedType {
    const char *name;
    Type type;
};
constexpr NamedType kTypes[] = {
    {"f32", Type::f32}, {"f16", Type::f16}, {"bf16", Type::bf16}, {"i8", Type::i8}, {"i32", Type::i32}};

void make_version(Engine *engine) {
    typedef const char *(*TextFn)();
    const char *texts[2] = {"", ""};
    const char *names[2] = {"ggml_version", "ggml_commit"};
    for (int i = 0; i < 2; ++i) {
        TextFn text;
        if (take(*engine, names[i], &text) && text()) texts[i] = text();
    }
    const char *slash = strrchr(engine->path, '/');
    const char *file = slash ? slash + 1 : engine->path;
    if (texts[0][0]) {
        snprintf(engine->version, sizeof engine->version, "%.60s, ggml %.40s%s%.40s", file, texts[0],
                 texts[1][0] ? " " : "", texts[1]);
    } else {
        snprintf(engine->version, sizeof engine->version, "%.150s", file);
    }
}

constexpr int kObjectsMax = 1024;

struct Objects {
    const char *names[kObjectsMax];
    int n;
};

int list_object(dl_phdr_info *info, size_t, void *user) {
    Objects *objects = static_cast<Objects *>(user);
    if (info->dlpi_name && *info->dlpi_name && objects->n < kObjectsMax) objects->names[objects->n++] = info->dlpi_name;
    return 0;
}

bool is_foreign(void *found, const void *our_base) {
    Dl_info info;
    return found && dladdr(found, &info) && info.dli_fbase != our_base;
}

// The caller's own scope; the global one after it, as another copy may stand there; then anything that is loaded, as a
// caller may have got the function from whoever loaded it. Our own definition would call itself for ever.
void *find_symbol(void *handle, const char *name, const void *our_base) {
    void *const scopes[] = {handle, RTLD_NEXT};
    for (void *scope : scopes) {
        void *found = scope ? dlsym(scope, name) : nullptr;
        if (is_foreign(found, our_base)) return found;
    }
    static Objects objects;  // under the lock of engine_of
    objects.n = 0;
    dl_iterate_phdr(list_object, &objects);
    for (int i = 0; i < objects.n; ++i) {
        void *object = dlopen(objects.names[i], RTLD_LAZY | RTLD_NOLOAD);
        void *found = object ? dlsym(object, name) : nullptr;
        if (is_foreign(found, our_base)) return found;
        if (object) dlclose(object);
    }
    return nullptr;
}

void resolve(Engine *engine, const void *our_base) {
    for (const Symbol &symbol : kSymbols) {
        void *found =
            engine->is_static ? symbol_of(*engine, symbol.name) : find_symbol(engine->handle, symbol.name, our_base);
        memcpy(reinterpret_cast<char *>(engine) + symbol.offset, &found, sizeof found);
        if (!found && symbol.required && !engine->why) {
            snprintf(engine->why_text, sizeof engine->why_text, "it %s %s",
                     engine->is_static ? "was linked without" : "does not export", symbol.name);
            engine->why = engine->why_text;
        }
    }
}

constexpr int kCallersMax = 64;  // call sites; a handful are known, beyond them every call asks dladdr

struct Caller {
    const void *address;
    Engine *engine;
};

pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
Engine *engines;
Caller callers[kCallersMax];
int n_callers;  // written after its entry, read without the lock

// Several libraries may call one copy of ggml: it is spoken of once.
bool is_known_copy(const Engine &engine) {
    for (const Engine *other = engines; other; other = other->next) {
        if (other->get_name == engine.get_name && !other->why == !engine.why) return true;
    }
    return false;
}

Engine *make_engine(const Dl_info &info, const void *our_base) {
    Engine *engine = static_cast<Engine *>(calloc(1, sizeof(Engine)));
    if (!engine) return nullptr;
    engine->base = info.dli_fbase;
    engine->is_static = is_static_program(info.dli_fbase);
    snprintf(engine->path, sizeof engine->path, "%s", info.dli_fname ? info.dli_fname : "");
    // Held on purpose: what is cached of the library must stay true. Fails for a program itself: the global scope
    // serves.
    engine->handle = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    if (!engine->handle) engine->handle = dlopen(nullptr, RTLD_LAZY);
    resolve(engine, our_base);
    const bool asked = settings().armed || settings().no_flash;
    if (!asked) engine->why = "nobody asks for it";
    if (!engine->why) probe_layout(engine);
    if (!asked) return engine;
    make_version(engine);
    note_engine(engine->path, engine->version, engine->why);
    if (is_known_copy(*engine)) return engine;
    if (engine->why) {
        say("%s: not traced: %s", engine->path, engine->why);
    } else {
        say("%s: ggml tensors: src at %d, view_src at %d", engine->path, engine->layout.src, engine->layout.view_src);
    }
    return engine;
}

Engine *find_or_make(const void *caller, const void *our_function) {
    Dl_info info, ours;
    if (!dladdr(caller, &info) || !info.dli_fbase || !dladdr(our_function, &ours)) return nullptr;
    for (Engine *engine = engines; engine; engine = engine->next) {
        if (engine->base == info.dli_fbase) return engine;
    }
    Engine *engine = make_engine(info, ours.dli_fbase);
    if (!engine) return nullptr;
    engine->next = engines;
    return engines = engine;
}

}  // namespace

Engine *engine_of(const void *caller, const void *our_function) {
    const int n = __atomic_load_n(&n_callers, __ATOMIC_ACQUIRE);
    for (int i = 0; i < n; ++i) {
        if (callers[i].address == caller) return callers[i].engine;
    }
    pthread_mutex_lock(&mutex);
    Engine *engine = find_or_make(caller, our_function);
    if (engine && n_callers < kCallersMax) {
        callers[n_callers] = {caller, engine};
        __atomic_store_n(&n_callers, n_callers + 1, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&mutex);
    return engine;
}

void *symbol_of(const Engine &engine, const char *name) {
    return engine.is_static ? static_program_function(name) : dlsym(engine.handle, name);
}

Op Engine::op(const Tensor *tensor) {
    const uint32_t number = *at<uint32_t>(tensor, layout.op);
    if (number >= sizeof op_of / sizeof op_of[0]) return Op::other;
    // Written by any thread, always with the same value.
    const Op known = __atomic_load_n(&op_of[number], __ATOMIC_RELAXED);
    if (known != Op::unseen) return known;
    const char *name = op_name(int(number));
    Op found = Op::other;
    for (const NamedOp &named : kOps) {
        if (name && strcmp(name, named.name) == 0) found = named.op;
    }
    if (found == Op::other && name && strstr(name, "RMS_NORM")) found = Op::norm;  // fused with its weight
    __atomic_store_n(&op_of[number], found, __ATOMIC_RELAXED);
    return found;
}

Type Engine::type(const Tensor *tensor) {
    const uint32_t number = *at<uint32_t>(tensor, layout.type);
    if (number >= sizeof type_of / sizeof type_of[0]) return Type::other;
    const Type known = __atomic_load_n(&type_of[number], __ATOMIC_RELAXED);
    if (known != Type::unseen) return known;
    const char *name = type_name(int(number));
    Type found = Type::other;
    for (const NamedType &named : kTypes) {
        if (name && strcmp(name, named.name) == 0) found = named.type;
    }
    __atomic_store_n(&type_of[number], found, __ATOMIC_RELAXED);
    return found;
}

const Tensor *Engine::root(const Tensor *tensor) const {
    while (const Tensor *from = view_src(tensor)) tensor = from;
    return tensor;
}

bool Engine::has_data(const Tensor *tensor) const {
    return nbytes(tensor) != 0 && *at<Buffer *>(root(tensor), layout.buffer) && get_data(tensor);
}

const void *Engine::host_data(const Tensor *tensor) const {
    return buffer_is_host(*at<Buffer *>(root(tensor), layout.buffer)) ? get_data(tensor) : nullptr;
}

size_t element_bytes(Type type) {
    switch (type) {
    case Type::f32:
    case Type::i32: return 4;
    case Type::f16:
    case Type::bf16: return 2;
    case Type::i8: return 1;
    default: return 0;
    }
}

int32_t traced_dtype(Type type) {
    switch (type) {
    case Type::f16: return BITNET_DTYPE_F16;
    case Type::bf16: return BITNET_DTYPE_BF16;
    case Type::i8: return BITNET_DTYPE_I8;
    case Type::i32: return BITNET_DTYPE_I32;
    default: return BITNET_DTYPE_F32;
    }
}

}  // namespace bitnet::shim
