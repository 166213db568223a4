// The rows of a run, a hash each, and the comparison of another run's rows with them.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace bitnet::certify {

struct RowId {
    int32_t position = 0;
    int32_t layer = -1;
    int32_t stage = 0;  // BITNET_STAGE_..., companions included

    auto operator<=>(const RowId &) const = default;
};

struct Row {
    RowId id;
    std::string hash;  // BLAKE3 of its values, 64 hex digits
};

std::string stage_name(int32_t stage);  // "ffn_act"
// "position 12, layer 3, ffn_act"
std::string name_of(const RowId &id);

// The rows that every run must repeat, in canonical order: by position, and as the engine computes them within one.
class Reference {
public:
    // `rows` in execution order. Throws CommandError when one came twice.
    explicit Reference(std::vector<Row> rows);

    const std::vector<Row> &rows() const { return rows_; }
    // Index of the row in rows(); none: rows().size().
    size_t find(const RowId &id) const;
    // What the result hash is of: "POSITION LAYER STAGE HASH\n" for each row.
    std::string lines() const;

private:
    std::vector<Row> rows_;
    std::vector<size_t> by_id_;  // indices of rows_, ordered by id
};

// What a run must have shown when it ends.
struct Coverage {
    int32_t from_position = 0;
    bool logits_only = false;
};

// One run against the reference. Rows may come in any order, and more than once.
class Comparison {
public:
    explicit Comparison(const Reference &reference);

    void add(const Row &row);

    uint64_t n_compared() const { return n_compared_; }
    uint64_t n_different() const { return n_different_; }
    uint64_t n_unknown() const { return n_unknown_; }  // rows that the reference has not
    uint64_t n_missing(const Coverage &coverage) const;
    // The first in canonical order that differs: the reference's row, and the hash found; nullptr and "" when none
    // does.
    const Row *first_expected() const;
    const std::string &first_found() const { return first_found_; }

private:
    const Reference &reference_;
    std::vector<bool> seen_;
    uint64_t n_compared_ = 0;
    uint64_t n_different_ = 0;
    uint64_t n_unknown_ = 0;
    size_t first_;
    std::string first_found_;
};

}  // namespace bitnet::certify
