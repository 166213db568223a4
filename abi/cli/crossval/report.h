// What a comparison found, and the forms it is told in.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "abi/cli/crossval/source.h"

namespace bitnet::crossval {

struct Position {
    int position;
    int32_t token;  // evaluated there
    bitnet_logits_row_t row;
    std::vector<int32_t> top_ours, top_theirs;  // ids of the largest logits, when asked for; theirs empty: unknown
};

struct TokenDifference {
    size_t position;
    std::string ours, theirs;  // ids, "none" past the end
    std::string text;          // "theirs begins with BOS 1 twice; position 1: ours 7, theirs 1"
};

struct PromptReport {
    size_t index = 0;
    std::string id;
    int line = 0;
    std::optional<std::string> text;
    Ids tokens;                           // all that were evaluated
    size_t n_prompt = 0;                  // of them, the rest was decoded
    std::optional<Ids> tokens_of_theirs;  // none: unknown
    std::optional<TokenDifference> difference;
    std::vector<Position> positions;
    size_t n_missing = 0;          // wanted, but not offered
    bool missing_allowed = false;  // that is no error
    bool complete = false;         // everything that was offered was compared
    bitnet_logits_summary_t summary{};
    std::string error;  // "": none

    int exit_code() const;
    const Position *first_divergence() const;  // null: none
    bool limits_missed() const;                // a limit was missed, in a row or in the mean
};

struct Report {
    std::string model_path, model_hash, engine, semantics, isa, kv_type;
    std::string against, limitation;
    std::string preset, ladder;
    std::string prompts_path;
    bitnet_logits_limits_t limits{};
    std::vector<PromptReport> prompts;

    int exit_code() const;  // errors win over divergences
    std::string sentence() const;
    std::vector<std::string> errors() const;
    size_t n_compared() const;
};

// "divergence at position 3 (token 42): cosine 0.9 is below 0.97 ..."; "" when there is none.
std::string divergence_text(const PromptReport &prompt, const bitnet_logits_limits_t &limits);
const char *verdict_name(int exit_code);

std::string render_text(const Report &report);
std::string render_json(const Report &report);
std::string render_receipt(const Report &report, const std::string &timestamp);
std::string render_junit(const Report &report);
std::string render_sarif(const Report &report);

}  // namespace bitnet::crossval
