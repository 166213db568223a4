// What a comparison found, and the forms it is told in.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "abi/cli/crossval/source.h"
#include "abi/cli/envelope/envelope.h"

namespace bitnet::crossval {

struct Position {
    int position;
    int32_t token;  // evaluated there
    bitnet_logits_row_t row;
    std::vector<int32_t> top_ours, top_theirs;  // ids of the largest logits, when asked for; theirs empty: unknown
    std::optional<size_t> noise_class;          // with an envelope: the smallest class that holds it, or their number
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
    size_t n_missing = 0;                             // wanted, but not offered
    bool missing_allowed = false;                     // that is no error
    bool complete = false;                            // everything that was offered was compared
    std::shared_ptr<const envelope::Judge> envelope;  // null: none
    std::optional<bitnet_logits_limits_t> limits;     // its own, where there is an envelope
    bitnet_logits_summary_t summary{};
    std::string error;  // "": none

    int exit_code() const;
    const Position *first_divergence() const;  // null: none
    bool limits_missed() const;                // a limit was missed, in a row or in the mean
    // With an envelope: "f16-kv", the smallest class that holds every position; "" when one is outside every class.
    std::string noise_class() const;
};

struct Report {
    std::string model_path, model_hash, engine, semantics, isa, kv_type;
    std::string against, limitation;
    std::string preset, ladder;
    std::string prompts_path;
    bitnet_logits_limits_t limits{};
    bool has_envelope = false;  // asked for
    std::vector<PromptReport> prompts;

    const bitnet_logits_limits_t &limits_of(const PromptReport &prompt) const;
    // With envelopes `limits` are the loosest of the prompts', what readers of one set of limits need to know.
    void take_envelope_limits();
    // With envelopes: the smallest class that holds every prompt; "" when something is outside, or nothing was
    // compared.
    std::string noise_class() const;
    int exit_code() const;  // errors win over divergences
    std::string sentence() const;
    std::vector<std::string> errors() const;
    size_t n_compared() const;
};

// Whether the prompt has an envelope and none of its classes holds the position.
bool is_outside(const PromptReport &prompt, const Position &p);
// "divergence at position 3 (token 42): cosine 0.9 is below 0.97 ..."; "" when there is none.
std::string divergence_text(const PromptReport &prompt, const bitnet_logits_limits_t &limits);
const char *verdict_name(int exit_code);

std::string render_text(const Report &report);
std::string render_json(const Report &report);
std::string render_receipt(const Report &report, const std::string &timestamp);
std::string render_junit(const Report &report);
std::string render_sarif(const Report &report);

}  // namespace bitnet::crossval
