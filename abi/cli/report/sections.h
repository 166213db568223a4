// The parts of the page, each of one comparison. What is missing is said in words, and never drawn.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "abi/cli/report/figures.h"
#include "abi/cli/report/saved.h"
#include "abi/cli/report/saved_crossval.h"
#include "abi/cli/report/saved_diff.h"

namespace bitnet::report {

struct Tile {
    std::string name, value, note;  // HTML
};

struct Part {
    std::string name;  // "Traces"
    int exit_code = 2;
    std::string sentence;  // as text
    std::vector<Tile> tiles;
};

// HTML, and its figures once more for a file of their own.
struct Section {
    std::string html;
    std::vector<Figure> figures;

    void add(const Figure &figure, const std::string &caption);  // caption: HTML
};

Part diff_part(const Saved &document);
Section diff_maps(const Saved &document);
Section diff_growth(const Saved &document);
Section diff_logits(const Saved &document);
Section diff_first(const Saved &document);
Section diff_preflight(const Saved &document);
Section diff_counts(const Saved &document);
// Which class of legal variations holds each stage; nothing when it was not judged by an envelope.
Section diff_envelope(const Saved &document);

Part explain_part(const Saved &document);
Section explain_causes(const Saved &document);
Section explain_map(const Saved &document);

Part crossval_part(const crossval::Report &report);
// `classes`: classes_of() what it was read from.
Section crossval_section(const crossval::Report &report, const std::vector<std::string> &classes);

// "<h2>" and "not recorded: ...".
std::string absent(const std::string &heading, const std::string &why);
std::string heading(const std::string &text, const std::string &lead);  // lead: HTML
// A place in a map's cell: "3e-4", "=", "?".
std::string cell_text(double distance);
std::string tag(int exit_code);      // the verdict in its colour
int exit_of(const Saved &document);  // 0, 1 or 2, as saved

}  // namespace bitnet::report
