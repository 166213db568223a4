// The stages a trace can hold, by number and by name.
#include "plugins/host/stages.h"

#include <cstring>

#include "plugins/host/trace_host.h"

namespace bitnet {

namespace {

// In the order of BITNET_STAGE_...; nullptr where a stage has no such companion.
struct Stage {
    const char *name;
    const char *codes, *scale, *acc;
    bool in_block;
};

#define PLAIN(name)                                                                                                    \
    { name, nullptr, nullptr, nullptr, true }
#define QUANTISED(name)                                                                                                \
    { name, name ".codes", name ".scale", nullptr, true }
#define LINEAR(name)                                                                                                   \
    { name, nullptr, nullptr, name ".acc", true }
#define OUTER(name)                                                                                                    \
    { name, nullptr, nullptr, nullptr, false }

constexpr Stage kStages[BITNET_STAGE_COUNT + 1] = {
    OUTER(nullptr),
    OUTER("embeddings"),
    QUANTISED("attn_norm"),
    LINEAR("q_proj"),
    LINEAR("k_proj"),
    LINEAR("v_proj"),
    PLAIN("q_rope"),
    PLAIN("k_rope"),
    PLAIN("attn_scores"),
    PLAIN("attn_scores_softmax"),
    PLAIN("attn_context"),
    QUANTISED("attn_sub_norm"),
    LINEAR("attn_out"),
    PLAIN("attn_residual"),
    QUANTISED("ffn_norm"),
    LINEAR("ffn_gate"),
    LINEAR("ffn_up"),
    PLAIN("ffn_act"),
    QUANTISED("ffn_sub_norm"),
    LINEAR("ffn_out"),
    PLAIN("layer_out"),
    OUTER("final_norm"),
    OUTER("logits"),
};
static_assert(BITNET_STAGE_LAYER_OUT == 20 && BITNET_STAGE_LOGITS == BITNET_STAGE_COUNT, "kStages is in their order");

#undef PLAIN
#undef QUANTISED
#undef LINEAR
#undef OUTER

// "t12/blk3/attn_norm" and "t12/logits" -> the part after the last prefix; anything else as it is.
const char *skip_number_prefix(const char *text, const char *end, const char *word) {
    const size_t n_word = strlen(word);
    if (size_t(end - text) <= n_word || memcmp(text, word, n_word) != 0) return text;
    const char *p = text + n_word;
    const char *digits = p;
    while (p < end && *p >= '0' && *p <= '9') ++p;
    return p > digits && p < end && *p == '/' ? p + 1 : text;
}

bool equals(const char *name, const char *text, size_t n_bytes) {
    return name && strlen(name) == n_bytes && memcmp(name, text, n_bytes) == 0;
}

}  // namespace

int stage_slot(int32_t stage) {
    const int32_t base = stage & 0xff;
    if (stage < 0 || stage >= 0x400 || base > BITNET_STAGE_COUNT) return -1;
    return (stage >> 8) * (BITNET_STAGE_COUNT + 1) + base;
}

int32_t slot_stage(int slot) { return slot / (BITNET_STAGE_COUNT + 1) << 8 | slot % (BITNET_STAGE_COUNT + 1); }

bool stage_is_default(int32_t stage) {
    return stage >= 1 && stage <= BITNET_STAGE_COUNT && stage != BITNET_STAGE_ATTN_SCORES;
}

bool stage_in_block(int32_t stage) { return kStages[stage & 0xff].in_block; }

int32_t stage_find(const char *name, size_t n_bytes) {
    for (int slot = 0; slot < kStageSlots; ++slot) {
        if (equals(trace_stage_name(slot_stage(slot)), name, n_bytes)) return slot_stage(slot);
    }
    return equals("all_layers_out", name, n_bytes) ? BITNET_STAGE_LAYER_OUT : 0;
}

}  // namespace bitnet

const char *trace_stage_name(int32_t stage) {
    if (bitnet::stage_slot(stage) < 0) return nullptr;
    const bitnet::Stage &entry = bitnet::kStages[stage & 0xff];
    switch (stage & ~0xff) {
    case 0: return entry.name;
    case BITNET_STAGE_CODES: return entry.codes;
    case BITNET_STAGE_SCALE: return entry.scale;
    case BITNET_STAGE_ACC: return entry.acc;
    default: return nullptr;
    }
}

int trace_stage_in_block(int32_t stage) { return bitnet::stage_in_block(stage); }

int32_t trace_stage_id(const char *name, uint64_t n_bytes) {
    if (!name) return 0;
    const char *end = name + n_bytes;
    const char *rest = bitnet::skip_number_prefix(name, end, "t");
    if (rest != name) rest = bitnet::skip_number_prefix(rest, end, "blk");
    return bitnet::stage_find(rest, size_t(end - rest));
}
