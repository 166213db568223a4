#include "core/show.h"

#include "bitnet_c.h"

namespace bitnet {

static_assert(BITNET_DTYPE_F32 == 0);

void emit(State &s, const Rows &rows, int stage, int layer, int dtype, void *data, int width, int heads,
          const char *kernel) {
    StageRows e;
    e.stage = stage;
    e.layer = layer;
    e.dtype = dtype;
    e.data = data;
    e.row_stride = size_t(width) * (dtype == BITNET_DTYPE_I8 ? 1 : 4);
    e.n_rows = rows.n;
    e.first_row = rows.first_row;
    e.first_position = rows.first_position;
    e.n_dims = heads ? 2 : 1;
    e.shape[0] = heads ? heads : width;
    e.shape[1] = heads ? width / heads : 1;
    e.kernel = kernel;
    s.tracer->emit(e);
}

}  // namespace bitnet
