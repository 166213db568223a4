// Names of weights in GGUF files, which the engine keeps: the only names that mean the same in every version.
#include <cstring>

#include "bitnet_c.h"
#include "shim/plan.h"

namespace bitnet::shim {

namespace {

struct NamedWeight {
    const char *name;
    int32_t stage;
};
constexpr NamedWeight kInBlock[] = {
    {"attn_norm", BITNET_STAGE_ATTN_NORM},
    {"attn_q", BITNET_STAGE_Q_PROJ},
    {"attn_k", BITNET_STAGE_K_PROJ},
    {"attn_v", BITNET_STAGE_V_PROJ},
    {"attn_sub_norm", BITNET_STAGE_ATTN_SUB_NORM},
    {"attn_output", BITNET_STAGE_ATTN_OUT},
    {"ffn_norm", BITNET_STAGE_FFN_NORM},
    {"ffn_gate", BITNET_STAGE_FFN_GATE},
    {"ffn_up", BITNET_STAGE_FFN_UP},
    {"ffn_sub_norm", BITNET_STAGE_FFN_SUB_NORM},
    {"ffn_down", BITNET_STAGE_FFN_OUT},
};
constexpr NamedWeight kOutside[] = {
    {"token_embd", BITNET_STAGE_EMBEDDINGS},
    {"output_norm", BITNET_STAGE_FINAL_NORM},
    {"output", BITNET_STAGE_LOGITS},
};

template <size_t N> int32_t find(const NamedWeight (&table)[N], const char *name, size_t n) {
    for (const NamedWeight &weight : table) {
        if (strlen(weight.name) == n && memcmp(weight.name, name, n) == 0) return weight.stage;
    }
    return 0;
}

}  // namespace

int32_t stage_of_weight(const char *name, int32_t *layer) {
    *layer = -1;
    const bool in_block = strncmp(name, "blk.", 4) == 0;
    if (in_block) {
        int number = 0;
        const char *p = name + 4;
        for (; *p >= '0' && *p <= '9' && number < kLayersMax; ++p) number = 10 * number + (*p - '0');
        if (p == name + 4 || *p != '.' || number >= kLayersMax) return 0;
        *layer = number;
        name = p + 1;
    }
    const char *dot = strchr(name, '.');
    if (!dot || (strcmp(dot, ".weight") != 0 && strcmp(dot, ".scale") != 0 && strcmp(dot, ".bias") != 0)) return 0;
    const size_t n = size_t(dot - name);
    return in_block ? find(kInBlock, name, n) : find(kOutside, name, n);
}

}  // namespace bitnet::shim
