#include "abi/cli/crossval/report.h"

#include <algorithm>

#include "abi/cli/commands.h"
#include "abi/cli/crossval/limits.h"
#include "abi/cli/terminal.h"

namespace bitnet::crossval {

namespace {

constexpr size_t rows_shown = 24;
constexpr size_t failed_rows_shown = 12;
constexpr size_t prompt_bytes_shown = 60;

std::string cut_text(const std::string &text) {
    return text.size() <= prompt_bytes_shown ? printable(text) : printable(text.substr(0, prompt_bytes_shown)) + "...";
}

std::string value_text(const bitnet_logits_row_t &row, uint32_t metric, const char *format) {
    if (!(row.measured & metric)) return "-";
    char text[32];
    std::snprintf(text, sizeof text, format, metric_value(row, metric));
    return text;
}

std::string class_text(const PromptReport &prompt, const Position &p) {
    if (!prompt.envelope) return "";
    return is_outside(prompt, p) ? " (outside)" : " (" + prompt.envelope->name(*p.noise_class) + ")";
}

std::string row_line(const PromptReport &prompt, const Position &p) {
    const bitnet_logits_row_t &row = p.row;
    std::string top1 = row.measured & BITNET_METRIC_TOP1 ? std::to_string(row.top1_a) : "-";
    if (row.measured & BITNET_METRIC_TOP1 && row.top1_a != row.top1_b) top1 += "/" + std::to_string(row.top1_b);
    const std::string verdict = (row.failed   ? yellow("DIFFERENT")
                                 : row.warned ? "warning"
                                              : "ok") +
                                class_text(prompt, p);
    return text_of(
        "  %5d %7d %12s %10s %10s %10s %10s %13s %6s  %s\n", p.position, p.token,
        value_text(row, BITNET_METRIC_COSINE, "%.8f").c_str(), value_text(row, BITNET_METRIC_L2, "%.3e").c_str(),
        value_text(row, BITNET_METRIC_MAX_ABS, "%.3e").c_str(), value_text(row, BITNET_METRIC_NMSE, "%.3e").c_str(),
        value_text(row, BITNET_METRIC_KL, "%.3e").c_str(), top1.c_str(),
        value_text(row, BITNET_METRIC_TOP_K, "%.2f").c_str(), verdict.c_str());
}

// The first rows and the first that diverge; of many more the number.
std::string table(const PromptReport &prompt) {
    std::string text = text_of("  %5s %7s %12s %10s %10s %10s %10s %13s %6s\n", "pos", "token", "cosine", "L2",
                               "max abs", "NMSE", "KL", "top-1", "top-k");
    size_t n_shown = 0, n_failed_shown = 0;
    for (const Position &p : prompt.positions) {
        const bool show = n_shown < rows_shown || (p.row.failed && n_failed_shown < failed_rows_shown);
        if (!show) continue;
        n_shown++;
        n_failed_shown += p.row.failed ? 1 : 0;
        text += row_line(prompt, p);
    }
    if (n_shown < prompt.positions.size())
        text += text_of("  ... and %zu positions more\n", prompt.positions.size() - n_shown);
    return text;
}

std::string prompt_text(const Report &report, const PromptReport &prompt) {
    std::string text = "\nprompt " + printable(prompt.id);
    if (prompt.text) text += " \"" + cut_text(*prompt.text) + "\"";
    text += text_of(": %zu tokens", prompt.n_prompt);
    if (prompt.tokens.size() > prompt.n_prompt) text += text_of(" + %zu", prompt.tokens.size() - prompt.n_prompt);
    if (prompt.difference) return text + "\n  token ids " + yellow("DIFFERENT") + ": " + prompt.difference->text + "\n";
    text += prompt.tokens_of_theirs ? ", equal ids\n" : ", ids unknown on the other side\n";
    if (prompt.limits) text += "  limits: " + limits_text(*prompt.limits) + "\n";
    if (!prompt.positions.empty()) text += table(prompt);
    const std::string divergence = divergence_text(prompt, report.limits_of(prompt));
    if (!divergence.empty() && report.prompts.size() > 1) text += "  " + divergence + "\n";
    if (prompt.n_missing > 0) text += text_of("  %zu positions are not on the other side\n", prompt.n_missing);
    if (!prompt.error.empty()) text += "  error: " + printable(prompt.error) + "\n";
    return text;
}

}  // namespace

bool PromptReport::limits_missed() const { return !positions.empty() && summary.failed != 0; }

bool is_outside(const PromptReport &prompt, const Position &p) {
    return prompt.envelope && p.noise_class == prompt.envelope->n_classes();
}

std::string PromptReport::noise_class() const {
    size_t largest = 0;
    for (const Position &p : positions) largest = std::max(largest, p.noise_class.value_or(0));
    return envelope && largest < envelope->n_classes() ? envelope->name(largest) : "";
}

void Report::take_envelope_limits() {
    bool is_first = true;
    for (const PromptReport &prompt : prompts) {
        if (!prompt.limits) continue;
        const bitnet_logits_limits_t &own = *prompt.limits;
        if (is_first) limits = own;
        is_first = false;
        limits.cosine_min = limits.cosine_warn = std::min(limits.cosine_min, own.cosine_min);
        limits.nmse_max = std::max(limits.nmse_max, own.nmse_max);
        limits.kl_max = std::max(limits.kl_max, own.kl_max);
        limits.max_abs_max = std::max(limits.max_abs_max, own.max_abs_max);
    }
}

std::string Report::noise_class() const {
    std::string name;
    size_t largest = 0;
    for (const PromptReport &prompt : prompts) {
        if (!prompt.envelope || prompt.positions.empty()) continue;
        for (const Position &p : prompt.positions) largest = std::max(largest, p.noise_class.value_or(0));
        if (largest == prompt.envelope->n_classes()) return "";
        name = prompt.envelope->name(largest);
    }
    return name;
}

const bitnet_logits_limits_t &Report::limits_of(const PromptReport &prompt) const {
    return prompt.limits ? *prompt.limits : limits;
}

int PromptReport::exit_code() const {
    if (!error.empty()) return exit_error;
    if (difference || limits_missed()) return exit_divergence;
    return exit_good;
}

const Position *PromptReport::first_divergence() const {
    for (const Position &p : positions)
        if (p.row.failed) return &p;
    return nullptr;
}

int Report::exit_code() const {
    int code = prompts.empty() ? exit_error : exit_good;
    for (const PromptReport &prompt : prompts) code = std::max(code, prompt.exit_code());
    return code;
}

size_t Report::n_compared() const {
    size_t n = 0;
    for (const PromptReport &prompt : prompts) n += prompt.positions.size();
    return n;
}

std::vector<std::string> Report::errors() const {
    std::vector<std::string> list;
    for (const PromptReport &prompt : prompts)
        if (!prompt.error.empty())
            list.push_back((prompts.size() > 1 ? "prompt " + prompt.id + ": " : "") + prompt.error);
    if (prompts.empty()) list.push_back("no prompt: nothing was compared");
    return list;
}

std::string Report::sentence() const {
    const int code = exit_code();
    if (code == exit_error) return errors().front();
    if (code == exit_good) {
        if (ladder == "tokens") return text_of("the token ids of %zu prompts are equal", prompts.size());
        const std::string noise = noise_class();
        return text_of("%zu positions agree", n_compared()) + (noise.empty() ? "" : ": inside " + noise + " noise");
    }
    for (const PromptReport &prompt : prompts) {
        const std::string where = prompts.size() > 1 ? "prompt " + prompt.id + ": " : "";
        if (prompt.difference) return where + "token ids differ: " + prompt.difference->text;
        if (prompt.limits_missed()) return where + divergence_text(prompt, limits_of(prompt));
    }
    return "";
}

std::string divergence_text(const PromptReport &prompt, const bitnet_logits_limits_t &limits) {
    std::string text;
    if (const Position *first = prompt.first_divergence()) {
        if (is_outside(prompt, *first)) text = "outside every class of legal variations: ";
        text += text_of("first divergence at position %d (token %d): ", first->position, first->token);
        const std::vector<uint32_t> failed = metric_bits(first->row.failed);
        for (const uint32_t metric : failed)
            text += (metric == failed.front() ? "" : "; ") + failure_text(first->row, metric, limits);
    }
    if (!prompt.positions.empty() && (prompt.summary.failed & BITNET_METRIC_MEAN_KL))
        text += (text.empty() ? "" : "; ") + mean_kl_text(prompt.summary, limits);
    return text;
}

const char *verdict_name(int exit_code) {
    return exit_code == exit_good ? "match" : exit_code == exit_divergence ? "divergence" : "error";
}

std::string render_text(const Report &report) {
    std::string text = "ours     " + printable(report.model_path) + " (" + printable(report.engine) + ", " +
                       report.isa + ")\nagainst  " + printable(report.against) + "\n";
    text +=
        "limits   " + report.preset + ": " +
        (report.has_envelope ? "what legal variations of our engine do to each prompt" : limits_text(report.limits)) +
        "\n";
    if (!report.limitation.empty()) text += "note     " + printable(report.limitation) + "\n";
    for (const PromptReport &prompt : report.prompts) text += prompt_text(report, prompt);
    const int code = report.exit_code();
    text += text_of("\ncompared %zu positions of %zu prompts\n", report.n_compared(), report.prompts.size());
    const std::string verdict = verdict_name(code);
    text += (code == exit_good ? bold(verdict) : yellow(verdict)) + ": " + printable(report.sentence()) + "\n";
    return text;
}

}  // namespace bitnet::crossval
