#include "shim/session.h"

#include <dlfcn.h>
#include <pthread.h>

#include <cstdlib>
#include <cstring>

#include "shim/environment.h"
#include "shim/logits_check.h"
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
    image_free(&s->image);
    free(s->marked.data);
    free(s->row_memory.data);
    free(s->expected.data);
    for (Buffered &buffer : s->cells_memory) free(buffer.data);
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
        if (slash)
            *slash = 0;
        else
            path[0] = 0;
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

// Marks what choose_marks() chose: in each graph that is built anew, as marks are tensors' own.
void mark(Session *s) {
    Tensor **tensors = static_cast<Tensor **>(s->marked.data);
    for (size_t i = 0; i < s->n_marked; ++i) s->engine->set_output(tensors[i]);
}

// What is wanted, and what it was computed from: its memory is to be kept until the graph has run. All of it, or when
// that is more than the settings allow nothing: false.
bool choose_marks(Session *s) {
    const Plan &plan = s->plan;
    Engine *engine = s->engine;
    s->n_marked = 0;
    const Tensor **roots =
        static_cast<const Tensor **>(s->marked.get(sizeof(Tensor *) * size_t(plan.n_items) * (1 + kInputsOfStageMax)));
    if (!roots) return plan.n_items == 0;
    size_t n = 0;
    for (int i = 0; i < plan.n_items; ++i) {
        const Item &item = plan.items[i];
        roots[n++] = engine->root(item.node);
        for (int k = 0; k < item.n_inputs; ++k) roots[n++] = engine->root(item.inputs[k].tensor);
    }
    qsort(roots, n, sizeof roots[0], compare_pointers);
    uint64_t n_bytes = 0;
    size_t n_kept = 0;
    const Tensor *before = nullptr;
    for (size_t i = 0; i < n; ++i) {
        const Tensor *root = roots[i];
        if (root == before || engine->op(root) == Op::leaf) continue;  // inputs, weights, the cache: not ours to mark
        before = root;
        n_bytes += engine->nbytes(root);
        roots[n_kept++] = root;
    }
    if (n_bytes > settings().memory_bytes) {
        add(&counts.over_budget);
        return false;
    }
    s->n_marked = n_kept;
    return true;
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

// Only what is intact after the graph.
void keep_intact(Plan *plan) {
    int n = 0;
    for (int i = 0; i < plan->n_items; ++i) {
        if (!plan->is_marked || plan->items[i].overwritten) {
            add(&counts.overwritten);
        } else {
            plan->items[n++] = plan->items[i];
        }
    }
    plan->n_items = n;
}

void choose_mode(Session *s) {
    Plan &plan = s->plan;
    const Mode mode = settings().mode;
    if (plan.is_late) {
        s->n_marked = 0;
        plan.use_callback = mode != Mode::retain;
        if (!plan.use_callback) plan.n_items = 0;
        add(&counts.late_graphs);
        return;
    }
    plan.is_marked = plan.n_items > 0 && !plan.tokens ? false : choose_marks(s);
    bool overwritten = false;
    for (int i = 0; i < plan.n_items; ++i) overwritten |= plan.items[i].overwritten;
    plan.use_callback = mode == Mode::callback || (mode == Mode::automatic && (overwritten || !plan.is_marked));
    if (plan.is_marked) mark(s);
    if (!plan.use_callback) keep_intact(&plan);
}

// Its memory was allotted before it was looked at: too late to keep any of it.
bool is_late(const Session *s, bool in_time) {
    return !in_time && s->plan.tokens && s->engine->has_data(s->plan.tokens);
}

// Whether the plan is of this graph still. It depends on nothing that the image does not hold, but the settings, and
// what sinks want, which can only become less.
bool keep_plan(Session *s, Graph *graph, bool in_time) {
    if (!image_matches(s->image, s->engine, graph) || is_late(s, in_time) != s->plan.is_late) return false;
    if (s->plan.is_marked) mark(s);
    return true;
}

// False: this graph is not traced. `in_time`: before its memory is allotted.
bool make_plan(Session *s, Engine *engine, Graph *graph, bool in_time) {
    add(&counts.graphs);
    s->engine = engine;
    if (s->host && !trace_host_active(s->host)) {  // its plugins failed, or there were none
        plan_free(&s->plan);
        image_forget(&s->image);
        return false;
    }
    const bool kept = keep_plan(s, graph, in_time);
    if (!kept) {
        image_forget(&s->image);
        add(&counts.plans);
        if (!plan_make(&s->plan, engine, graph)) return false;
    }
    if (s->plan.is_llama) add(&counts.llama_graphs);
    if (s->plan.has_flash_attention && s->plan.is_llama) add(&counts.flash_graphs);
    if (kept) return s->plan.is_llama;
    if (s->plan.is_llama && (!make_host(s) || !trace_host_active(s->host))) return false;
    if (s->plan.is_llama) {
        keep_wanted(s);
        s->plan.is_late = is_late(s, in_time);
        choose_mode(s);
    }
    image_take(&s->image, engine, graph);
    return s->plan.is_llama;
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
    expect_items(s);
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
    if (!trace_host_run_open(s->host) || !rows.goes_on) {
        if (trace_host_run_open(s->host)) add(&counts.runs);
        TraceRun run = {};
        describe_run(s, &run);
        trace_host_begin_run(s->host, &run);
        ++s->n_runs;
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
    if (status == 0) note_logits(s);
    trace_host_end_step(s->host, status == 0 ? BITNET_OK : BITNET_E_USER);
    add(&counts.steps);
    add(&counts.events, after.n_events - before.n_events);
    write_status();
    return status;
}

// No sink learns anything of this graph: it selects none of its stages, and nobody asks for the steps themselves.
bool is_of_no_interest(const Session *s) {
    return s->plan.n_items == 0 && !settings().check_logits && trace_host_wants_tensors_alone(s->host);
}

int compute(Session *s, Engine *engine, Graph *graph, int (*real)(Scheduler *, Graph *)) {
    s->engine = engine;
    // A scheduler computes what it gave memory to, until it is told to begin again: it has its own list of those nodes,
    // and a graph that differed would not fit its memory. Each time that it gives memory, make_plan() compares the
    // graph as a whole; so between that and the next beginning the plan is this graph's. Where the memory was given
    // unseen, or will be given within this call, it is compared now.
    if (s->allotted != graph) make_plan(s, engine, graph, false);
    if (!s->plan.is_llama || !s->host || !trace_host_active(s->host)) return real(s->scheduler, graph);
    if (is_of_no_interest(s)) {
        add(warming_up ? &counts.warm_ups : &counts.steps);
        write_status();
        return real(s->scheduler, graph);
    }
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
    make_plan(s, engine, graph, true);
    s->allotted = graph;
    leave(s);
}

void session_forget_allocation(Scheduler *scheduler) {
    pthread_mutex_lock(&mutex);
    if (Session *s = find(scheduler)) s->allotted = nullptr;
    pthread_mutex_unlock(&mutex);
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
