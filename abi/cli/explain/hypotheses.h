// What another engine may do instead: every alternative of the semantics that can change an operation.
#pragma once

#include <string>
#include <vector>

#include "abi/cli/explain/operation.h"

namespace bitnet::explain {

// What may be left of a row in place of the operation's tolerance, when larger.
struct Allowance {
    double any = 0;
    bool of_bf16 = false;  // only where every recorded value is a bf16 number: bf16 rounds where it likes
    double by_root = 0;    // times the root of the number of positions: sums that are rounded at each of them
    double in_parts = 0;   // likewise, at positions from which on several threads may share a sum

    double at(int32_t position) const;
};

struct Hypothesis {
    std::string semantics;  // on top of the model's
    std::string text;       // for people
    bool legal;             // another engine's right, not a fault
    Allowance allowed = {};
};

// For the operation that computes `stage`, the likely and the simple first. `text` of the model's own semantics.
std::vector<Hypothesis> hypotheses_for(int32_t stage, const std::string &model_semantics);
// Each legal one with each fault: for operations that no single one reproduces.
std::vector<Hypothesis> pairs_for(int32_t stage, const std::string &model_semantics);
// Two faults of different switches: many, for what neither explains.
std::vector<Hypothesis> fault_pairs_for(int32_t stage, const std::string &model_semantics);

}  // namespace bitnet::explain
