// How far the legal variations of this engine move every stage of one model and prompt, and what follows from it:
// whether a distance is inside the noise of a class.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bitnet_c.h"

namespace bitnet::envelope {

inline constexpr int schema = 1;
inline constexpr const char *engine_name = "bitnet-c";

// The largest distance that was seen is multiplied by this, what grows with its square (NMSE, KL, 1 - cosine) by its
// square. ENVELOPE.md says where the number comes from.
inline constexpr double margin = 2.5;
// What float32 may differ by in one operation at equal input, attention being the loosest: no stage is held to less.
// Only the embeddings, which are copied, are.
inline constexpr double float32_floor = 5e-6;

// What an envelope is of. Another value of any of them is another envelope.
struct Subject {
    std::string engine_version;
    std::string model_hash;       // 64 hex digits
    std::string semantics;        // of the engine it is around, as bitnet_model_semantics, its KV type among them
    std::vector<int32_t> tokens;  // evaluated from position 0
    int n_seeds = 0;
};

// Distances of one stage of a layer: the largest over all positions and variations of a class.
struct StageReach {
    int32_t layer = -1;
    std::string stage;
    double relative = 0;         // L2 distance over the L2 norm of the engine's own row
    double cosine_distance = 0;  // 1 - cosine
    int32_t position = -1;       // of `relative`; -1: every row was equal
};

// Distances of the logits of one position: the largest over the variations.
struct LogitsReach {
    int32_t position = 0;
    double relative = 0, cosine_distance = 0, nmse = 0, kl = 0, max_abs = 0;
    bool top1_equal = true;  // in all of them
};

struct ClassReach {
    std::string name, text;
    std::vector<std::string> variations;  // "kv=f16", "profile=bitnetcpp, codes flipped, seed 2"
    std::vector<StageReach> stages;       // in execution order, the same ones in every class
    std::vector<LogitsReach> logits;      // by position
};

struct Envelope {
    Subject subject;
    std::string model_path;
    std::vector<ClassReach> classes;  // from the smallest to the largest, each by itself
};

// "" when `found` can judge what `wanted` describes; else the first difference. Its tokens may go on where the wanted
// ones end.
std::string mismatch(const Subject &found, const Subject &wanted);

// Answers "which is the smallest class that this fits into?". Classes are nested: each allows what the smaller ones do.
class Judge {
public:
    explicit Judge(Envelope envelope);

    const Envelope &envelope() const { return envelope_; }
    size_t n_classes() const { return envelope_.classes.size(); }
    const std::string &name(size_t index) const { return envelope_.classes[index].name; }

    // The largest relative L2 distance inside class `index`; none: the envelope does not have the stage.
    std::optional<double> allowed(size_t index, int layer, std::string_view stage) const;
    // Index of the smallest class that holds the distance, n_classes() when none does (NaN: none); none: as above.
    std::optional<size_t> smallest(int layer, std::string_view stage, double relative) const;
    // What class `index` allows of logits, for bitnet_compare_rows.
    bitnet_logits_limits_t limits(size_t index) const;
    // The smallest class whose limits the row keeps, n_classes() when none; of a row that was measured in part, by
    // that.
    size_t smallest(const bitnet_logits_row_t &row) const;

private:
    Envelope envelope_;
    std::map<std::pair<int, std::string>, std::vector<double>, std::less<>> allowed_;  // by class
};

}  // namespace bitnet::envelope
