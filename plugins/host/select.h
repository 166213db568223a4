// A selection of what is traced, compiled so that asking is a few compares.
#pragma once

#include <cstdint>

#include "plugins/host/stages.h"

namespace bitnet {

// One mask bit per item, and bit 0 for the stages that are on by default.
constexpr int kSelectItemsMax = 63;

struct NumberTerm {
    int32_t lo, hi;    // inclusive
    const char *glob;  // else a pattern for the number's decimal text, inside Selection::text
    uint32_t glob_bytes;
};

struct NumberSet {
    uint32_t first, count;  // in Selection::terms; count 0: every number
};

struct SelectItem {
    NumberSet seq, layer;
};

struct Selection {
    char *text;         // as given; owned
    NumberTerm *terms;  // owned
    SelectItem items[kSelectItemsMax + 1];
    uint64_t include[kStageSlots];  // items that name this stage
    uint64_t exclude[kStageSlots];
};

// False with one line in `error` (TRACE_ERROR_BYTES): nothing is left to free. NULL or blank text is the default.
bool selection_compile(Selection *out, const char *text, char *error);
void selection_free(Selection *selection);
bool selection_wants_row(const Selection &selection, int32_t stage, int32_t layer, int32_t position);
// Whether the stage may be wanted at some position: for what must be decided before positions are known.
bool selection_wants_layer(const Selection &selection, int32_t stage, int32_t layer);
// Whether any of the rows is wanted.
bool selection_wants(const Selection &selection, int32_t stage, int32_t layer, int32_t first_position, int32_t n_rows);

}  // namespace bitnet
