// What a graph computes, in canonical stages: found by the names of weights and by operations, never by the names of
// results, which differ from version to version.
#pragma once

#include "shim/engine.h"

namespace bitnet::shim {

constexpr int kInputsOfStageMax = 3;
constexpr int kLayersMax = 512;

// How rows lie in a tensor.
enum class Rows : uint8_t {
    dense,    // one row after another, whatever dimensions a row has
    heads,    // (head, row, value): the values of a row are gathered from its heads
    softmax,  // (head, row, cached position): likewise, the first `position + 1` of each
    scores,   // the same, times the scale of the softmax
    keys,     // (position, head, value) of the cache: the same for all rows, the first `position + 1`
    values,   // the cache of values, in either order of dimensions: likewise, gathered as keys
};

struct Input {
    const Tensor *tensor;
    int32_t stage;  // BITNET_STAGE_..., 0: none
    Rows rows;
};

// One stage of one layer, in the order of the graph.
struct Item {
    Tensor *node;
    int32_t stage, layer;
    int32_t order;  // of its node in the graph
    Rows rows;
    uint8_t n_inputs;
    bool overwritten;  // a later operation works in place: only a callback sees it
    float scale;       // of Rows::scores
    Input inputs[kInputsOfStageMax];
};

struct LayerShape {
    int64_t head_dim, n_head, n_head_kv;
};

struct Plan {
    Graph *graph;  // NULL: no plan
    int n_nodes;
    bool is_llama;   // token embeddings or blocks of weights were met
    bool is_late;    // its memory was allotted unseen
    bool is_marked;  // before its memory was allotted
    bool use_callback;
    bool has_flash_attention;

    Item *items;
    int n_items;
    const Tensor *tokens;     // ids of the rows; NULL: embeddings were given
    const Tensor *positions;  // of the rows
    const Tensor *outputs;    // indexes of the rows that the last layer keeps; NULL: all
    const Tensor *mask;       // [cached positions, rows]: what attention may see
    const Tensor *embedding_weight;
    const Tensor *logits;                     // whether they are selected or not; NULL: the graph has none
    const Tensor *cache_keys, *cache_values;  // whole, of one layer
    const Tensor *keys;                       // what attention reads of them, of the same layer
    uint64_t cache_bytes;                     // of all layers
    int n_layers;
    LayerShape heads;
    float eps, theta;  // as the operations have them; 0: unknown
    int32_t n_rot;
};

void plan_free(Plan *plan);
// Reads the graph. False: out of memory; the plan is then empty, as after plan_free().
bool plan_make(Plan *plan, Engine *engine, Graph *graph);

// Stage of a weight, "blk.3.attn_q.weight": BITNET_STAGE_Q_PROJ and layer 3. 0: of none.
int32_t stage_of_weight(const char *name, int32_t *layer);

}  // namespace bitnet::shim
