// Pieces of HTML that is well-formed XML too. Everything that comes from outside passes through escaped().
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace bitnet::report {

// Text for elements and attributes: markup characters as entities, control bytes and what is no UTF-8 as \xNN. Marks
// that turn the direction of writing as \u{...}: a name cannot rearrange what stands around it.
std::string escaped(std::string_view text);
// The same, cut to about `bytes_max` with the number of bytes left out.
std::string escaped_cut(std::string_view text, size_t bytes_max);
// The same for a sentence: the options in it stay on one line.
std::string escaped_sentence(std::string_view text, size_t bytes_max);
// "1 position", "2 positions".
std::string plural(uint64_t n, const char *noun);
// <code> of an untrusted name or path.
std::string code(std::string_view text);

struct Column {
    std::string title;  // as text
    bool numeric = false;
};

// Cells are HTML; so is the caption. A row's first cell is its head.
class Table {
public:
    Table(std::string caption, std::vector<Column> columns)
        : caption_(std::move(caption)), columns_(std::move(columns)) {}
    void add(std::vector<std::string> cells, const std::string &row_class = "");
    void be_narrow() { narrow_ = true; }  // no wider than its cells need
    bool empty() const { return n_rows_ == 0; }
    std::string html() const;

private:
    std::string caption_;
    std::vector<Column> columns_;
    std::string rows_;
    size_t n_rows_ = 0;
    bool narrow_ = false;
};

// A part that opens on a click. `summary` and `content` are HTML.
std::string details(const std::string &summary, const std::string &content);

// "3.2e-05", "0", "infinite"; NaN is "not measurable".
std::string distance_text(double distance);
std::string value_text(double value);  // nine digits: tells any two f32 apart

}  // namespace bitnet::report
