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

// The mask of the rows as the graph reads it. False: there is none that is understood.
struct Mask {
    const char *values;
    size_t stride, size;
    int64_t n_cells;
};

bool take_mask(Session *s, Mask *out) {
    Engine &engine = *s->engine;
    const Tensor *mask = s->plan.mask;
    if (!mask || !engine.has_data(mask)) return false;
    const int64_t *ne = engine.ne(mask);
    out->n_cells = ne[0];
    out->stride = engine.nb(mask)[1];
    out->size = element_bytes(engine.type(mask));
    if (ne[1] < s->rows.n || engine.nb(mask)[0] != out->size || (out->size != 4 && out->size != 2)) return false;
    out->values = static_cast<const char *>(values_of(engine, mask, &s->scratch[0]));
    return out->values != nullptr;
}

void find_prefixes(Session *s, const Mask &mask) {
    const StepRows &rows = s->rows;
    for (int r = 0; r < rows.n; ++r) {
        const void *row = mask.values + size_t(r) * mask.stride;
        rows.sees_prefix[r] = mask.size == 4
                                  ? sees_prefix(static_cast<const uint32_t *>(row), mask.n_cells, rows.positions[r])
                                  : sees_prefix(static_cast<const uint16_t *>(row), mask.n_cells, rows.positions[r]);
    }
}

template <class Bits> void find_seen(const Bits *row, int64_t n_cells, SeenCells *out) {
    out->n_seen = 0;
    for (int32_t word = 0; word < out->n_words; ++word) {
        const int64_t from = int64_t(word) * 64, to = from + 64 < n_cells ? from + 64 : n_cells;
        uint64_t bits = 0;
        for (int64_t i = from; i < to; ++i) bits |= uint64_t(row[i] == 0) << (i - from);
        out->bits[word] = bits;
        out->n_seen += __builtin_popcountll(bits);
    }
}

// Whether a row comes next after one of the same sequence: it sees what that one saw, and one cell more, its own. A
// window of attention loses the oldest.
bool comes_next(const SeenCells &before, const SeenCells &after) {
    int32_t n_new = 0, n_lost = 0;
    const int32_t n_words = before.n_words > after.n_words ? before.n_words : after.n_words;
    for (int32_t i = 0; i < n_words; ++i) {
        const uint64_t a = i < before.n_words ? before.bits[i] : 0, b = i < after.n_words ? after.bits[i] : 0;
        n_new += __builtin_popcountll(b & ~a);
        n_lost += __builtin_popcountll(a & ~b);
    }
    return before.cache == after.cache && n_new == 1 && (n_lost == 0 || (n_lost == 1 && before.n_seen == after.n_seen));
}

// False: the rows are of several sequences, or it cannot be told for lack of memory. Where there is no mask positions
// alone count.
bool follow_sequence(Session *s, const Mask *mask) {
    StepRows &rows = s->rows;
    rows.goes_on = rows.positions[0] >= s->next_position;
    SeenCells seen = s->last_seen;
    s->last_seen = {};
    if (!mask) return true;
    const size_t n_words = size_t(mask->n_cells + 63) / 64;
    const Tensor *keys = s->plan.keys;
    const void *cache = keys && s->engine->has_data(keys) ? s->engine->get_data(keys) : nullptr;
    rows.goes_on = rows.goes_on && rows.positions[0] == s->next_position && seen.bits;
    for (int r = 0; r < rows.n; ++r) {
        Buffered &memory = s->cells_memory[seen.bits == s->cells_memory[0].data ? 1 : 0];
        SeenCells next = {static_cast<uint64_t *>(memory.get(n_words * sizeof(uint64_t))), int32_t(n_words), 0, cache};
        if (!next.bits) return false;
        const void *row = mask->values + size_t(r) * mask->stride;
        if (mask->size == 4)
            find_seen(static_cast<const uint32_t *>(row), mask->n_cells, &next);
        else
            find_seen(static_cast<const uint16_t *>(row), mask->n_cells, &next);
        const bool follows = seen.bits && comes_next(seen, next);
        if (r == 0) rows.goes_on = rows.goes_on && follows;
        if (r > 0 && !follows) return false;
        seen = next;
    }
    s->last_seen = seen;
    return true;
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
    Mask mask;
    const bool masked = take_mask(s, &mask);
    for (int r = 0; r < rows.n; ++r) rows.sees_prefix[r] = false;
    if (masked && wants_cells(plan)) find_prefixes(s, mask);
    if (follow_sequence(s, masked ? &mask : nullptr)) return true;
    add(&counts.several_sequences);
    return false;
}

}  // namespace bitnet::shim
