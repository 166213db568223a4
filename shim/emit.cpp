// From a node of the graph to a tensor event: its rows, what they were computed from, their positions.
#include <cstring>

#include "shim/environment.h"
#include "shim/report.h"
#include "shim/rows.h"
#include "shim/session.h"

namespace bitnet::shim {

namespace {

// A tensor as rows: row r begins at data + r * stride.
struct RowView {
    const char *data;
    int32_t n_rows;
    int32_t dtype;
    int64_t n_elements;  // of a row
    size_t stride;
};

bool is_query_shaped(int32_t stage) {
    return stage == BITNET_STAGE_Q_PROJ || stage == BITNET_STAGE_Q_ROPE || stage == BITNET_STAGE_ATTN_CONTEXT ||
           stage == BITNET_STAGE_ATTN_SUB_NORM;
}

bool is_key_shaped(int32_t stage) {
    return stage == BITNET_STAGE_K_PROJ || stage == BITNET_STAGE_V_PROJ || stage == BITNET_STAGE_K_ROPE;
}

// Shape of a row, outermost first; returns the number of dimensions.
uint32_t shape_of(const Plan &plan, int32_t stage, int64_t n_elements, uint64_t shape[4]) {
    const int64_t n_head = is_query_shaped(stage) ? plan.heads.n_head : is_key_shaped(stage) ? plan.heads.n_head_kv : 0;
    if (n_head > 0 && n_head * plan.heads.head_dim == n_elements) {
        shape[0] = uint64_t(n_head);
        shape[1] = uint64_t(plan.heads.head_dim);
        return 2;
    }
    shape[0] = uint64_t(n_elements);
    return 1;
}

// Splits a tensor into `n_rows` rows, if it has as many and each is dense.
bool split(const int64_t *ne, const size_t *nb, size_t size, int32_t n_rows, int64_t *n_elements, size_t *stride) {
    if (nb[0] != size || ne[3] != 1) return false;
    if (ne[1] == n_rows && ne[2] == 1) {
        *n_elements = ne[0];
        *stride = nb[1];
        return true;
    }
    if (ne[2] != n_rows || nb[1] != size_t(ne[0]) * size) return false;
    *n_elements = ne[0] * ne[1];
    *stride = nb[2];
    return true;
}

bool view_rows(Session *s, const Tensor *tensor, Buffered *scratch, RowView *out) {
    Engine &engine = *s->engine;
    const Type type = engine.type(tensor);
    const size_t size = element_bytes(type);
    if (!size) return false;
    const int64_t *ne = engine.ne(tensor);
    const int32_t n_rows[2] = {s->rows.n, s->rows.n_outputs};
    for (int32_t n : n_rows) {
        if (n < 1 || !split(ne, engine.nb(tensor), size, n, &out->n_elements, &out->stride)) continue;
        out->data = static_cast<const char *>(values_of(engine, tensor, scratch));
        out->n_rows = n;
        out->dtype = traced_dtype(type);
        return out->data != nullptr;
    }
    return false;
}

int32_t index_in_batch(const StepRows &rows, int32_t n_rows, int32_t row) {
    return n_rows == rows.n || !rows.outputs ? row : rows.outputs[row];
}

bool overlaps(const Engine &engine, const Tensor *a, const Tensor *b) {
    if (!engine.has_data(a) || !engine.has_data(b)) return true;
    const char *from_a = static_cast<const char *>(engine.get_data(a));
    const char *from_b = static_cast<const char *>(engine.get_data(b));
    return from_a < from_b + engine.nbytes(b) && from_b < from_a + engine.nbytes(a);
}

// Whether an input that nothing keeps is still there when a callback sees its operation: if the operation itself reads
// it, and does not write over it.
bool is_intact(Engine &engine, const Tensor *input, const Tensor *node) {
    const Tensor *root = engine.root(input);
    if (engine.op(root) == Op::leaf) return true;  // the cache
    bool direct = false;
    for (int i = 0; i < kSourcesMax; ++i) {
        const Tensor *source = engine.src(node, i);
        direct |= source && engine.root(source) == root;
    }
    return direct && !overlaps(engine, root, engine.root(node));
}

// One input of an item, ready for any row.
struct ReadyInput {
    const Input *input;
    RowView rows;      // of Rows::dense
    const char *data;  // of the cache: cells one after another
    size_t cell_bytes;
    bool by_cell;  // of the cache, or of a softmax: its size depends on the position
};

// Heads of one cell, gathered: `strides` of value, cell and head.
void gather_cells(const char *from, const size_t strides[3], int64_t n_cells, int64_t head_dim, int64_t n_head,
                  size_t size, char *out) {
    for (int64_t cell = 0; cell < n_cells; ++cell) {
        for (int64_t head = 0; head < n_head; ++head) {
            const char *row = from + size_t(cell) * strides[1] + size_t(head) * strides[2];
            for (int64_t i = 0; i < head_dim; ++i, out += size) memcpy(out, row + size_t(i) * strides[0], size);
        }
    }
}

// The cache up to the last position, one cell after another.
bool ready_cache(Session *s, const Input &input, Buffered *scratch, ReadyInput *out) {
    Engine &engine = *s->engine;
    const Plan &plan = s->plan;
    const size_t size = element_bytes(engine.type(input.tensor));
    if (!size) return false;  // quantised: not a type that a trace has
    const int64_t *ne = engine.ne(input.tensor);
    const size_t *nb = engine.nb(input.tensor);
    const bool by_value = input.rows == Rows::keys || plan.has_flash_attention;  // dimension 0: within a head
    const int64_t head_dim = by_value ? ne[0] : ne[1], n_cells = by_value ? ne[1] : ne[0], n_head = ne[2];
    const int64_t n_wanted = s->rows.positions[s->rows.n - 1] + 1;
    const size_t strides[3] = {by_value ? nb[0] : nb[1], by_value ? nb[1] : nb[0], nb[2]};
    out->cell_bytes = size_t(head_dim * n_head) * size;
    if (ne[3] != 1 || n_wanted > n_cells || head_dim != plan.heads.head_dim || n_head != plan.heads.n_head_kv)
        return false;
    const void *own = engine.has_data(input.tensor) ? engine.host_data(input.tensor) : nullptr;
    if (!own) return false;
    out->data = static_cast<const char *>(own);
    if (strides[0] == size && strides[2] == size_t(head_dim) * size && strides[1] == out->cell_bytes) return true;
    char *copy = settings().inputs == Inputs::all
                     ? static_cast<char *>(scratch->get(size_t(n_wanted) * out->cell_bytes))
                     : nullptr;
    if (!copy) return false;
    gather_cells(out->data, strides, n_wanted, head_dim, n_head, size, copy);
    out->data = copy;
    return true;
}

bool ready_input(Session *s, const Item &item, const Input &input, Buffered *scratch, ReadyInput *out) {
    *out = {};
    out->input = &input;
    if (!s->plan.is_marked && !is_intact(*s->engine, input.tensor, item.node)) return false;
    if (input.rows == Rows::dense) return view_rows(s, input.tensor, scratch, &out->rows);
    out->by_cell = true;
    if (input.rows == Rows::softmax) {
        out->data = static_cast<const char *>(values_of(*s->engine, input.tensor, scratch));
        return out->data && s->engine->type(input.tensor) == Type::f32;
    }
    return ready_cache(s, input, scratch, out);
}

// (head, row, cell) to (head, cell) of one row.
void gather_heads(const Engine &engine, const Tensor *tensor, const char *data, int32_t row, int32_t n_cells,
                  float scale, float *out) {
    const int64_t *ne = engine.ne(tensor);
    const size_t *nb = engine.nb(tensor);
    for (int64_t head = 0; head < ne[2]; ++head, out += n_cells) {
        const char *from = data + size_t(head) * nb[2] + size_t(row) * nb[1];
        memcpy(out, from, size_t(n_cells) * sizeof(float));
        if (scale == 1) continue;
        for (int32_t i = 0; i < n_cells; ++i) out[i] *= scale;
    }
}

bool is_by_head(const Session *s, const Tensor *tensor) {
    Engine &engine = *s->engine;
    const int64_t *ne = engine.ne(tensor);
    return engine.type(tensor) == Type::f32 && engine.nb(tensor)[0] == sizeof(float) && ne[3] == 1 &&
           ne[1] >= s->rows.n && ne[2] == s->plan.heads.n_head && ne[0] > s->rows.positions[s->rows.n - 1];
}

void describe_input(Session *s, const ReadyInput &ready, int32_t row, bitnet_tensor_input_t *out, Buffered *scratch) {
    const Plan &plan = s->plan;
    const Input &input = *ready.input;
    const int32_t n_cells = s->rows.positions[index_in_batch(s->rows, s->rows.n, row)] + 1;
    *out = {};
    out->stage = input.stage;
    out->name = input.stage ? trace_stage_name(input.stage) : s->engine->get_name(input.tensor);
    if (input.rows == Rows::dense) {
        out->n_dims = shape_of(plan, input.stage, ready.rows.n_elements, out->shape);
        out->dtype = ready.rows.dtype;
        out->row_elements = uint64_t(ready.rows.n_elements);
        out->row_stride = ready.rows.stride;
        out->data = ready.rows.data + size_t(row) * ready.rows.stride;
    } else if (input.rows == Rows::softmax) {
        float *values = static_cast<float *>(scratch->get(size_t(plan.heads.n_head * n_cells) * sizeof(float)));
        if (values) gather_heads(*s->engine, input.tensor, ready.data, row, n_cells, 1, values);
        out->dtype = BITNET_DTYPE_F32;
        out->n_dims = 2;
        out->shape[0] = uint64_t(plan.heads.n_head);
        out->shape[1] = uint64_t(n_cells);
        out->row_elements = values ? out->shape[0] * out->shape[1] : 0;
        out->data = values;
    } else {
        out->name = input.rows == Rows::keys ? "k_cache" : "v_cache";
        out->dtype = traced_dtype(s->engine->type(input.tensor));
        out->n_dims = 3;
        out->shape[0] = uint64_t(n_cells);
        out->shape[1] = uint64_t(plan.heads.n_head_kv);
        out->shape[2] = uint64_t(plan.heads.head_dim);
        out->row_elements = out->shape[0] * out->shape[1] * out->shape[2];
        out->data = ready.data;
    }
}

class Emitter {
public:
    Emitter(Session *session, const Item &item, bool after_the_graph)
        : s_(session), item_(item), after_(after_the_graph) {}

    void run() {
        const StepRows &rows = s_->rows;  // of which an item of the last layer has fewer
        if (!trace_host_wants(s_->host, item_.stage, item_.layer, rows.positions[0], rows.n)) return;
        if (item_.rows == Rows::dense) {
            if (!view_rows(s_, item_.node, &s_->scratch[0], &view_)) return;
        } else {
            if (!is_by_head(s_, item_.node)) return;
            by_head_ = static_cast<const char *>(values_of(*s_->engine, item_.node, &s_->scratch[0]));
            if (!by_head_) return;
            view_.n_rows = s_->rows.n;
        }
        if (!wanted()) return;
        get_inputs_ready();
        for (int32_t row = 0; row < view_.n_rows;) row = emit_from(row);
    }

private:
    int32_t position(int32_t row) const { return s_->rows.positions[index_in_batch(s_->rows, view_.n_rows, row)]; }

    bool wanted() const {
        for (int32_t row = 0; row < view_.n_rows; ++row) {
            if (trace_host_wants(s_->host, item_.stage, item_.layer, position(row), 1)) return true;
        }
        return false;
    }

    void get_inputs_ready() {
        for (int i = 0; i < item_.n_inputs; ++i) {
            ReadyInput *ready = &inputs_[n_inputs_];
            if (!ready_input(s_, item_, item_.inputs[i], &s_->scratch[2 + i], ready)) continue;
            // Other rows than the item's cannot be told apart here.
            if (ready->input->rows == Rows::dense && ready->rows.n_rows != view_.n_rows) continue;
            if (ready->by_cell && view_.n_rows != s_->rows.n) continue;
            by_row_ |= ready->by_cell;
            ++n_inputs_;
        }
    }

    // Emits rows from `row` on that are consecutive positions; returns the first after them.
    int32_t emit_from(int32_t row) {
        int32_t end = row + 1;
        if (item_.rows == Rows::dense && !by_row_) {
            while (end < view_.n_rows && position(end) == position(end - 1) + 1) ++end;
        }
        if (trace_host_wants(s_->host, item_.stage, item_.layer, position(row), end - row)) emit(row, end);
        return end;
    }

    void emit(int32_t row, int32_t end) {
        bitnet_tensor_event_t event = {};
        event.header.layer = item_.layer;
        event.header.position = position(row);
        event.stage = item_.stage;
        event.n_rows = uint32_t(end - row);
        event.first_row = uint32_t(index_in_batch(s_->rows, view_.n_rows, row));
        event.ns = after_ ? TRACE_NS_UNKNOWN : 0;
        if (!(item_.rows == Rows::dense ? fill_dense(&event, row) : fill_by_head(&event, row))) return;
        bitnet_tensor_input_t inputs[kInputsOfStageMax];
        for (int i = 0; i < n_inputs_; ++i) {
            if (inputs_[i].by_cell && !s_->rows.sees_prefix[row]) continue;  // not the cells of positions 0 to its own
            bitnet_tensor_input_t *input = &inputs[event.n_inputs];
            describe_input(s_, inputs_[i], row, input, &s_->scratch[1]);
            event.n_inputs += input->row_elements != 0;
        }
        event.inputs = inputs;
        trace_host_tensor(s_->host, &event, nullptr);
    }

    bool fill_dense(bitnet_tensor_event_t *event, int32_t row) const {
        event->dtype = view_.dtype;
        event->n_dims = shape_of(s_->plan, item_.stage, view_.n_elements, event->shape);
        event->row_elements = uint64_t(view_.n_elements);
        event->row_stride = view_.stride;
        event->data = view_.data + size_t(row) * view_.stride;
        return true;
    }

    bool fill_by_head(bitnet_tensor_event_t *event, int32_t row) {
        if (!s_->rows.sees_prefix[row]) return false;
        const int32_t n_cells = position(row) + 1;
        const int64_t n_head = s_->plan.heads.n_head;
        event->row_elements = uint64_t(n_head * n_cells);
        float *values = static_cast<float *>(gathered_.get(event->row_elements * sizeof(float)));
        if (!values) return false;
        const float scale = item_.rows == Rows::scores ? item_.scale : 1;
        gather_heads(*s_->engine, item_.node, by_head_, row, n_cells, scale, values);
        event->dtype = BITNET_DTYPE_F32;
        event->n_dims = 2;
        event->shape[0] = uint64_t(n_head);
        event->shape[1] = uint64_t(n_cells);
        event->row_stride = event->row_elements * sizeof(float);
        event->data = values;
        return true;
    }

    Session *s_;
    const Item &item_;
    bool after_;
    RowView view_ = {};
    const char *by_head_ = nullptr;
    ReadyInput inputs_[kInputsOfStageMax];
    int n_inputs_ = 0;
    bool by_row_ = false;  // an input has another size for each row
    Buffered &gathered_ = s_->scratch[kScratches - 1];
};

}  // namespace

void expect_items(Session *s) {
    const StepRows &rows = s->rows;
    if (rows.n != 1 || !trace_host_hashes(s->host)) return;
    Engine &engine = *s->engine;
    const size_t n_bytes = size_t(s->plan.n_items) * sizeof(TraceRowBytes);
    TraceRowBytes *list = static_cast<TraceRowBytes *>(s->expected.get(n_bytes));
    uint64_t n = 0;
    for (int i = 0; list && i < s->plan.n_items; ++i) {
        const Item &item = s->plan.items[i];
        RowView view = {};
        if (item.rows != Rows::dense) continue;
        if (!trace_host_wants(s->host, item.stage, item.layer, rows.positions[0], 1)) continue;
        // What lies with a device is copied when its turn comes.
        if (!engine.has_data(item.node) || !engine.host_data(item.node)) continue;
        if (!view_rows(s, item.node, &s->scratch[0], &view)) continue;
        list[n++] = {view.data, uint64_t(view.n_elements) * element_bytes(engine.type(item.node))};
    }
    trace_host_expect(s->host, list, n);
}

void emit_item(Session *session, const Item &item, bool after_the_graph) {
    Emitter(session, item, after_the_graph).run();
}

}  // namespace bitnet::shim
