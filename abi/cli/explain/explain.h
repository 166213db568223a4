// Which operations of a recording our engine reproduces from their recorded inputs, and what the others do instead.
#pragma once

#include <string>
#include <vector>

#include "abi/cli/explain/hypotheses.h"

namespace bitnet::explain {

enum class Outcome {
    reproduced,  // a fault in it, if there is any, is inherited
    legal,       // under a named alternative that is an engine's right
    wrong,
    uncompared,  // not judged: says why
};

struct Alternative {
    std::string semantics, text;
    bool legal = false;
    double distance = 0;  // that it leaves
};

struct Finding {
    int32_t layer = -1, stage = 0;
    Outcome outcome = Outcome::uncompared;
    Fit fit;                          // under the model's own semantics
    std::vector<Alternative> causes;  // that reproduce it, the likeliest first
};

// Findings of the same cause.
struct Group {
    Alternative cause;  // semantics "": none was found
    Outcome outcome;
    std::vector<const Finding *> findings;
};

struct Report {
    std::string path, engine, engine_version, model, model_hash, semantics;
    bool exact = false;
    std::vector<std::string> facts, errors;
    std::vector<Finding> findings;  // in execution order
    std::vector<Group> groups;      // faults first, by their first operation
    size_t n_reproduced = 0, n_legal = 0, n_wrong = 0, n_uncompared = 0, n_unrecorded = 0, n_rows = 0, n_flips = 0;
    int exit_code = 2;
    std::string verdict;  // "reproduced", "wrong" or "error"
    std::string text;     // the verdict in a sentence
};

struct Options {
    enum class Tolerance { automatic, exact, preset } tolerance = Tolerance::automatic;
    double factor = 1;  // on every tolerance of the preset
    bool allow_other_model = false;
};

Report explain(const bitnet_model_t *model, const Recording &recording, const Options &options);

// "ffn_act of layers 0-2"
std::string places_text(const Group &group);
std::string render_text(const Report &report);
std::string render_json(const Report &report);

}  // namespace bitnet::explain
