// Figures as SVG: heat maps, and curves on a logarithmic axis. Colours are classes of style.h, so that one figure
// serves light and dark pages; no value is told by colour alone.
#pragma once

#include <limits>
#include <string>
#include <vector>

namespace bitnet::report {

// How a cell looks. Distances fall into classes of a power of ten each.
std::string distance_class(double distance);

struct FigureCell {
    std::string look;     // class: distance_class(), or of an outcome; "": no cell
    std::string text;     // in it, when there is room
    std::string title;    // what it says when pointed at
    bool marked = false;  // a dot: wrong
    bool ringed = false;  // a ring: where to look first
};

struct LegendEntry {
    std::string look, text;
    bool marked = false, ringed = false;
};

struct HeatMap {
    std::string title, description;  // for who does not see it
    std::string row_axis, column_axis;
    std::vector<std::string> rows, columns;
    std::vector<std::vector<FigureCell>> cells;  // by row, each as long as columns
    std::vector<LegendEntry> legend;
    bool slanted = false;  // long column names
};

struct ChartPoint {
    double x = 0;
    double value = std::numeric_limits<double>::quiet_NaN();
    std::string title;
    bool marked = false;
};

struct ChartLine {
    std::string name;
    std::vector<ChartPoint> points;  // by x
};

struct ChartLimit {
    std::string name;
    double value;
};

struct Chart {
    std::string title, description, x_axis, y_axis;
    std::vector<ChartLine> lines;  // at most three
    std::vector<ChartLimit> limits;
    std::string zero_text = "equal", unmeasurable_text = "not measurable";  // bands below and above the axis
};

// A whole <svg> element each, as wide as its place; `height` of the drawing is appended when asked for, at a width of
// figure_width.
inline constexpr int figure_width = 1160;
struct Figure {
    std::string svg;  // what stands inside <svg>
    int height = 0;
    std::string title, description;
    std::string element() const;  // <svg> for a page
};
Figure draw(const HeatMap &map);
Figure draw(const Chart &chart);
// One file of several figures under a heading.
std::string svg_file(const std::string &heading, const std::vector<Figure> &figures);

// The legend of distances.
std::vector<LegendEntry> distance_legend();

}  // namespace bitnet::report
