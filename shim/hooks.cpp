// The functions that are interposed: those that libllama calls in libggml, and the few by which a program tells what we
// would otherwise have to guess. Each finds the engine by its caller, so that a library opened with RTLD_LOCAL, which
// no lookup by name reaches, and several copies in one process get their own functions back.
#include <cstddef>

#include "shim/engine.h"
#include "shim/environment.h"
#include "shim/model_file.h"
#include "shim/report.h"
#include "shim/session.h"
#include "shim/static_program.h"

using namespace bitnet::shim;

namespace {

// An engine's function may call another one that is hooked too: only the outermost call counts.
__thread int depth;

struct Depth {
    Depth() { ++depth; }
    ~Depth() { --depth; }
    static bool inside() { return depth > 0; }
};

constexpr int kFailed = -1;  // GGML_STATUS_FAILED

// Also where nothing is traced, so that a traced run can be compared with one that computes the same.
bool avoids_flash(const Engine *engine) { return settings().no_flash && !engine->why; }

bool is_traced(const Engine *engine) { return !engine->why && !Depth::inside() && active(); }

}  // namespace

#define HOOK extern "C" __attribute__((visibility("default")))
// Preloaded, a hook has the name that is called. Linked into the program it stands beside the engine's own function,
// and the linker leads calls to it (linked.options).
#ifdef BITNET_SHIM_LINKED
#define HOOKED(name) __wrap_##name
#else
#define HOOKED(name) name
#endif
#define CALLER __builtin_extract_return_addr(__builtin_return_address(0))

// The engine around `caller`, if it has the function that was called. It always has: the loader found this one in its
// place.
static Engine *engine_with(const void *caller, void *(*function)(const Engine &)) {
    Engine *engine = engine_of(caller, reinterpret_cast<const void *>(&engine_with));
    return engine && function(*engine) ? engine : nullptr;
}

// A call at the end of a function leaves no trace of it: whoever called before it seems to be the caller. So a
// scheduler keeps the engine that was found for it first.
static Engine *engine_for(Scheduler *scheduler, const void *caller, void *(*function)(const Engine &)) {
    Engine *engine = active() ? session_engine(scheduler) : nullptr;
    return engine && function(*engine) ? engine : engine_with(caller, function);
}

#define ENGINE_FOR(scheduler, field)                                                                                   \
    engine_for(scheduler, CALLER, [](const Engine &e) { return reinterpret_cast<void *>(e.field); })
#define ENGINE_WITH(field) engine_with(CALLER, [](const Engine &e) { return reinterpret_cast<void *>(e.field); })

HOOK bool HOOKED(ggml_backend_sched_alloc_graph)(Scheduler *scheduler, Graph *graph) {
    Engine *engine = ENGINE_FOR(scheduler, sched_alloc_graph);
    if (!engine) return false;
    if (is_traced(engine)) session_before_allocation(engine, scheduler, graph);
    Depth inside;
    return engine->sched_alloc_graph(scheduler, graph);
}

HOOK bool HOOKED(ggml_backend_sched_reserve)(Scheduler *scheduler, Graph *graph) {
    Engine *engine = ENGINE_FOR(scheduler, sched_reserve);
    if (!engine) return false;
    const bool traced = is_traced(engine);
    if (traced) session_before_allocation(engine, scheduler, graph);
    Depth inside;
    const bool reserved = engine->sched_reserve(scheduler, graph);
    if (traced) session_forget_allocation(scheduler);  // only its size was found
    return reserved;
}

HOOK void HOOKED(ggml_backend_sched_reserve_size)(Scheduler *scheduler, Graph *graph, size_t *sizes) {
    Engine *engine = ENGINE_FOR(scheduler, sched_reserve_size);
    if (!engine) return;
    const bool traced = is_traced(engine);
    if (traced) session_before_allocation(engine, scheduler, graph);
    Depth inside;
    engine->sched_reserve_size(scheduler, graph, sizes);
    if (traced) session_forget_allocation(scheduler);
}

HOOK void HOOKED(ggml_backend_sched_reset)(Scheduler *scheduler) {
    Engine *engine = ENGINE_FOR(scheduler, sched_reset);
    if (!engine) return;
    if (is_traced(engine)) session_forget_allocation(scheduler);
    Depth inside;
    engine->sched_reset(scheduler);
}

HOOK int HOOKED(ggml_backend_sched_graph_compute)(Scheduler *scheduler, Graph *graph) {
    Engine *engine = ENGINE_FOR(scheduler, sched_graph_compute);
    if (!engine) return kFailed;
    const bool traced = is_traced(engine);
    Depth inside;
    if (!traced) return engine->sched_graph_compute(scheduler, graph);
    return session_compute(engine, scheduler, graph, engine->sched_graph_compute);
}

HOOK int HOOKED(ggml_backend_sched_graph_compute_async)(Scheduler *scheduler, Graph *graph) {
    Engine *engine = ENGINE_FOR(scheduler, sched_graph_compute_async);
    if (!engine) return kFailed;
    const bool traced = is_traced(engine);
    Depth inside;
    if (!traced) return engine->sched_graph_compute_async(scheduler, graph);
    return session_compute(engine, scheduler, graph, engine->sched_graph_compute_async);
}

HOOK void HOOKED(ggml_backend_sched_set_eval_callback)(Scheduler *scheduler, EvalCallback callback, void *user) {
    Engine *engine = ENGINE_FOR(scheduler, sched_set_eval_callback);
    if (!engine) return;
    if (is_traced(engine)) session_set_callback(engine, scheduler, callback, user);
    engine->sched_set_eval_callback(scheduler, callback, user);
}

HOOK void HOOKED(ggml_backend_sched_free)(Scheduler *scheduler) {
    Engine *engine = ENGINE_FOR(scheduler, sched_free);
    if (!engine) return;
    if (!engine->why && active()) session_end(scheduler);
    engine->sched_free(scheduler);
}

// Asked for a node of attention, to see whether a backend can compute it: without an answer it is computed step by
// step.
HOOK Backend *HOOKED(ggml_backend_sched_get_tensor_backend)(Scheduler *scheduler, Tensor *node) {
    Engine *engine = ENGINE_FOR(scheduler, sched_get_tensor_backend);
    if (!engine) return nullptr;
    if (avoids_flash(engine) && engine->op(node) == Op::flash_attn) return nullptr;
    return engine->sched_get_tensor_backend(scheduler, node);
}

// The answer above is passed on to this function, which newer versions do not let be NULL.
HOOK void *HOOKED(ggml_backend_get_device)(Backend *backend) {
    Engine *engine = ENGINE_WITH(get_device);
    if (!engine) return nullptr;
    if (!backend && avoids_flash(engine)) return nullptr;
    return engine->get_device(backend);
}

HOOK Gguf *HOOKED(gguf_init_from_file)(const char *path, GgufInitParams params) {
    Engine *engine = ENGINE_WITH(gguf_init_from_file);
    if (!engine) return nullptr;
    Gguf *gguf = engine->gguf_init_from_file(path, params);
    if (gguf && is_traced(engine)) model_file_opened(*engine, path, gguf);
    return gguf;
}

HOOK void HOOKED(llama_set_warmup)(void *context, bool warming_up) {
    Engine *engine = ENGINE_WITH(set_warmup);
    if (!engine) return;
    set_warming_up(warming_up);
    engine->set_warmup(context, warming_up);
}

#ifndef BITNET_SHIM_LINKED
namespace bitnet::shim {

const Hook hooks[] = {
#define BITNET_HOOKED(name) {#name, reinterpret_cast<const void *>(&name)},
#include "shim/hooked_functions.inc"
#undef BITNET_HOOKED
    {nullptr, nullptr},
};

}  // namespace bitnet::shim
#endif
