#include "shim/session.h"

#include <dlfcn.h>
#include <pthread.h>

#include <cstdlib>
#include <cstring>

#include "shim/environment.h"
#include "shim/report.h"
#include "shim/rows.h"

namespace bitnet::shim {

namespace {

pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;  // of the list, and of is_busy
Session *sessions;
__thread bool warming_up;

Session *find(Scheduler *scheduler) {
    Session *s = sessions;
    while (s && s->scheduler != scheduler) s = s->next;
    return s;
}

Session *find_or_add(Scheduler *scheduler) {
    pthread_mutex_lock(&mutex);
    Session *s = find(scheduler);
    if (!s && (s = static_cast<Session *>(calloc(1, sizeof(Session))))) {
        s->scheduler = scheduler;
        s->next = sessions;
        sessions = s;
    }
    pthread_mutex_unlock(&mutex);
    return s;
}

// False when another thread is inside, or the process ends: then the call is passed through.
bool enter(Session *s) {
    pthread_mutex_lock(&mutex);
    const bool entered = !s->is_busy && active();
    if (entered) s->is_busy = true;
    pthread_mutex_unlock(&mutex);
    return entered;
}

void leave(Session *s) {
    pthread_mutex_lock(&mutex);
    s->is_busy = false;
    pthread_mutex_unlock(&mutex);
}

void free_session(Session *s) {
    if (s->host) {
        if (trace_host_run_open(s->host)) add(&counts.runs);
        trace_host_destroy(s->host);
    }
    plan_free(&s->plan);
    free(s->row_memory.data);
    for (Buffered &buffer : s->scratch) free(buffer.data);
    free(s);
}

// exit() was called: what is traced ends here, as after it the plugins' own exit handlers run. A thread that computes
// keeps its session; its run has no end.
void end_all() {
    if (!active()) return;
    become_inactive();
    pthread_mutex_lock(&mutex);
    for (Session *s = sessions; s; s = s->next) {
        if (s->is_busy || !s->host) continue;
        if (trace_host_run_open(s->host)) add(&counts.runs);
        trace_host_destroy(s->host);
        s->host = nullptr;
    }
    pthread_mutex_unlock(&mutex);
}

void log_line(void *, int32_t level, const char *text) {
    if (level <= BITNET_LOG_WARN) set_last_failure(text);
    if (level == BITNET_LOG_ERROR) add(&counts.failures);
    say("%s", text);
}

// Folder that holds bitnet/plugins, the one above the interposer's own; empty when it cannot be told.
char library_folder_path[4096];

void find_library_folder() {
    Dl_info info;
    char *path = library_folder_path;
    if (!dladdr(reinterpret_cast<const void *>(&find_library_folder), &info) || !realpath(info.dli_fname, path)) {
        path[0] = 0;
        return;
    }
    for (int i = 0; i < 2; ++i) {
        char *slash = strrchr(path, '/');
        if (slash) *slash = 0;
        else path[0] = 0;
    }
}

// Threads with a context each come here at the same time.
const char *library_folder() {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_library_folder);
    return library_folder_path;
}

bool make_host(Session *s) {
    if (s->host || s->is_dead) return s->host != nullptr;
    s->host = trace_host_create(library_folder(), log_line, nullptr);
    if (s->host) {
        trace_host_attach_environment(s->host);
        // After the plugins were loaded, so that it runs before exit handlers of theirs.
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        pthread_once(&once, [] { atexit(end_all); });
    }
    s->is_dead = !s->host;
    return s->host != nullptr;
}

int compare_pointers(const void *a, const void *b) {
    const uintptr_t x = *static_cast<const uintptr_t *>(a), y = *static_cast<const uintptr_t *>(b);
    return (x > y) - (x < y);
}

// Keeps the memory of what is wanted, and of what it was computed from, until the graph has run: all of it, or when
// that is more than the settings allow nothing.
bool mark(Session *s) {
    const Plan &plan = s->plan;
    Engine *engine = s->engine;
    const Tensor **roots =
        static_cast<const Tensor **>(malloc(sizeof(Tensor *) * size_t(plan.n_items) * (1 + kInputsOfStageMax)));
    if (!roots) return false;
    size_t n = 0;
    for (int i = 0; i < plan.n_items; ++i) {
        const Item &item = plan.items[i];
        roots[n++] = engine->root(item.node);
        for (int k = 0; k < item.n_inputs; ++k) roots[n++] = engine->root(item.inputs[k].tensor);
    }
    qsort(roots, n, sizeof roots[0], compare_pointers);
    uint64_t n_bytes = 0;
    size_t n_kept = 0;
    for (size_t i = 0; i < n; ++i) {
        if (i > 0 && roots[i] == roots[i - 1]) continue;
        if (engine->op(roots[i]) == Op::leaf) continue;  // inputs, weights, the cache: not ours to mark
        n_bytes += engine->nbytes(roots[i]);
        roots[n_kept++] = roots[i];
    }
    const bool fits = n_bytes <= settings().memory_bytes;
    if (fits) {
        for (size_t i = 0; i < n_kept; ++i) engine->set_output(const_cast<Tensor *>(roots[i]));
    } else {
        add(&counts.over_budget);
    }
    free(roots);
    return fits;
}

// Items that nobody wants at any position go; a graph of another kind has none.
void keep_wanted(Session *s) {
    Plan &plan = s->plan;
    int n = 0;
    uint32_t stages = 0;
    for (int i = 0; i < plan.n_items; ++i) {
        Item &item = plan.items[i];
        stages |= uint32_t(1) << item.stage;
        if (settings().inputs == Inputs::none) item.n_inputs = 0;
        if (trace_host_selects_layer(s->host, item.stage, item.layer)) plan.items[n++] = item;
    }
    plan.n_items = n;
    __atomic_fetch_or(&counts.stages_seen, stages, __ATOMIC_RELAXED);
}

void choose_mode(Session *s) {
    Plan &plan = s->plan;
    const Mode mode = settings().mode;
    plan.is_marked = plan.n_items > 0 && !plan.tokens ? false : mark(s);
    bool overwritten = false;
    for (int i = 0; i < plan.n_items; ++i) overwritten |= plan.items[i].overwritten;
    plan.use_callback = mode == Mode::callback || (mode == Mode::automatic && (overwritten || !plan.is_marked));
    if (plan.use_callback) return;
    // Only what is intact after the graph.
    int n = 0;
    for (int i = 0; i < plan.n_items; ++i) {
        if (!plan.is_marked || plan.items[i].overwritten) {
            add(&counts.overwritten);
        } else {
            plan.items[n++] = plan.items[i];
        }
    }
    plan.n_items = n;
}

// False: this graph is not traced.
bool make_plan(Session *s, Engine *engine, Graph *graph) {
    add(&counts.graphs);
    s->engine = engine;
    if (s->host && !trace_host_active(s->host)) {  // its plugins failed, or there were none
        plan_free(&s->plan);
        return false;
    }
    if (!plan_make(&s->plan, engine, graph) || !s->plan.is_llama) return false;
    add(&counts.llama_graphs);
    if (!make_host(s) || !trace_host_active(s->host)) return false;
    if (s->plan.has_flash_attention) add(&counts.flash_graphs);
    keep_wanted(s);
    choose_mode(s);
    return true;
}

bool plan_fits(const Session *s, const Engine *engine, Graph *graph) {
    return s->plan.graph == graph && s->plan.n_nodes == engine->graph_n_nodes(graph);
}

bool is_warm_up(Session *s) {
    if (warming_up) return true;
    const StepRows &rows = s->rows;
    if (s->next_position != 0 || rows.n != 2 || !rows.tokens || rows.positions[0] != 0) return false;
    // Older versions say nothing: they evaluate BOS and EOS, and clear the cache.
    const ModelFile *file = model_file_of(*s->engine, s->plan.embedding_weight);
    return file && rows.tokens[0] == file->bos && rows.tokens[1] == file->eos;
}

int32_t on_node(Session *s, Tensor *tensor, bool ask) {
    const Plan &plan = s->plan;
    // Nodes come in the order of the graph.
    int at = s->next_item;
    while (at < plan.n_items && plan.items[at].node != tensor) ++at;
    const bool ours = at < plan.n_items;
    if (ask) return ours;
    if (ours) {
        emit_item(s, plan.items[at], false);
        s->next_item = at + 1;
    }
    return 1;
}

// In place of the program's own callback, which it asks as well.
int on_evaluation(Tensor *tensor, bool ask, void *user) {
    Session *s = static_cast<Session *>(user);
    const int ours = on_node(s, tensor, ask);
    if (!s->application_callback) return ours;
    if (ask) {
        s->application_asked = (s->application_callback(tensor, true, s->application_user) & 0xff) != 0;
        return ours || s->application_asked;
    }
    if (!s->application_asked) return 1;
    return (s->application_callback(tensor, false, s->application_user) & 0xff) != 0;
}

int compute_retaining(Session *s, Graph *graph, int (*real)(Scheduler *, Graph *)) {
    const int status = real(s->scheduler, graph);
    if (status != 0) return status;
    s->engine->sched_synchronize(s->scheduler);
    for (int i = 0; i < s->plan.n_items; ++i) emit_item(s, s->plan.items[i], true);
    return status;
}

int compute_with_callback(Session *s, Graph *graph, int (*real)(Scheduler *, Graph *)) {
    add(&counts.callback_steps);
    s->next_item = 0;
    s->engine->sched_set_eval_callback(s->scheduler, on_evaluation, s);
    const int status = real(s->scheduler, graph);
    s->engine->sched_synchronize(s->scheduler);
    s->engine->sched_set_eval_callback(s->scheduler, s->application_callback, s->application_user);
    return status;
}

void begin_step(Session *s) {
    const StepRows &rows = s->rows;
    if (!trace_host_run_open(s->host) || rows.positions[0] < s->next_position) {
        if (trace_host_run_open(s->host)) add(&counts.runs);
        TraceRun run = {};
        describe_run(s, &run);
        trace_host_begin_run(s->host, &run);
    }
    trace_host_begin_step(s->host, rows.positions[0], rows.tokens, uint64_t(rows.n));
    s->next_position = rows.positions[rows.n - 1] + 1;
}

void show_cache(Session *s) {
    const Plan &plan = s->plan;
    const StepRows &rows = s->rows;
    if (!plan.cache_keys) return;
    bitnet_kv_state_t kv = {};
    const int64_t *ne = s->engine->ne(plan.cache_keys);
    const int64_t width = plan.heads.head_dim * plan.heads.n_head_kv;
    const int64_t n_cells = width > 0 ? ne[0] * ne[1] * ne[2] * ne[3] / width : 0;
    kv.n_valid = s->next_position;
    kv.n_max = int32_t(n_cells);
    kv.n_bytes = plan.cache_bytes;
    kv.n_bytes_used = n_cells > 0 ? plan.cache_bytes / uint64_t(n_cells) * uint64_t(kv.n_valid) : 0;
    kv.n_hits = uint64_t(rows.positions[0]);
    kv.n_misses = uint64_t(rows.n);
    trace_host_kv_state(s->host, s->next_position - 1, &kv);
}

int trace_graph(Session *s, Graph *graph, int (*real)(Scheduler *, Graph *)) {
    bitnet_trace_stats_t before = {}, after = {};
    begin_step(s);
    trace_host_stats(s->host, &before);
    const int status = s->plan.use_callback ? compute_with_callback(s, graph, real) : compute_retaining(s, graph, real);
    trace_host_stats(s->host, &after);
    if (status == 0) show_cache(s);
    trace_host_end_step(s->host, status == 0 ? BITNET_OK : BITNET_E_USER);
    add(&counts.steps);
    add(&counts.events, after.n_events - before.n_events);
    write_status();
    return status;
}

int compute(Session *s, Engine *engine, Graph *graph, int (*real)(Scheduler *, Graph *)) {
    s->engine = engine;
    if (!plan_fits(s, engine, graph)) {
        // It was not seen before its memory was allotted, unless that happens now.
        make_plan(s, engine, graph);
        if (s->plan.tokens && engine->has_data(s->plan.tokens)) {
            s->plan.is_marked = false;
            s->plan.use_callback = settings().mode != Mode::retain;
            if (!s->plan.use_callback) s->plan.n_items = 0;
            add(&counts.late_graphs);
        }
    }
    if (!s->plan.is_llama || !s->host || !trace_host_active(s->host)) return real(s->scheduler, graph);
    if (!read_rows(s)) return real(s->scheduler, graph);
    if (is_warm_up(s)) {
        add(&counts.warm_ups);
        write_status();
        return real(s->scheduler, graph);
    }
    return trace_graph(s, graph, real);
}

}  // namespace

void *Buffered::get(size_t n_bytes) {
    if (n_bytes <= capacity) return data;
    void *larger = realloc(data, n_bytes);
    if (!larger) return nullptr;
    data = larger;
    capacity = n_bytes;
    return data;
}

void session_before_allocation(Engine *engine, Scheduler *scheduler, Graph *graph) {
    Session *s = find_or_add(scheduler);
    if (!s || s->is_dead || !enter(s)) return;
    make_plan(s, engine, graph);
    leave(s);
}

int session_compute(Engine *engine, Scheduler *scheduler, Graph *graph, int (*real)(Scheduler *, Graph *)) {
    Session *s = find_or_add(scheduler);
    if (!s || s->is_dead || !enter(s)) return real(scheduler, graph);
    const int status = compute(s, engine, graph, real);
    leave(s);
    return status;
}

Engine *session_engine(Scheduler *scheduler) {
    pthread_mutex_lock(&mutex);
    Session *s = find(scheduler);
    Engine *engine = s ? s->engine : nullptr;
    pthread_mutex_unlock(&mutex);
    return engine;
}

void session_set_callback(Engine *engine, Scheduler *scheduler, EvalCallback callback, void *user) {
    Session *s = find_or_add(scheduler);
    if (!s) return;
    if (!s->engine) s->engine = engine;
    s->application_callback = callback;
    s->application_user = user;
}

void session_end(Scheduler *scheduler) {
    pthread_mutex_lock(&mutex);
    Session **link = &sessions;
    while (*link && (*link)->scheduler != scheduler) link = &(*link)->next;
    Session *s = *link;
    const bool ends = s && !s->is_busy;
    if (ends) *link = s->next;
    pthread_mutex_unlock(&mutex);
    if (!ends) return;
    free_session(s);
    write_status();
}

void set_warming_up(bool now) { warming_up = now; }

}  // namespace bitnet::shim
