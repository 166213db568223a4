#include "abi/cli/certify/rows.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "abi/cli/terminal.h"
#include "bitnet_c.h"

namespace bitnet::certify {

std::string stage_name(int32_t stage) {
    const char *name = bitnet_stage_name(stage);
    return name ? name : std::to_string(stage);  // of a library newer than this program
}

std::string name_of(const RowId &id) {
    return text_of("position %d, ", id.position) + (id.layer < 0 ? "" : text_of("layer %d, ", id.layer)) +
           stage_name(id.stage);
}

Reference::Reference(std::vector<Row> rows) : rows_(std::move(rows)), by_id_(rows_.size()) {
    std::stable_sort(rows_.begin(), rows_.end(),
                     [](const Row &a, const Row &b) { return a.id.position < b.id.position; });
    std::iota(by_id_.begin(), by_id_.end(), size_t(0));
    std::sort(by_id_.begin(), by_id_.end(), [&](size_t a, size_t b) { return rows_[a].id < rows_[b].id; });
    const auto twice = std::adjacent_find(by_id_.begin(), by_id_.end(),
                                          [&](size_t a, size_t b) { return rows_[a].id == rows_[b].id; });
    if (twice != by_id_.end()) throw CommandError(name_of(rows_[*twice].id) + ": traced twice in one run");
}

size_t Reference::find(const RowId &id) const {
    const auto at = std::lower_bound(by_id_.begin(), by_id_.end(), id,
                                     [&](size_t index, const RowId &wanted) { return rows_[index].id < wanted; });
    return at != by_id_.end() && rows_[*at].id == id ? *at : rows_.size();
}

std::string Reference::lines() const {
    std::string lines;
    for (const Row &row : rows_) {
        lines += std::to_string(row.id.position) + " " + std::to_string(row.id.layer) + " " + stage_name(row.id.stage) +
                 " " + row.hash + "\n";
    }
    return lines;
}

Comparison::Comparison(const Reference &reference)
    : reference_(reference), seen_(reference.rows().size()), first_(reference.rows().size()) {}

void Comparison::add(const Row &row) {
    const size_t index = reference_.find(row.id);
    if (index == reference_.rows().size()) {
        n_unknown_++;
        return;
    }
    n_compared_++;
    seen_[index] = true;
    if (row.hash == reference_.rows()[index].hash) return;
    n_different_++;
    if (index >= first_) return;
    first_ = index;
    first_found_ = row.hash;
}

uint64_t Comparison::n_missing(const Coverage &coverage) const {
    uint64_t n = 0;
    for (size_t i = 0; i < seen_.size(); i++) {
        const RowId &id = reference_.rows()[i].id;
        const bool covered = id.stage == BITNET_STAGE_LOGITS || !coverage.logits_only;
        n += !seen_[i] && id.position >= coverage.from_position && covered;
    }
    return n;
}

const Row *Comparison::first_expected() const {
    return first_ < reference_.rows().size() ? &reference_.rows()[first_] : nullptr;
}

}  // namespace bitnet::certify
