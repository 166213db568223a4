// One operation of the recording, judged: recomputed from its recorded inputs under some semantics and compared.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "abi/cli/recording/recording.h"
#include "bitnet_c.h"

namespace bitnet::explain {

using recording::Key;
using recording::Recording;
using recording::Rows;

using ReplayHandle = std::unique_ptr<bitnet_replay_t, decltype(&bitnet_replay_free)>;

// One model under one set of semantics, with its operations by place.
class Engine {
public:
    // nullopt with `why` when the model cannot have these semantics.
    static std::optional<Engine> make(const bitnet_model_t *model, const std::string &semantics, std::string &why);
    const bitnet_operation_t *find(int32_t layer, int32_t stage) const;
    const std::vector<bitnet_operation_t> &operations() const { return operations_; }
    std::string semantics() const { return bitnet_replay_semantics(replay_.get()); }
    // Output of an operation as bytes, rows one after another. Throws CommandError.
    std::string run(Key place, const std::vector<bitnet_rows_t> &inputs, const std::vector<int32_t> &positions) const;

private:
    explicit Engine(ReplayHandle replay) : replay_(std::move(replay)) {}
    ReplayHandle replay_;
    std::vector<bitnet_operation_t> operations_;
    std::map<Key, size_t> places_;
};

enum class OperationClass { embedding, norm, rope, attention, linear, activation, residual, head, scale, codes, acc };
OperationClass class_of(int32_t stage);

struct RowFit {
    int32_t position;
    double distance, allowed;
};

// How far an output is from the recorded one. The worst row decides.
struct Fit {
    bool compared = false;
    std::string why_not;   // when it was not compared
    bool equal = false;    // bits
    bool within = false;   // the tolerance
    double distance = 0;   // relative L2 of the worst row; of codes, code steps from a tie; of sums, unequal ones
    double allowed = 0;    // of that row
    int32_t position = 0;  // of that row
    size_t index = 0;      // of its element that is farthest off
    double recorded = 0, ours = 0;  // that element
    std::string shape;              // what was recorded, when it has another number of elements
    size_t n_rows = 0;              // compared
    std::vector<RowFit> rows;       // each of them, when not all are within
    size_t n_flips = 0;             // codes at a rounding tie that explain a linear
    std::string through;            // a stage that was not recorded and recomputed as well
};

struct Tolerances {
    bool exact = false;  // bits, as between an engine and itself
    double factor = 1;   // on every tolerance
};

// The operation that computes (layer, stage), under `engine`, against the recording.
Fit judge(const Engine &engine, const Recording &recording, Key place, const Tolerances &tolerances);

// Whether every recorded value of the stage is a bf16 number.
bool is_bf16(const Rows &rows);

}  // namespace bitnet::explain
