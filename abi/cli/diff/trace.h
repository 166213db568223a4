// What is kept of a trace: its runs and its problems, and, for those who want them, its records.
#pragma once

#include "abi/cli/diff/stages.h"

#include <array>
#include <bitset>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace bitnet::diff {

inline constexpr int kSchema = 1;
inline constexpr size_t kSketchBuckets = 64;
inline constexpr size_t kTopCount = 8;

struct Top {
    uint32_t index;
    float value;  // may be infinite
};

// Where a record stands.
struct Place {
    uint32_t file = 0, line = 0;
};

// One tensor record: one stage of one token position.
struct Record {
    Key key = 0;
    uint64_t event = 0;     // execution number in its run
    uint64_t multiset = 0;  // order-free hash
    uint64_t n_elements = 0, n_nan = 0, n_inf = 0, n_zeros = 0;
    double rms = 0, mean = 0, min = 0, max = 0, absmax = 0, l2 = 0;  // over the finite elements
    std::array<uint8_t, 32> blake3{};
    std::array<Top, kTopCount> top{};  // largest by magnitude first
    std::array<float, kSketchBuckets> sketch{};
    uint32_t n_top = 0;
    std::optional<uint32_t> argmax;     // first index of max; other writers may leave it out
    std::optional<uint32_t> nonfinite;  // first index of NaN or an infinity, likewise
    uint32_t line = 0;                  // in its file, from 1
    uint32_t file = 0;                  // index into Trace::files
    std::array<char, 5> dtype{};        // "F32", NUL-terminated
    // BitNet-rs's nine fields: of the numbers only n_elements and rms, which is NaN when it was not finite; blake3 is of
    // the values as f32 whatever dtype says.
    bool bare = false;
    bool position_assumed = false;  // it names no position: 0 is a guess

    Place place() const { return {file, line}; }
};

using TextPairs = std::vector<std::pair<std::string, std::string>>;  // key, value as text, in file order

struct Run {
    std::string engine, engine_version, model_path, model_hash, architecture, isa, kv_type;  // "" when unknown
    TextPairs hyperparameters, semantics;
    std::vector<std::pair<int64_t, int32_t>> tokens;  // (position, id), ascending, each position once
    std::bitset<kNodeLimit> nodes;                    // stages that have a record
    uint64_t n_records = 0, n_position_assumed = 0;
    int max_layer = -1;
    bool bare = false;        // of BitNet-rs's records, which name no run
    bool overridden = false;  // a sink replaced values

    // From position 0 on; empty when not all of them are known.
    std::vector<int32_t> ids() const {
        std::vector<int32_t> ids;
        for (const auto &[position, id] : tokens) {
            if (position != int64_t(ids.size())) return {};
            ids.push_back(id);
        }
        return ids;
    }
};

// Lines for people; the first few are kept, all are counted.
class Problems {
public:
    static constexpr size_t kKept = 8;
    void add(std::string line) {
        if (lines_.size() < kKept) lines_.push_back(std::move(line));
        ++total_;
    }
    void add(const Problems &more) {
        const uint64_t total = total_ + more.total_;
        for (const std::string &line : more.lines_) add(line);
        total_ = total;
    }
    bool empty() const { return total_ == 0; }
    uint64_t total() const { return total_; }
    const std::vector<std::string> &lines() const { return lines_; }

private:
    std::vector<std::string> lines_;
    uint64_t total_ = 0;
};

class RawValues;

struct Trace {
    std::string path;
    std::vector<std::string> files;
    std::vector<Run> runs;               // renumbered from 0 across files
    uint64_t n_records = 0;              // duplicates included
    std::deque<Record> records;          // as read; of read_trace only
    std::vector<const Record *> sorted;  // by key, duplicates left out; likewise
    uint64_t n_unparsable = 0;           // lines that are no valid record
    uint64_t n_duplicate = 0;
    std::shared_ptr<RawValues> raw;      // of a side that holds raw values, else null
    Problems problems;    // always errors
    Problems incomplete;  // run_end counts that disagree with the records: errors unless missing records are allowed
};

}  // namespace bitnet::diff
