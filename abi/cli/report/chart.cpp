#include <algorithm>
#include <cmath>
#include <vector>

#include "abi/cli/report/figures.h"
#include "abi/cli/report/html.h"
#include "abi/cli/report/style.h"
#include "abi/cli/terminal.h"

namespace bitnet::report {

namespace {

constexpr double left = 112, right = 20, top = 40, plot_height = 220, band_height = 26, bottom = 44;
constexpr double band_gap = 8;  // between a band and the axis, whose numbers stand at their lines
constexpr double x_label_distance_min = 40;
constexpr int decades_max = 16;  // below the largest: rounding of rounding is not worth its room
constexpr size_t large_points_max = 160;

bool is_drawn_on_axis(double value) { return std::isfinite(value) && value > 0; }

class ChartDrawing {
public:
    explicit ChartDrawing(const Chart &chart) : chart_(chart) { find_ranges(); }

    Figure draw() {
        bands();
        y_axis();
        x_axis();
        limits();
        for (size_t i = 0; i < chart_.lines.size(); ++i) line(i);
        names();
        Figure figure;
        figure.svg = std::move(out_);
        figure.height = int(std::ceil(y_end() + bottom));
        figure.title = chart_.title;
        figure.description = chart_.description;
        return figure;
    }

private:
    void find_ranges() {
        double least = HUGE_VAL, largest = 0;
        const auto see = [&](double value) {
            if (value == 0) has_zero_ = true;
            if (!std::isfinite(value)) has_unmeasurable_ = true;
            if (!is_drawn_on_axis(value)) return;
            least = std::min(least, value);
            largest = std::max(largest, value);
        };
        x_low_ = HUGE_VAL;
        x_high_ = -HUGE_VAL;
        for (const ChartLine &line : chart_.lines) {
            for (const ChartPoint &point : line.points) {
                see(point.value);
                x_low_ = std::min(x_low_, point.x);
                x_high_ = std::max(x_high_, point.x);
            }
        }
        for (const ChartLimit &limit : chart_.limits)
            if (is_drawn_on_axis(limit.value)) see(limit.value);
        if (largest == 0) least = largest = 1e-3;  // only equal or unmeasurable ones: any axis will do
        decade_high_ = int(std::ceil(std::log10(largest) + 1e-9));
        decade_low_ = std::max(int(std::floor(std::log10(least) - 1e-9)), decade_high_ - decades_max);
        if (decade_high_ - decade_low_ < 2) --decade_low_;
    }

    double axis_top() const { return top + (has_unmeasurable_ ? band_height + band_gap : 0); }
    double y_end() const { return axis_top() + plot_height + (has_zero_ ? band_height + band_gap : 0); }

    double x_of(double x) const {
        const double span = x_high_ - x_low_, room = figure_width - left - right - 24;
        return left + 12 + (span > 0 ? (x - x_low_) / span * room : room / 2);
    }
    double y_of(double value) const {
        if (!std::isfinite(value)) return top + band_height / 2;
        if (value <= 0) return axis_top() + plot_height + band_gap + band_height / 2;
        const double share = (std::log10(value) - decade_low_) / double(decade_high_ - decade_low_);
        return axis_top() + plot_height * (1 - std::clamp(share, 0.0, 1.0));
    }

    void text(double x, double y, const char *look, const std::string &text) {
        out_ += text_of("<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">", x, y, look) + escaped(text) + "</text>\n";
    }
    void straight(double x1, double y1, double x2, double y2, const char *look) {
        out_ += text_of("<path d=\"M%.1f %.1fL%.1f %.1f\" class=\"%s\"/>\n", x1, y1, x2, y2, look);
    }

    void band(double y, const std::string &name) {
        out_ += text_of("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" class=\"band\"/>\n", left, y,
                        figure_width - left - right, band_height);
        text(left - 8, y + band_height / 2 + 4, "end soft", name);
    }

    void bands() {
        if (has_unmeasurable_) band(top, chart_.unmeasurable_text);
        if (has_zero_) band(axis_top() + plot_height + band_gap, chart_.zero_text);
    }

    void y_axis() {
        const int step = (decade_high_ - decade_low_ + 7) / 8;
        for (int decade = decade_high_; decade >= decade_low_; decade -= step) {
            const double y =
                axis_top() + plot_height * double(decade_high_ - decade) / double(decade_high_ - decade_low_);
            straight(left, y, figure_width - right, y, "grid");
            text(left - 8, y + 4, "end",
                 decade >= -1 && decade <= 3 ? text_of("%g", std::pow(10, decade)) : text_of("1e%d", decade));
        }
    }

    void x_axis() {
        straight(left, y_end(), figure_width - right, y_end(), "axis");
        const double pixels = x_of(x_low_ + 1) - x_of(x_low_);
        int step = 1;
        // 1, 2, 5, 10, 20, 50, ...
        for (int i = 0; double(step) * pixels < x_label_distance_min && x_high_ > x_low_ && step < 1000000; ++i)
            step = i % 3 == 1 ? step * 5 / 2 : step * 2;
        for (double x = std::ceil(x_low_ / step) * step; x <= x_high_; x += step)
            text(x_of(x), y_end() + 16, "middle", text_of("%.0f", x));
        text(left + (figure_width - left - right) / 2, y_end() + 35, "middle soft", chart_.x_axis);
    }

    void limits() {
        for (const ChartLimit &limit : chart_.limits) {
            if (!is_drawn_on_axis(limit.value)) continue;
            const double y = y_of(limit.value);
            straight(left, y, figure_width - right, y, "limit");
            text(figure_width - right - 4, y - 4, "end limit-text", limit.name);
        }
    }

    void line(size_t i) {
        const ChartLine &line = chart_.lines[i];
        const int look = int(i) + 1;
        const double size = line.points.size() > large_points_max ? 1.8 : 3.8;
        std::string path;
        for (const ChartPoint &point : line.points)
            path += text_of("%c%.1f %.1f", path.empty() ? 'M' : 'L', x_of(point.x), y_of(point.value));
        if (line.points.size() > 1) out_ += text_of("<path class=\"l%d\" d=\"", look) + path + "\"/>\n";
        for (const ChartPoint &point : line.points) {
            const double x = x_of(point.x), y = y_of(point.value);
            out_ += "<g>" + marker(look, x, y, size);
            if (point.marked) out_ += text_of("<path class=\"cross\" d=\"M%.1f %.1fl8 8m0 -8l-8 8\"/>", x - 4, y - 4);
            out_ += "<title>" + escaped(point.title) + "</title></g>\n";
        }
    }

    static std::string marker(int look, double x, double y, double size) {
        if (look == 1) return text_of("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" class=\"p1\"/>", x, y, size);
        if (look == 2)
            return text_of("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" class=\"p2\"/>", x - size,
                           y - size, 2 * size, 2 * size);
        return text_of("<path d=\"M%.1f %.1fl%.1f %.1fl-%.1f %.1fl-%.1f -%.1fz\" class=\"p3\"/>", x, y - size * 1.3,
                       size * 1.3, size * 1.3, size * 1.3, size * 1.3, size * 1.3, size * 1.3);
    }

    void names() {
        double x = left;
        text(0, 14, "soft", chart_.y_axis);
        for (size_t i = 0; i < chart_.lines.size(); ++i) {
            const int look = int(i) + 1;
            out_ += text_of("<path class=\"l%d\" d=\"M%.1f 29h28\"/>", look, x) + marker(look, x + 14, 29, 3.8) + "\n";
            text(x + 34, 33, "", chart_.lines[i].name);
            x += 60 + 6.6 * double(chart_.lines[i].name.size());
        }
    }

    const Chart &chart_;
    bool has_zero_ = false, has_unmeasurable_ = false;
    int decade_low_ = 0, decade_high_ = 0;
    double x_low_ = 0, x_high_ = 0;
    std::string out_;
};

}  // namespace

Figure draw(const Chart &chart) { return ChartDrawing(chart).draw(); }

std::string svg_file(const std::string &heading, const std::vector<Figure> &figures) {
    constexpr int margin = 20, gap = 26, heading_height = 34;
    // A heading in lines that fit.
    std::vector<std::string> lines(1);
    constexpr size_t line_bytes_max = 140;
    for (size_t at = 0; at < heading.size();) {
        const size_t end = std::min(heading.find(' ', at), heading.size());
        if (!lines.back().empty() && lines.back().size() + end - at > line_bytes_max) lines.emplace_back();
        lines.back() += (lines.back().empty() ? "" : " ") + heading.substr(at, end - at);
        at = end + 1;
    }
    std::string body;
    int y = margin;
    for (const std::string &line : lines) {
        y += 18;
        body += text_of("<text x=\"%d\" y=\"%d\" class=\"head\">", margin, y) + escaped(line) + "</text>\n";
    }
    y += heading_height - 18;
    for (const Figure &figure : figures) {
        body += text_of("<g transform=\"translate(%d %d)\">\n", margin, y + 12) + "<text class=\"head\">" +
                escaped(figure.title) + text_of("</text>\n<g transform=\"translate(0 14)\">\n") + figure.svg +
                "</g></g>\n";
        y += 12 + 14 + figure.height + gap;
    }
    const int width = figure_width + 2 * margin;
    return text_of("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" "
                   "role=\"img\">\n",
                   width, y, width, y) +
           "<title>" + escaped(heading) + "</title>\n<style>" + theme_css + "</style>\n" +
           text_of("<rect width=\"%d\" height=\"%d\" class=\"bg\"/>\n", width, y) + body + "</svg>\n";
}

}  // namespace bitnet::report
