#include <algorithm>
#include <cmath>

#include "abi/cli/report/figures.h"
#include "abi/cli/report/html.h"
#include "abi/cli/terminal.h"

namespace bitnet::report {

namespace {

constexpr double character_width = 6.6;                      // of 12 pixel text, a little more than the usual
constexpr double digit_width = 6.4;                          // of a cell's text
constexpr double dense_width = 38, small_digit_width = 5.8;  // narrower: smaller digits, the dot above them
constexpr double cell_width_max = 58, cell_text_height_min = 13;
constexpr double slant_x = 0.64, slant_y = 0.77;  // cosine and sine of the names' angle, 50 degrees
constexpr double column_label_distance_min = 44;
constexpr double swatch = 15, legend_line = 22;

double text_width(const std::string &text) { return character_width * double(text.size()); }

size_t longest(const std::vector<std::string> &texts) {
    size_t n = 0;
    for (const std::string &text : texts) n = std::max(n, text.size());
    return n;
}

std::string rect(double x, double y, double w, double h, const std::string &look) {
    return text_of("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" class=\"", x, y, w, h) + look + "\"";
}

std::string text_at(double x, double y, const char *look, const std::string &text) {
    return text_of("<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">", x, y, look) + escaped(text) + "</text>\n";
}

std::string dot(double x, double y, double radius, const std::string &look) {
    return text_of("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" class=\"", x, y, radius) + look + "\"/>";
}

class HeatMapDrawing {
public:
    explicit HeatMapDrawing(const HeatMap &map) : map_(map) {
        left_ = std::max(60.0, 12 + character_width * double(longest(map.rows)));
        const double room = figure_width - left_ - (map.slanted ? 110 : 16);
        cell_width_ = std::min(cell_width_max, room / double(std::max<size_t>(map.columns.size(), 1)));
        cell_height_ = map.rows.size() <= 40 ? 20 : map.rows.size() <= 80 ? 14 : 9;
        top_ = map.slanted ? 12 + slant_y * character_width * double(longest(map.columns)) : 42;
    }

    Figure draw() {
        columns();
        rows();
        Figure figure;
        bottom_ = top_ + cell_height_ * double(map_.rows.size()) + 14;
        legend();
        figure.svg = std::move(out_) + std::move(marks_);
        figure.height = int(std::ceil(bottom_)) + 4;
        figure.title = map_.title;
        figure.description = map_.description;
        return figure;
    }

private:
    void columns() {
        out_ += text_at(0, map_.slanted ? top_ - 6 : 12, "soft", map_.row_axis);
        if (!map_.slanted) out_ += text_at(left_, 12, "soft", map_.column_axis);
        const size_t step = map_.slanted ? 1 : size_t(std::ceil(column_label_distance_min / cell_width_));
        for (size_t i = 0; i < map_.columns.size(); i += step) {
            const double x = left_ + (double(i) + 0.5) * cell_width_;
            if (map_.slanted) {
                out_ += text_of("<text transform=\"translate(%.1f %.1f) rotate(-50)\">", x + 3, top_ - 5) +
                        escaped(map_.columns[i]) + "</text>\n";
            } else {
                out_ += text_at(x, top_ - 6, "middle", map_.columns[i]);
            }
        }
    }

    void rows() {
        // Where rows are lower than a line of text not every one has its name.
        const size_t step = size_t(std::ceil(cell_text_height_min / cell_height_));
        for (size_t r = 0; r < map_.rows.size(); ++r) {
            const double y = top_ + double(r) * cell_height_;
            if (r % step == 0 || r + 1 == map_.rows.size())
                out_ += text_at(left_ - 8, y + cell_height_ / 2 + 4, "end", map_.rows[r]);
            for (size_t c = 0; c < map_.columns.size(); ++c) cell(map_.cells[r][c], left_ + double(c) * cell_width_, y);
        }
    }

    void cell(const FigureCell &cell, double x, double y) {
        if (cell.look.empty()) return;
        // A gap shows cells apart, unless they would be all gap.
        const double gap = cell_width_ > 6 ? 1 : 0, w = cell_width_ - gap, h = cell_height_ - 1;
        out_ += "<g>" + rect(x, y, w, h, cell.look) + "/>";
        const bool dense = w < dense_width;
        const double mark = cell.marked && !dense ? 9 : 0, digit = dense ? small_digit_width : digit_width;
        if (cell_height_ >= cell_text_height_min && digit * double(cell.text.size()) <= w - mark - 1)
            out_ += text_of("<text x=\"%.1f\" y=\"%.1f\" class=\"cell %s%st\">", x + w / 2, y + h / 2 + 4,
                            dense ? "small " : "", cell.look.c_str()) +
                    escaped(cell.text) + "</text>";
        if (cell.marked) {
            const double radius = std::min({dense ? 1.6 : 2.3, w / 4, h / 4});
            const bool in_corner = w > 20;  // beside the number
            const double inset = radius + (dense ? 1 : 2.2);
            out_ += dot(x + (in_corner ? w - inset : w / 2), y + (in_corner ? inset : h / 2), radius, cell.look + "t");
        }
        if (!cell.title.empty()) out_ += "<title>" + escaped(cell.title) + "</title>";
        out_ += "</g>\n";
        if (cell.ringed) marks_ += rect(x - 1.5, y - 1.5, w + 3, h + 3, "ring") + " rx=\"2\"/>\n";
    }

    void legend() {
        double x = 0;
        for (const LegendEntry &entry : map_.legend) {
            const double w = swatch + 6 + text_width(entry.text) + 14;
            if (x > 0 && x + w > figure_width + 14) {
                x = 0;
                bottom_ += legend_line;
            }
            if (!entry.look.empty()) out_ += rect(x, bottom_, swatch, swatch, entry.look) + "/>";
            if (entry.marked)
                out_ += dot(x + swatch / 2, bottom_ + swatch / 2, 2.6, entry.look.empty() ? "dot" : entry.look + "t");
            if (entry.ringed) out_ += rect(x + 1, bottom_ + 1, swatch - 2, swatch - 2, "ring") + "/>";
            out_ += text_at(x + swatch + 6, bottom_ + 12, "soft", entry.text);
            x += w;
        }
        bottom_ += legend_line;
    }

    const HeatMap &map_;
    double left_, top_, cell_width_, cell_height_, bottom_ = 0;
    std::string out_, marks_;  // marks lie above every cell
};

}  // namespace

std::string distance_class(double distance) {
    if (std::isnan(distance)) return "hn";
    if (distance == 0) return "h0";
    double edge = 1e-6;
    for (int i = 1; i < 8; ++i, edge *= 10)
        if (distance < edge) return "h" + std::to_string(i);
    return "h8";
}

std::vector<LegendEntry> distance_legend() {
    return {
        {"h0", "equal", false, false},          {"h1", "below 1e-6", false, false},   {"h2", "1e-6", false, false},
        {"h3", "1e-5", false, false},           {"h4", "1e-4", false, false},         {"h5", "1e-3", false, false},
        {"h6", "1e-2", false, false},           {"h7", "0.1", false, false},          {"h8", "1 or more", false, false},
        {"hn", "not measurable", false, false}, {"hx", "not compared", false, false}, {"", "different", true, false},
        {"", "starts here", false, true}};
}

Figure draw(const HeatMap &map) { return HeatMapDrawing(map).draw(); }

std::string Figure::element() const {
    return text_of("<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", figure_width, height) + escaped(title) +
           ". " + escaped(description) + "\">\n" + svg + "</svg>\n";
}

}  // namespace bitnet::report
