// One scheduler of the engine being traced: its plan, its host with the sinks, and where its run stands. A scheduler is
// used by one thread at a time; several may compute at once, each with a session of its own.
#pragma once

#include "plugins/host/trace_host.h"
#include "shim/buffered.h"
#include "shim/graph_image.h"
#include "shim/model_file.h"
#include "shim/plan.h"

namespace bitnet::shim {

constexpr int kScratches = 3 + kInputsOfStageMax;  // the node, an input's heads, each input, gathered heads

// The rows of the graph under way.
struct StepRows {
    int32_t *tokens;     // NULL: embeddings were given
    int32_t *positions;  // consecutive
    int32_t *outputs;    // NULL: all rows are kept to the end
    bool *sees_prefix;   // attention sees cached positions 0 to its own, in this order; NULL: nobody asks
    int32_t n, n_outputs;
    bool goes_on;  // the first row is of the sequence, and next to the position, that the step before ended with
};

// Which cached positions a row sees: by it the sequence is known that it belongs to.
struct SeenCells {
    uint64_t *bits;
    int32_t n_words, n_seen;
    const void *cache;  // of the sequence, where each has its own
};

struct Session {
    Scheduler *scheduler;
    Session *next;
    TraceHost *host;  // NULL: not made yet
    bool is_busy;     // a graph is under way
    bool is_dead;     // could not be made: passes everything through
    Plan plan;
    GraphImage image;  // of the graph that the plan was made of
    Buffered marked;   // what the plan keeps to the end: n_marked tensors
    size_t n_marked;
    Graph *allotted;                    // has its memory now, and was looked at before; NULL: none
    EvalCallback application_callback;  // what the program itself has set
    void *application_user;

    // Of the graph under way.
    Engine *engine;
    StepRows rows;
    int32_t next_item;       // in callback mode
    bool application_asked;  // for the node that was asked about last

    int32_t next_position;  // in the open run
    uint32_t n_runs;        // begun so far
    SeenCells last_seen;    // by the last row of the step before; no bits: unknown
    Buffered row_memory, expected, cells_memory[2], scratch[kScratches];
};

// Names where the model came from, once per run.
void describe_run(Session *session, TraceRun *run);

// When the graph has run: tells the host which rows emit_item is about to give.
void expect_items(Session *session);

// Gives a node's rows, all of which must be readable now.
void emit_item(Session *session, const Item &item, bool after_the_graph);

// The hooks, in terms of sessions. `real` is the engine's own function.
void session_before_allocation(Engine *engine, Scheduler *scheduler, Graph *graph);
void session_forget_allocation(Scheduler *scheduler);  // what had its memory must be given it again
int session_compute(Engine *engine, Scheduler *scheduler, Graph *graph, int (*real)(Scheduler *, Graph *));
void session_set_callback(Engine *engine, Scheduler *scheduler, EvalCallback callback, void *user);
Engine *session_engine(Scheduler *scheduler);  // NULL: not seen yet
void session_end(Scheduler *scheduler);

// This thread computes a warm-up, until told otherwise.
void set_warming_up(bool warming_up);

}  // namespace bitnet::shim
