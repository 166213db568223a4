// The page: one HTML file that needs nothing else.
#pragma once

#include <optional>
#include <string>

#include <nlohmann/json.hpp>

namespace bitnet::report {

// One comparison, as its command printed it; or why there is none.
struct Document {
    std::optional<nlohmann::json> json;
    std::string place;       // the file, for messages and the footer
    std::string why_absent;  // "no raw values were recorded": said where it would stand
};

struct Documents {
    std::string title;  // "": of the comparison
    Document diff, explain, crossval;
    bool crossval_is_receipt = false;
};

struct Page {
    int exit_code = 2;
    std::string verdict;   // "match", "divergence" or "error"
    std::string sentence;  // that the page opens with
    std::string html, svg;
};

// Throws CommandError when a document is damaged.
Page make_page(const Documents &documents);

}  // namespace bitnet::report
