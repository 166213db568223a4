#include "shim/rows.h"

#include <cstring>

#include "bitnet_c.h"
#include "shim/report.h"

namespace bitnet::shim {

namespace {

bool is_index_list(const Engine &engine, const Tensor *tensor) {
    Engine &e = const_cast<Engine &>(engine);
    return tensor && e.type(tensor) == Type::i32 && engine.has_data(tensor);
}

bool is_consecutive(const int32_t *positions, int n) {
    for (int i = 1; i < n; ++i) {
        if (positions[i] != positions[i - 1] + 1) return false;
    }
    return positions[0] >= 0;
}

// Masks are 0 for what may be seen and -infinity for the rest.
template <class Bits> bool sees_prefix(const Bits *row, int64_t n_cells, int32_t position) {
    if (position >= n_cells) return false;
    for (int64_t i = 0; i < n_cells; ++i) {
        if ((row[i] == 0) != (i <= position)) return false;
    }
    return true;
}

bool wants_cells(const Plan &plan) {
    for (int i = 0; i < plan.n_items; ++i) {
        if (plan.items[i].rows == Rows::softmax || plan.items[i].rows == Rows::scores) return true;
        for (int k = 0; k < plan.items[i].n_inputs; ++k) {
            if (plan.items[i].inputs[k].rows != Rows::dense) return true;
        }
    }
    return false;
}

void read_mask(Session *s) {
    Engine &engine = *s->engine;
    const Tensor *mask = s->plan.mask;
    StepRows &rows = s->rows;
    for (int r = 0; r < rows.n; ++r) rows.sees_prefix[r] = false;
    if (!mask || !wants_cells(s->plan) || !engine.has_data(mask)) return;
    const int64_t *ne = engine.ne(mask);
    const size_t stride = engine.nb(mask)[1];
    const size_t size = element_bytes(engine.type(mask));
    if (ne[1] < rows.n || engine.nb(mask)[0] != size || (size != 4 && size != 2)) return;
    const char *values = static_cast<const char *>(values_of(engine, mask, &s->scratch[0]));
    if (!values) return;
    for (int r = 0; r < rows.n; ++r) {
        const void *row = values + size_t(r) * stride;
        rows.sees_prefix[r] = size == 4 ? sees_prefix(static_cast<const uint32_t *>(row), ne[0], rows.positions[r])
                                        : sees_prefix(static_cast<const uint16_t *>(row), ne[0], rows.positions[r]);
    }
}

void copy_list(const Engine &engine, const Tensor *list, int32_t *out, int n) {
    engine.tensor_get(list, out, 0, size_t(n) * sizeof *out);
}

}  // namespace

const void *values_of(const Engine &engine, const Tensor *tensor, Buffered *scratch) {
    if (!engine.has_data(tensor)) return nullptr;
    if (const void *own = engine.host_data(tensor)) return own;
    const size_t n_bytes = engine.nbytes(tensor);  // of a view: to its last element
    void *copy = scratch->get(n_bytes);
    if (copy) engine.tensor_get(tensor, copy, 0, n_bytes);
    return copy;
}

bool read_rows(Session *s) {
    const Engine &engine = *s->engine;
    const Plan &plan = s->plan;
    StepRows &rows = s->rows;
    rows = {};
    if (!is_index_list(engine, plan.positions)) {
        add(&counts.no_position);
        return false;
    }
    rows.n = int32_t(engine.ne(plan.positions)[0]);
    const bool tokens = is_index_list(engine, plan.tokens);
    if (tokens) rows.n = int32_t(engine.ne(plan.tokens)[0]);  // some positions have several parts
    const bool outputs = is_index_list(engine, plan.outputs);
    rows.n_outputs = outputs ? int32_t(engine.ne(plan.outputs)[0]) : plan.outputs ? 0 : rows.n;
    if (rows.n < 1 || rows.n > engine.ne(plan.positions)[0] || rows.n_outputs > rows.n) {
        add(&counts.no_position);
        return false;
    }
    const size_t n = size_t(rows.n);
    char *memory = static_cast<char *>(s->row_memory.get(n * (3 * sizeof(int32_t) + sizeof(bool))));
    if (!memory) return false;
    rows.positions = reinterpret_cast<int32_t *>(memory);
    int32_t *ids = rows.positions + n;
    int32_t *kept = ids + n;
    rows.sees_prefix = reinterpret_cast<bool *>(kept + n);
    copy_list(engine, plan.positions, rows.positions, rows.n);
    if (!is_consecutive(rows.positions, rows.n)) {
        add(&counts.several_sequences);
        return false;
    }
    if (tokens) copy_list(engine, plan.tokens, rows.tokens = ids, rows.n);
    if (outputs) copy_list(engine, plan.outputs, rows.outputs = kept, rows.n_outputs);
    for (int i = 0; outputs && i < rows.n_outputs; ++i) {
        if (kept[i] < 0 || kept[i] >= rows.n) rows.n_outputs = 0;
    }
    read_mask(s);
    return true;
}

}  // namespace bitnet::shim
