// What a benchmark has measured: named lines of repetitions, their medians, and which part of the machine's limit they
// are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace bitnet {

// The limits that a figure may be held against: the best of what was measured of either at the same number of threads.
enum class Limit { none, read, byte_products };

struct BenchLine {
    std::string section;
    std::string name;
    int n_threads;
    std::string unit;  // of the values
    Limit limit;       // which one the rates are held against
    bool is_limit;     // its values, times 1e9, are rates of that limit rather than of the engine
    std::vector<double> values;
    std::vector<double> rates;   // bytes or multiply-adds per second; as many as values when there is a limit
    std::vector<double> limits;  // the limit at the moment of each of them; empty: the best of the whole run counts
};

double median(std::vector<double> values);  // of at least one

class BenchReport {
public:
    // The line is made when it is first named.
    void add(const std::string &section, const std::string &name, int n_threads, const std::string &unit, double value);
    // `rate`: bytes or multiply-adds per second that the value stands for. `limit_then`: the limit just before and
    // after, for machines that have it only at times; 0: the best of the whole run.
    void add(const std::string &section, const std::string &name, int n_threads, const std::string &unit, double value,
             Limit limit, double rate, double limit_then = 0);
    // A measurement of the limit itself, in GB/s or GMAC/s.
    void add_limit(const std::string &name, int n_threads, Limit limit, double rate);

    // Best median of a limit; 0 when it was not measured.
    double limit_rate(Limit limit, int n_threads) const;
    // What the rates are of their limit: the median of their parts when each has its own; 0: no limit.
    double fraction(const BenchLine &line) const;

    std::string table() const;
    nlohmann::ordered_json json() const;  // sections, in order, each a list of lines

private:
    BenchLine &line(const std::string &section, const std::string &name, int n_threads, const std::string &unit,
                    Limit limit, bool is_limit);
    std::vector<std::string> sections() const;

    std::vector<BenchLine> lines_;
};

}  // namespace bitnet
