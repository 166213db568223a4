// What another engine may do instead: every alternative of the semantics that can change an operation.
#pragma once

#include <string>
#include <vector>

#include "abi/cli/explain/operation.h"

namespace bitnet::explain {

struct Hypothesis {
    std::string semantics;  // on top of the model's
    std::string text;       // for people
    bool legal;             // another engine's right, not a fault
    double allowed = 0;     // in place of the operation's tolerance, when larger: bf16 rounds where it likes
};

// For the operation that computes `stage`, the likely and the simple first. `text` of the model's own semantics.
std::vector<Hypothesis> hypotheses_for(int32_t stage, const std::string &model_semantics);
// Each legal one with each fault: for operations that no single one reproduces.
std::vector<Hypothesis> pairs_for(int32_t stage, const std::string &model_semantics);
// Two faults of different switches: many, for what neither explains.
std::vector<Hypothesis> fault_pairs_for(int32_t stage, const std::string &model_semantics);

}  // namespace bitnet::explain
