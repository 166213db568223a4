// What a comparison of traces is told on the command line.
#pragma once

#include "abi/cli/diff/diff.h"

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace bitnet::diff {

// --tolerance: "auto", "exact", "ties" or a distance.
struct Tolerance {
    std::string text = "auto";

    void add_to(CLI::App &command, const std::string &help);
    std::optional<Rule> rule() const;  // none: auto
    double max_distance() const;       // of Rule::distance
};

struct Arguments {
    Tolerance tolerance;
    std::vector<std::string> ignore;
    Options options;

    void add_to(CLI::App &command);
    Options resolved() const;
};

}  // namespace bitnet::diff
