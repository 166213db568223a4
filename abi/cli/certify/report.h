// What bitnet certify found, and how it is said.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "abi/cli/certify/certificate.h"
#include "abi/cli/certify/rows.h"

namespace bitnet::certify {

// A run that was not the reference over again.
struct Divergence {
    std::string isa;
    std::string plan;
    uint64_t n_different = 0;
    uint64_t n_missing = 0;  // rows of the reference that did not come
    uint64_t n_unknown = 0;  // rows that the reference has not
    RowId first;             // of the different ones, in canonical order
    std::string expected;
    std::string found;

    std::string text() const;
};

struct IsaSummary {
    std::string isa;
    uint64_t n_runs = 0;
    uint64_t n_compared = 0;
    uint64_t n_bad_runs = 0;
};

struct Report {
    std::string model_path;
    std::string reference;  // "scalar, 1 thread, prompt whole"
    std::string coverage;
    size_t n_prompt = 0;
    std::vector<int32_t> tokens;      // prompt and decoded
    uint64_t n_rows = 0;              // of the reference
    std::vector<std::string> absent;  // instruction sets that this CPU has not
    std::vector<IsaSummary> isas;
    std::vector<Divergence> divergences;
    Certificate certificate;
    std::string expect;    // path of the expected certificate; "": none
    std::string mismatch;  // what keeps the certificate from being that one

    // One run of an instruction set.
    void add(const std::string &isa, const std::string &plan, const Comparison &comparison, uint64_t n_missing);

    bool runs_equal() const;
    // 1 for different bits; else 2 for rows that are missing or unknown, or when nothing was compared.
    int exit_code() const;
    std::string error() const;  // what makes it 2, "" when nothing does
    std::string text() const;
    std::string json() const;

private:
    uint64_t n_compared() const;
};

}  // namespace bitnet::certify
