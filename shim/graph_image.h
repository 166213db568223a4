// Whether a graph is the one that a plan was made of. An engine builds its graph anew for each token, mostly the same
// one in the same memory; to look at that costs a third of planning it.
#pragma once

#include "shim/buffered.h"
#include "shim/engine.h"

namespace bitnet::shim {

// A copy of all that a plan depends on: of each node, and of each tensor that is reached from one by sources and views,
// what plan.cpp can ask of it. Zeroed, it is an image of nothing.
struct GraphImage {
    Graph *graph;
    int n_nodes;
    size_t n_tensors;  // the nodes first, in order; every other one after a tensor that leads to it
    Buffered tensors, names, table;
};

// Takes the place of what the image was of before; without memory, or of a graph with holes, it is then of nothing.
void image_take(GraphImage *image, Engine *engine, Graph *graph);
void image_forget(GraphImage *image);
void image_free(GraphImage *image);

// True: a plan made when the image was taken is what plan_make() would make now. Every field is compared, so this is no
// guess. No pointer is followed that was not found equal before: what the image remembers may be gone.
bool image_matches(const GraphImage &image, Engine *engine, Graph *graph);

}  // namespace bitnet::shim
