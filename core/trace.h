// How the forward pass shows its intermediate tensors. core/ knows neither sinks nor plugins: abi/ implements Tracer.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitnet {

// One stage of consecutive token rows, still in the engine's buffers.
struct StageRows {
    int stage = 0;  // BITNET_STAGE_..., with companions
    int layer = -1;
    int dtype = 0;          // BITNET_DTYPE_...
    void *data = nullptr;   // row r at (char *)data + r * row_stride; a sink may replace values before we go on
    size_t row_stride = 0;  // bytes
    int n_rows = 0;
    int first_row = 0;  // index of row 0 in the eval
    int first_position = 0;
    int shape[2] = {0, 0};  // of one row, outermost first; n_dims of them
    int n_dims = 0;
    const char *kernel = "";
};

class Tracer {
public:
    virtual ~Tracer() = default;
    // Whether any row in [first_position, first_position + n_rows) of this stage is wanted.
    virtual bool wants(int stage, int layer, int first_position, int n_rows) noexcept = 0;
    virtual void emit(const StageRows &rows) noexcept = 0;
    // Asked between layers: why the evaluation should stop; null: it should not.
    virtual const char *stop_reason() noexcept = 0;
};

}  // namespace bitnet
