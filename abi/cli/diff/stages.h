// The stages a trace may name, in execution order, and what each is computed from: the map that turns "these records
// differ" into "this operation is wrong". Same order and names as the public header and the trace format.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace bitnet::diff {

// A node is a stage or one of its integer companions. Nodes of a layer ascend in execution order, and every input of a
// node has a smaller number or stands in an earlier layer or position: one ascending pass sees inputs before users.
using Node = uint8_t;
inline constexpr int kNodeLimit = 128;  // node < kNodeLimit
inline constexpr int kNoNode = -1;

// How an input is reached from the node that reads it.
enum class From : uint8_t {
    here,            // same layer, same position
    residual,        // layer_out of the layer before, embeddings for layer 0
    last_layer,      // layer_out of the last layer
    every_position,  // this layer's K or V of this and all earlier positions
};

struct StageInput {
    Node node;
    From from;
};

enum class StageClass : uint8_t {
    embedding,
    norm,
    linear,
    rope,
    attention,
    activation,
    residual,
    head,
    scale,
    codes,
    accumulator
};

struct Stage {
    Node node;
    std::string_view name;
    std::string_view what;  // for people
    StageClass stage_class;
    bool in_layer;     // false: belongs to no block, layer -1
    bool skippable;    // often not recorded or not in the architecture: readers then look through it at its own inputs
    uint8_t n_inputs;  // 0: computed from the token id
    StageInput inputs[2];
};

// All stages in execution order; the in-layer ones are contiguous.
std::span<const Stage> stages();
// NULL when there is no such stage.
const Stage *find_stage(std::string_view name);
const Stage *find_stage(int node);

Node embeddings_node();
Node layer_out_node();
Node logits_node();
// BitNet-rs's name for the last layer's layer_out, given with layer -2.
inline constexpr std::string_view kAllLayersOut = "all_layers_out";
inline constexpr int kAllLayersOutLayer = -2;

// Whether a switch of the engine's semantics ("activation", "eps", ...) can change what this stage computes. A switch
// this table does not know may change any.
bool semantics_key_affects(std::string_view key, const Stage &stage);

// A record's place in its trace, ordered by run, position and execution: comparing keys is comparing execution order.
// Bits, high to low: run 16, position 28, layer 13 (0 before the layers, layer + 1, or last), node 7.
using Key = uint64_t;
inline constexpr int kMaxRuns = 1 << 16;
inline constexpr int64_t kMaxPositions = int64_t(1) << 28;
inline constexpr int kMaxLayers = 4096;  // no model has more; bounds the work on a damaged trace

// `layer` must fit `stage`: 0..kMaxLayers-1 when in_layer, else it is not looked at.
Key make_key(int run, int64_t position, int layer, const Stage &stage);
// Of the last layer's output while the number of layers is unknown.
Key make_last_layer_key(int run, int64_t position);
bool is_last_layer_key(Key key);
int run_of(Key key);
int position_of(Key key);
int layer_of(Key key);  // -1: of no block
Node node_of(Key key);
// Smallest key of the position after this key's.
Key next_position(Key key);

}  // namespace bitnet::diff
