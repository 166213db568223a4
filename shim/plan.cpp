#include "shim/plan.h"

#include <cstdlib>
#include <cstring>

#include "bitnet_c.h"

namespace bitnet::shim {

namespace {

// Results that are no stage of their own, but lead to one.
constexpr int32_t kScoresUnscaled = -1;  // K times Q
constexpr int32_t kValues = -2;          // V times the probabilities, or attention in one operation

// Bounds a walk back through a graph; the longest known between two stages is five.
constexpr int kStepsBackMax = 16;

struct Known {
    const Tensor *tensor;
    int32_t order, stage, layer;
};

struct Slot {
    Tensor *node;
    Rows rows;
    int n_inputs;
    float scale;
    Input inputs[kInputsOfStageMax];
};

class Mapper {
public:
    Mapper(Plan *plan, Engine *engine) : plan_(plan), e_(*engine) {}
    ~Mapper() {
        free(table_);
        free(slots_);
    }
    bool run() {
        if (!allocate()) return false;
        for (int i = 0; i < plan_->n_nodes; ++i) {
            Tensor *node = e_.graph_node(plan_->graph, i);
            if (!node) continue;
            *insert(node) = {node, i, 0, -1};
            look_at(node);
        }
        return make_items();
    }

private:
    bool allocate();
    Known *insert(const Tensor *tensor);
    Known *lookup(const Tensor *tensor) const;
    const Known *resolve(const Tensor *tensor) const;
    Slot *slot(int32_t stage, int32_t layer) const;
    Slot *set(Tensor *node, int32_t stage, int32_t layer);
    void add_input(Slot *slot, const Tensor *tensor, Rows rows = Rows::dense);
    void look_at(Tensor *node);
    void on_mul_mat(Tensor *node);
    void on_attention_product(Tensor *node);
    void on_weighted(Tensor *node);
    void on_add(Tensor *node);
    void on_rope(Tensor *node);
    void on_get_rows(Tensor *node);
    void on_soft_max(Tensor *node);
    void on_flash_attention(Tensor *node);
    void on_block_input(int32_t stage, int32_t layer, const Tensor *input);
    void see_mask(const Tensor *mask);
    void see_cache(const Tensor *keys, const Tensor *values);
    bool is_leaf(const Tensor *t) const { return e_.op(t) == Op::leaf; }
    bool is_adapter(const Tensor *t) const;
    bool make_items();
    void mark_overwritten();

    Plan *plan_;
    Engine &e_;
    Known *table_ = nullptr;
    size_t mask_ = 0;
    Slot *slots_ = nullptr;  // [layer + 1][stage]
};

constexpr int kSlotsPerLayer = BITNET_STAGE_COUNT + 1;

bool Mapper::allocate() {
    size_t n = 64;
    while (n < 2 * size_t(plan_->n_nodes)) n *= 2;
    mask_ = n - 1;
    table_ = static_cast<Known *>(calloc(n, sizeof(Known)));
    // Layers are numbered by weights: there are no more than nodes, whatever the names say.
    slots_ = static_cast<Slot *>(calloc(size_t(kLayersMax + 1) * kSlotsPerLayer, sizeof(Slot)));
    return table_ && slots_;
}

Known *Mapper::insert(const Tensor *tensor) {
    size_t i = (reinterpret_cast<uintptr_t>(tensor) >> 4) * 0x9E3779B97F4A7C15u >> 20 & mask_;
    while (table_[i].tensor && table_[i].tensor != tensor) i = (i + 1) & mask_;
    return &table_[i];
}

Known *Mapper::lookup(const Tensor *tensor) const {
    Known *found = const_cast<Mapper *>(this)->insert(tensor);
    return found->tensor ? found : nullptr;
}

Slot *Mapper::slot(int32_t stage, int32_t layer) const { return &slots_[(layer + 1) * kSlotsPerLayer + stage]; }

// The stage whose values these are, but for what no stage is made of: weights of norms, biases, moves, other rows.
const Known *Mapper::resolve(const Tensor *tensor) const {
    for (int i = 0; tensor && i < kStepsBackMax; ++i) {
        const Known *known = lookup(tensor);
        if (known && known->stage) return known;
        const Tensor *other = e_.src(tensor, 1);
        switch (e_.op(tensor)) {
        case Op::move:
        case Op::unary:
        case Op::norm:
        case Op::store: break;
        case Op::mul:
        case Op::add:
        case Op::get_rows:
            if (!other || !is_leaf(other)) return nullptr;
            break;
        default: return nullptr;
        }
        tensor = e_.src(tensor, 0);
    }
    return nullptr;
}

Slot *Mapper::set(Tensor *node, int32_t stage, int32_t layer) {
    Known *known = lookup(node);
    known->stage = stage;
    known->layer = layer;
    if (layer >= plan_->n_layers) plan_->n_layers = layer + 1;
    if (stage <= 0) return nullptr;
    Slot *s = slot(stage, layer);
    s->node = node;
    return s;
}

void Mapper::add_input(Slot *s, const Tensor *tensor, Rows rows) {
    if (!tensor || s->n_inputs == kInputsOfStageMax) return;
    const Known *known = rows == Rows::keys || rows == Rows::values ? nullptr : resolve(tensor);
    s->inputs[s->n_inputs++] = {tensor, known && known->stage > 0 ? known->stage : 0, rows};
}

// What the sub-norm reads, or without one the projection: all else about attention and activation may differ.
void Mapper::on_block_input(int32_t stage, int32_t layer, const Tensor *input) {
    Known *known = lookup(input);
    if (!known || known->stage > 0) return;
    Slot *s = slot(stage, layer);
    if (s->node && s->node != input) return;
    s->node = const_cast<Tensor *>(input);
    if (stage == BITNET_STAGE_FFN_ACT) {
        add_input(s, slot(BITNET_STAGE_FFN_GATE, layer)->node);
        add_input(s, slot(BITNET_STAGE_FFN_UP, layer)->node);
    }
    known->stage = stage;
    known->layer = layer;
}

void Mapper::on_mul_mat(Tensor *node) {
    const Tensor *weight = e_.src(node, 0), *input = e_.src(node, 1);
    if (!weight || !input) return;
    int32_t layer = -1;
    int32_t stage = is_leaf(weight) ? stage_of_weight(e_.get_name(weight), &layer) : 0;
    if (!stage) return on_attention_product(node);
    if (stage == BITNET_STAGE_EMBEDDINGS) stage = BITNET_STAGE_LOGITS;  // tied
    if (stage == BITNET_STAGE_ATTN_OUT) on_block_input(BITNET_STAGE_ATTN_CONTEXT, layer, input);
    if (stage == BITNET_STAGE_FFN_OUT) on_block_input(BITNET_STAGE_FFN_ACT, layer, input);
    Slot *s = set(node, stage, layer);
    s->n_inputs = 0;
    add_input(s, input);
}

void Mapper::see_cache(const Tensor *keys, const Tensor *values) {
    const Tensor *k = keys ? e_.root(keys) : nullptr, *v = values ? e_.root(values) : nullptr;
    if (k && is_leaf(k)) {
        plan_->cache_keys = k;
        plan_->keys = keys;
        plan_->cache_bytes += e_.nbytes(k);
    }
    if (v && is_leaf(v)) {
        plan_->cache_values = v;
        plan_->cache_bytes += e_.nbytes(v);
    }
}

// The input itself, which can be read before the graph runs; the operation may see a copy of another type.
void Mapper::see_mask(const Tensor *mask) {
    for (int i = 0; mask && i < kStepsBackMax && !is_leaf(mask); ++i) mask = e_.src(mask, 0);
    if (!plan_->mask && mask && is_leaf(mask)) plan_->mask = mask;
}

void Mapper::on_attention_product(Tensor *node) {
    const Known *from = resolve(e_.src(node, 1));
    if (!from) return;
    const int32_t layer = from->layer;
    if (from->stage == BITNET_STAGE_Q_ROPE || from->stage == BITNET_STAGE_Q_PROJ) {
        set(node, kScoresUnscaled, layer);
        Slot *scores = slot(BITNET_STAGE_ATTN_SCORES, layer);
        scores->n_inputs = 0;
        add_input(scores, lookup(from->tensor)->tensor);
        add_input(scores, e_.src(node, 0), Rows::keys);
        see_cache(e_.src(node, 0), nullptr);
    } else if (from->stage == BITNET_STAGE_ATTN_SCORES_SOFTMAX) {
        set(node, kValues, layer);
        Slot *context = slot(BITNET_STAGE_ATTN_CONTEXT, layer);
        context->n_inputs = 0;
        add_input(context, from->tensor, Rows::softmax);
        add_input(context, e_.src(node, 0), Rows::values);
        see_cache(nullptr, e_.src(node, 0));
    }
}

void Mapper::on_soft_max(Tensor *node) {
    const Known *from = e_.src(node, 0) ? resolve(e_.src(node, 0)) : nullptr;
    if (!from || from->stage != kScoresUnscaled) return;
    const int32_t layer = from->layer;
    Slot *scores = slot(BITNET_STAGE_ATTN_SCORES, layer);
    if (from->tensor == e_.src(node, 0)) {  // nothing between: the softmax itself scales
        scores->node = const_cast<Tensor *>(from->tensor);
        scores->rows = Rows::scores;
        scores->scale = e_.float_param(node, 0);
    }
    Slot *s = set(node, BITNET_STAGE_ATTN_SCORES_SOFTMAX, layer);
    s->rows = Rows::softmax;
    s->n_inputs = scores->n_inputs;
    memcpy(s->inputs, scores->inputs, sizeof s->inputs);
    see_mask(e_.src(node, 1));
}

void Mapper::on_flash_attention(Tensor *node) {
    const Known *from = e_.src(node, 0) ? resolve(e_.src(node, 0)) : nullptr;
    if (!from || (from->stage != BITNET_STAGE_Q_ROPE && from->stage != BITNET_STAGE_Q_PROJ)) return;
    plan_->has_flash_attention = true;
    set(node, kValues, from->layer);
    Slot *context = slot(BITNET_STAGE_ATTN_CONTEXT, from->layer);
    context->n_inputs = 0;
    add_input(context, from->tensor);
    add_input(context, e_.src(node, 1), Rows::keys);
    add_input(context, e_.src(node, 2), Rows::values);
    see_cache(e_.src(node, 1), e_.src(node, 2));
    see_mask(e_.src(node, 3));
}

// A norm times its weight, in one operation or two; a linear times its scale, or with its bias.
void Mapper::on_weighted(Tensor *node) {
    const Tensor *input = e_.src(node, 0), *weight = e_.src(node, 1);
    if (!input || !weight || !is_leaf(weight)) return;
    int32_t layer = -1;
    const int32_t stage = stage_of_weight(e_.get_name(weight), &layer);
    const bool continues = lookup(input) && lookup(input)->stage == stage;
    if (!stage || (stage != BITNET_STAGE_FINAL_NORM && layer < 0)) return;
    if (continues) {
        set(node, stage, layer);  // the values so far are not the stage's yet
        lookup(input)->stage = 0;
        return;
    }
    const bool is_norm = stage == BITNET_STAGE_ATTN_NORM || stage == BITNET_STAGE_FFN_NORM ||
                         stage == BITNET_STAGE_ATTN_SUB_NORM || stage == BITNET_STAGE_FFN_SUB_NORM ||
                         stage == BITNET_STAGE_FINAL_NORM;
    if (!is_norm) return;
    const bool apart = e_.op(input) == Op::norm && e_.op(node) != Op::norm;
    const Tensor *before = apart ? e_.src(input, 0) : input;
    if (apart) plan_->eps = e_.float_param(input, 0);
    if (stage == BITNET_STAGE_ATTN_SUB_NORM) on_block_input(BITNET_STAGE_ATTN_CONTEXT, layer, before);
    if (stage == BITNET_STAGE_FFN_SUB_NORM) on_block_input(BITNET_STAGE_FFN_ACT, layer, before);
    Slot *s = set(node, stage, layer);
    s->n_inputs = 0;
    add_input(s, before);
}

bool Mapper::is_adapter(const Tensor *t) const {
    for (int i = 0; t && i < kStepsBackMax && e_.op(t) == Op::unary; ++i) t = e_.src(t, 0);
    if (!t || e_.op(t) != Op::mul_mat || !e_.src(t, 0) || !is_leaf(e_.src(t, 0))) return false;
    return strstr(e_.get_name(e_.src(t, 0)), ".lora_") != nullptr;
}

void Mapper::on_add(Tensor *node) {
    const Tensor *a = e_.src(node, 0), *b = e_.src(node, 1);
    if (!a || !b) return;
    if (is_leaf(b)) {
        const Known *known = lookup(a);
        if (known && known->stage == BITNET_STAGE_LAYER_OUT) {  // a control vector
            set(node, BITNET_STAGE_LAYER_OUT, known->layer);
            return;
        }
        return on_weighted(node);
    }
    if (is_adapter(b)) {
        Known *known = lookup(a);
        if (!known || known->stage <= 0) return;
        set(node, known->stage, known->layer);
        known->stage = 0;
        return;
    }
    const Known *sides[2] = {resolve(a), resolve(b)};
    for (const Known *side : sides) {
        if (!side || (side->stage != BITNET_STAGE_ATTN_OUT && side->stage != BITNET_STAGE_FFN_OUT)) continue;
        const bool attention = side->stage == BITNET_STAGE_ATTN_OUT;
        Slot *s = set(node, attention ? BITNET_STAGE_ATTN_RESIDUAL : BITNET_STAGE_LAYER_OUT, side->layer);
        s->n_inputs = 0;
        add_input(s, a);
        add_input(s, b);
        return;
    }
}

void Mapper::on_rope(Tensor *node) {
    const Known *from = e_.src(node, 0) ? resolve(e_.src(node, 0)) : nullptr;
    if (!from) return;
    const bool query = from->stage == BITNET_STAGE_Q_PROJ;
    if (!query && from->stage != BITNET_STAGE_K_PROJ) return;
    const int64_t *ne = e_.ne(node);
    LayerShape &heads = plan_->heads;
    heads.head_dim = ne[0];
    (query ? heads.n_head : heads.n_head_kv) = ne[1];
    if (!plan_->positions) plan_->positions = e_.src(node, 1);
    constexpr int kTurned = 1, kFrequencyBase = 5;  // among the parameters of a ROPE, in all versions
    plan_->n_rot = e_.int_param(node, kTurned);
    plan_->theta = e_.float_param(node, kFrequencyBase);
    Slot *s = set(node, query ? BITNET_STAGE_Q_ROPE : BITNET_STAGE_K_ROPE, from->layer);
    s->n_inputs = 0;
    add_input(s, e_.src(node, 0));
}

void Mapper::on_get_rows(Tensor *node) {
    const Tensor *table = e_.src(node, 0), *indexes = e_.src(node, 1);
    if (!table || !indexes) return;
    if (!is_leaf(table)) {
        if (!plan_->outputs && is_leaf(indexes)) plan_->outputs = indexes;
        return;
    }
    int32_t layer = -1;
    if (stage_of_weight(e_.get_name(table), &layer) != BITNET_STAGE_EMBEDDINGS || plan_->tokens) return;
    plan_->tokens = indexes;
    plan_->embedding_weight = table;
    set(node, BITNET_STAGE_EMBEDDINGS, -1);
}

void Mapper::look_at(Tensor *node) {
    switch (e_.op(node)) {
    case Op::mul_mat: return on_mul_mat(node);
    case Op::mul:
    case Op::norm: return on_weighted(node);
    case Op::add: return on_add(node);
    case Op::rope: return on_rope(node);
    case Op::get_rows: return on_get_rows(node);
    case Op::soft_max: return on_soft_max(node);
    case Op::flash_attn: return on_flash_attention(node);
    default: return;
    }
}

bool Mapper::make_items() {
    const int n_rows = plan_->n_layers + 1;
    plan_->is_llama = plan_->n_layers > 0;
    plan_->items = static_cast<Item *>(calloc(size_t(n_rows) * kSlotsPerLayer, sizeof(Item)));
    if (!plan_->items) return false;
    for (int32_t layer = -1; layer < plan_->n_layers; ++layer) {
        for (int32_t stage = 1; stage <= BITNET_STAGE_COUNT; ++stage) {
            const Slot *s = slot(stage, layer);
            const Known *known = s->node ? lookup(s->node) : nullptr;
            if (!known) continue;
            Item item = {s->node, stage, layer, known->order, s->rows, uint8_t(s->n_inputs), false, s->scale, {}};
            memcpy(item.inputs, s->inputs, sizeof item.inputs);
            int at = plan_->n_items++;  // nearly sorted already: by layers
            for (; at > 0 && plan_->items[at - 1].order > item.order; --at) plan_->items[at] = plan_->items[at - 1];
            plan_->items[at] = item;
        }
    }
    plan_->logits = slot(BITNET_STAGE_LOGITS, -1)->node;
    mark_overwritten();
    return true;
}

void Mapper::mark_overwritten() {
    for (int i = 0; i < plan_->n_nodes; ++i) {
        const Tensor *node = e_.graph_node(plan_->graph, i);
        if (!node || !e_.view_src(node) || e_.op(node) == Op::move) continue;
        const Tensor *root = e_.root(node);
        if (!lookup(root)) continue;  // the cache
        for (int k = 0; k < plan_->n_items; ++k) {
            Item &item = plan_->items[k];
            if (item.order < i && e_.root(item.node) == root) item.overwritten = true;
        }
    }
}

}  // namespace

void plan_free(Plan *plan) {
    free(plan->items);
    *plan = {};
}

bool plan_make(Plan *plan, Engine *engine, Graph *graph) {
    plan_free(plan);
    plan->graph = graph;
    plan->n_nodes = engine->graph_n_nodes(graph);
    if (plan->n_nodes <= 0 || Mapper(plan, engine).run()) return true;
    plan_free(plan);
    return false;
}

}  // namespace bitnet::shim
