#include "abi/cli/bench_report.h"

#include <algorithm>

#include "abi/cli/terminal.h"

namespace bitnet {

namespace {

constexpr const char *limit_section = "limits";
constexpr double giga_units = 1e9;

const char *limit_name(Limit limit) { return limit == Limit::read ? "read" : "int8"; }
const char *limit_unit(Limit limit) { return limit == Limit::read ? "GB/s" : "GMAC/s"; }

// Four digits that mean something, without an exponent.
std::string number_text(double value) {
    const int decimals = value >= 1000 ? 0 : value >= 100 ? 1 : value >= 10 ? 2 : 3;
    return text_of("%.*f", decimals, value);
}

}  // namespace

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    const size_t middle = values.size() / 2;
    return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

BenchLine &BenchReport::line(const std::string &section, const std::string &name, int n_threads,
                             const std::string &unit, Limit limit, bool is_limit) {
    const auto found = std::find_if(lines_.begin(), lines_.end(), [&](const BenchLine &l) {
        return l.section == section && l.name == name && l.n_threads == n_threads;
    });
    if (found != lines_.end()) return *found;
    return lines_.emplace_back(BenchLine{section, name, n_threads, unit, limit, is_limit, {}, {}, {}});
}

void BenchReport::add(const std::string &section, const std::string &name, int n_threads, const std::string &unit,
                      double value) {
    line(section, name, n_threads, unit, Limit::none, false).values.push_back(value);
}

void BenchReport::add(const std::string &section, const std::string &name, int n_threads, const std::string &unit,
                      double value, Limit limit, double rate, double limit_then) {
    BenchLine &l = line(section, name, n_threads, unit, limit, false);
    l.values.push_back(value);
    l.rates.push_back(rate);
    if (limit_then > 0) l.limits.push_back(limit_then);
}

void BenchReport::add_limit(const std::string &name, int n_threads, Limit limit, double rate) {
    BenchLine &l = line(limit_section, name, n_threads, limit_unit(limit), limit, true);
    l.values.push_back(rate / giga_units);
    l.rates.push_back(rate);
}

double BenchReport::limit_rate(Limit limit, int n_threads) const {
    double best = 0;
    for (const BenchLine &l : lines_) {
        if (l.is_limit && l.limit == limit && l.n_threads == n_threads) best = std::max(best, median(l.rates));
    }
    return best;
}

double BenchReport::fraction(const BenchLine &line) const {
    if (!line.limits.empty()) {
        std::vector<double> parts;
        for (size_t i = 0; i < line.rates.size(); i++) parts.push_back(line.rates[i] / line.limits[i]);
        return median(parts);
    }
    const double limit = line.limit == Limit::none || line.is_limit ? 0 : limit_rate(line.limit, line.n_threads);
    return limit > 0 ? median(line.rates) / limit : 0;
}

std::vector<std::string> BenchReport::sections() const {
    std::vector<std::string> names;
    for (const BenchLine &l : lines_) {
        if (std::find(names.begin(), names.end(), l.section) == names.end()) names.push_back(l.section);
    }
    return names;
}

std::string BenchReport::table() const {
    size_t width = 0;
    for (const BenchLine &l : lines_) width = std::max(width, l.name.size());
    const int name_width = static_cast<int>(width);
    std::string out;
    for (const std::string &section : sections()) {
        out += "\n" +
               bold(text_of("%-*s %7s %10s %10s %10s  %-14s %s", name_width + 2, section.c_str(), "threads", "median",
                            "lowest", "highest", "unit", "of limit")) +
               "\n";
        for (const BenchLine &l : lines_) {
            if (l.section != section) continue;
            const auto [low, high] = std::minmax_element(l.values.begin(), l.values.end());
            const double part = fraction(l);
            out += text_of("  %-*s %7d %10s %10s %10s  %-14s %s\n", name_width, l.name.c_str(), l.n_threads,
                           number_text(median(l.values)).c_str(), number_text(*low).c_str(), number_text(*high).c_str(),
                           l.unit.c_str(),
                           part > 0 ? text_of("%5.1f %% %s", 100 * part, limit_name(l.limit)).c_str() : "");
        }
    }
    return out;
}

nlohmann::ordered_json BenchReport::json() const {
    nlohmann::ordered_json out = nlohmann::ordered_json::object();
    for (const BenchLine &l : lines_) {
        const auto [low, high] = std::minmax_element(l.values.begin(), l.values.end());
        nlohmann::ordered_json item = {{"name", l.name}, {"threads", l.n_threads},
                                       {"unit", l.unit}, {"median", median(l.values)},
                                       {"lowest", *low}, {"highest", *high}};
        const double part = fraction(l);
        if (part > 0) {
            item["limit"] = limit_name(l.limit);
            item["rate"] = median(l.rates);
            item["fraction"] = part;
            if (!l.limits.empty()) item["limit_then"] = median(l.limits);
        }
        out[l.section].push_back(item);
    }
    return out;
}

}  // namespace bitnet
