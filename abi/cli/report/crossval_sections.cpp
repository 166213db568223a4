#include <algorithm>
#include <cmath>

#include "abi/cli/commands.h"
#include "abi/cli/crossval/limits.h"
#include "abi/cli/report/html.h"
#include "abi/cli/report/sections.h"
#include "abi/cli/terminal.h"

namespace bitnet::report {

namespace {

using namespace crossval;

constexpr size_t charts_max = 4, rows_max = 2000, text_bytes_max = 120;

std::string metric_text(const bitnet_logits_row_t &row, uint32_t metric) {
    if (!(row.measured & metric)) return "-";
    return metric == BITNET_METRIC_COSINE ? text_of("%.8f", row.cosine) : distance_text(metric_value(row, metric));
}

std::string top1_text(const bitnet_logits_row_t &row) {
    if (row.top1_a < 0) return "-";
    return row.top1_a == row.top1_b ? std::to_string(row.top1_a) : text_of("%d, theirs %d", row.top1_a, row.top1_b);
}

std::string failed_text(const bitnet_logits_row_t &row) {
    std::string text;
    for (const std::string &name : metric_names(row.failed)) text += (text.empty() ? "outside: " : ", ") + name;
    return text.empty() ? row.warned ? "warning" : "ok" : text;
}

ChartLine line_of(const PromptReport &prompt, uint32_t metric, const char *name) {
    ChartLine line;
    line.name = name;
    for (const Position &p : prompt.positions) {
        if (!(p.row.measured & metric)) continue;
        // What holds NaN has no distance: its finite part would look better than it is.
        const double value = p.row.n_nonfinite ? NAN : metric_value(p.row, metric);
        line.points.push_back({double(p.position), value,
                               text_of("position %d, token %d: %s ", p.position, p.token, name) + distance_text(value) +
                                   ", " + failed_text(p.row),
                               p.row.failed != 0});
    }
    return line;
}

Chart chart_of(const Report &report, const PromptReport &prompt) {
    Chart chart;
    chart.title = "Logits of prompt " + prompt.id.substr(0, text_bytes_max) + " by position";
    chart.description = "Distance of the logits at each position. The same values stand in the table below it.";
    chart.x_axis = "token position";
    chart.y_axis = "log scale";
    for (const auto &[metric, name] :
         {std::pair(BITNET_METRIC_NMSE, "NMSE"), std::pair(BITNET_METRIC_KL, "KL divergence")}) {
        ChartLine line = line_of(prompt, metric, name);
        if (line.points.empty()) continue;
        chart.lines.push_back(std::move(line));
        const double limit = limit_value(report.limits_of(prompt), metric);
        if (!std::isnan(limit)) chart.limits.push_back({text_of("%s at most %g", name, limit), limit});
    }
    // A receipt has neither.
    if (chart.lines.empty()) {
        ChartLine line = line_of(prompt, BITNET_METRIC_MSE, "MSE");
        if (!line.points.empty()) chart.lines.push_back(std::move(line));
    }
    return chart;
}

std::string verdict_of(const PromptReport &prompt, const Report &report) {
    if (!prompt.error.empty()) return tag(exit_error) + "<br/>" + escaped(prompt.error);
    std::string text = tag(prompt.exit_code());
    if (prompt.difference) return text + "<br/>token ids differ: " + escaped(prompt.difference->text);
    const std::string divergence = divergence_text(prompt, report.limits_of(prompt));
    return divergence.empty() ? text : text + "<br/>" + escaped(divergence);
}

std::string prompts_table(const Report &report, const std::vector<std::string> &classes) {
    std::vector<Column> columns = {
        {"prompt", false},  {"text", false},        {"tokens", true},       {"ids", false},    {"compared", true},
        {"diverged", true}, {"least cosine", true}, {"largest NMSE", true}, {"mean KL", true}, {"verdict", false}};
    if (!classes.empty()) columns.push_back({"noise class", false});
    Table table("Prompts", columns);
    for (size_t i = 0; i < report.prompts.size(); ++i) {
        const PromptReport &prompt = report.prompts[i];
        const bitnet_logits_summary_t &s = prompt.summary;
        const bool judged = !prompt.positions.empty() && prompt.complete;
        const auto value = [&](double x) { return judged && !std::isnan(x) ? distance_text(x) : std::string("-"); };
        std::vector<std::string> cells = {escaped_cut(prompt.id, text_bytes_max),
                                          prompt.text ? escaped_cut(*prompt.text, text_bytes_max) : "-",
                                          std::to_string(prompt.tokens.size()),
                                          prompt.difference         ? "different"
                                          : prompt.tokens_of_theirs ? "equal"
                                                                    : "unknown",
                                          std::to_string(prompt.positions.size()),
                                          judged ? std::to_string(s.n_failed) : "-",
                                          judged && !std::isnan(s.cosine_least) ? text_of("%.8f", s.cosine_least) : "-",
                                          value(s.nmse_largest),
                                          value(s.kl_mean),
                                          verdict_of(prompt, report)};
        if (!classes.empty()) cells.push_back(escaped_cut(classes[i], text_bytes_max));
        table.add(cells, prompt.exit_code() == exit_good ? "" : "bad");
    }
    return table.html();
}

// Of very many the ones that diverge come first.
std::vector<std::pair<const PromptReport *, const Position *>> shown_rows(const Report &report, size_t &n_all) {
    std::vector<std::pair<const PromptReport *, const Position *>> rows;
    for (const PromptReport &prompt : report.prompts)
        for (const Position &p : prompt.positions) rows.emplace_back(&prompt, &p);
    n_all = rows.size();
    if (n_all <= rows_max) return rows;
    std::stable_partition(rows.begin(), rows.end(), [](auto &row) { return row.second->row.failed != 0; });
    rows.resize(rows_max);
    return rows;
}

std::string rows_table(const Report &report) {
    size_t n_all = 0;
    const auto rows = shown_rows(report, n_all);
    std::string caption = "Positions";
    if (rows.size() < n_all)
        caption += text_of(": %zu of %zu, those that diverge first; --format json of bitnet crossval has all",
                           rows.size(), n_all);
    Table table(caption, {{"prompt", false},
                          {"position", true},
                          {"token", true},
                          {"cosine", true},
                          {"L2", true},
                          {"max abs", true},
                          {"NMSE", true},
                          {"KL", true},
                          {"top-1", false},
                          {"top-k", true},
                          {"", false}});
    for (const auto &[prompt, p] : rows) {
        const auto text = [&](uint32_t metric) { return metric_text(p->row, metric); };
        table.add({escaped_cut(prompt->id, text_bytes_max), std::to_string(p->position), std::to_string(p->token),
                   text(BITNET_METRIC_COSINE), text(BITNET_METRIC_L2), text(BITNET_METRIC_MAX_ABS),
                   text(BITNET_METRIC_NMSE), text(BITNET_METRIC_KL), top1_text(p->row), text(BITNET_METRIC_TOP_K),
                   failed_text(p->row)},
                  p->row.failed ? "bad" : "");
    }
    return table.html();
}

}  // namespace

Part crossval_part(const Report &report) {
    Part part = {"Logits", report.exit_code(), report.sentence(), {}};
    size_t n_failed = 0;
    for (const PromptReport &prompt : report.prompts) n_failed += size_t(prompt.summary.n_failed);
    part.tiles.push_back({"Positions cross-validated", with_commas(report.n_compared()),
                          with_commas(n_failed) + " outside the limits, " + plural(report.prompts.size(), "prompt")});
    return part;
}

Section crossval_section(const Report &report, const std::vector<std::string> &classes) {
    Section section;
    section.html = heading("Cross-validation of logits",
                           "Ours: " + code(report.engine.empty() ? "unknown" : report.engine) + " with " +
                               code(report.model_path) + ". Against: " + code(report.against) + ". Limits (" +
                               escaped(report.preset) + "): " +
                               escaped(classes.empty() ? limits_text(report.limits)
                                                       : "what legal variations of our engine do to each prompt") +
                               "." + (report.limitation.empty() ? "" : " Note: " + escaped(report.limitation) + "."));
    section.html += prompts_table(report, classes);
    std::vector<const PromptReport *> prompts;
    for (const PromptReport &prompt : report.prompts)
        if (!prompt.positions.empty()) prompts.push_back(&prompt);
    if (prompts.empty()) {
        section.html += "<p class=\"none\">Not recorded: no logits were compared.</p>\n";
        return section;
    }
    std::stable_partition(prompts.begin(), prompts.end(),
                          [](auto *prompt) { return prompt->exit_code() != exit_good; });
    size_t n_charts = 0;
    for (const PromptReport *prompt : prompts) {
        if (n_charts == charts_max) break;
        const Chart chart = chart_of(report, *prompt);
        if (chart.lines.empty()) continue;
        section.html += "<h3>" + escaped(chart.title) + "</h3>\n";
        section.add(draw(chart), "");
        ++n_charts;
    }
    if (prompts.size() > n_charts)
        section.html +=
            text_of("<p class=\"lead\">Curves of %zu of %zu prompts, those that diverge first; the table has the "
                    "others.</p>\n",
                    n_charts, prompts.size());
    section.html += details("Values as a table", rows_table(report));
    return section;
}

}  // namespace bitnet::report
