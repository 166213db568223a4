// One operation of the forward pass, recomputed from inputs that somebody recorded: what shows whether another engine's
// operation is right, whatever happened before it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/alternatives.h"

namespace bitnet {

// What an operation is computed from. `layer` is where it is recorded, -1 for embeddings and final_norm.
struct OperationInput {
    int stage;
    int layer;
    bool every_position;  // rows of positions 0 to the largest asked for, whichever rows are computed
};

struct OperationInfo {
    int stage;  // that it computes, companions included
    int layer;
    int dtype;
    int n_inputs;  // 0: token ids
    OperationInput inputs[3];
    size_t row_elements;  // 0: n_head * (position + 1)
};

// Rows as somebody recorded them: row r at (const char *)data + r * row_stride.
struct RecordedRows {
    int stage;  // 0: token ids
    int dtype;
    size_t n_rows;
    size_t row_elements;
    size_t row_stride;  // bytes
    const void *data;
};

struct ReplayRequest {
    int stage;
    int layer;
    std::span<const RecordedRows> inputs;
    const int32_t *positions;  // of the rows; null: 0, 1, 2, ...
};

class Replay {
public:
    // Throws Error(invalid) for semantics that this model cannot have.
    Replay(std::shared_ptr<const Model> model, const Kernels &kernels, Semantics semantics);

    const Semantics &semantics() const { return semantics_; }
    // Every operation in execution order, by these semantics.
    const std::vector<OperationInfo> &operations() const { return operations_; }
    // Throws Error(invalid) naming the stage and the layers that have it.
    const OperationInfo &find(int stage, int layer) const;

    // Checks a request; the elements of its output, of the operation's dtype. Throws Error(invalid).
    size_t size_of(const ReplayRequest &request) const;
    // Writes that many elements. Rows one after another.
    void run(const ReplayRequest &request, void *out) const;

private:
    class Call;
    void list_operations();
    void list_layer(int layer);

    const std::shared_ptr<const Model> model_;
    const Kernels &kernels_;
    const Semantics semantics_;
    std::vector<OperationInfo> operations_;
};

}  // namespace bitnet
