#include "abi/cli/diff/render.h"

#include "abi/cli/diff/raw_values.h"
#include "abi/cli/diff/text.h"

#include <algorithm>
#include <cmath>

namespace bitnet::diff {

namespace {

using Llu = unsigned long long;

constexpr size_t kFactsShown = 5;
constexpr size_t kBarLayersMax = 8;  // more layers than this become one line of a character each
constexpr int kBarWidth = 32;
// The bars' logarithmic scale, from rounding in the sketch to as large as the signal itself.
constexpr double kScaleLow = 1e-7, kScaleHigh = 1;

class Screen {
public:
    Screen(const Report &report, const Trace &a, const Trace &b, const Options &options, bool colour)
        : report_(report), comparison_(report.comparison), a_(a), b_(b), options_(options), colour_(colour),
          several_runs_(a.runs.size() > 1 || b.runs.size() > 1) {}

    std::string draw() {
        headline();
        if (report_.verdict == Verdict::error && report_.first) {
            line("", "among the records that were compared: first difference at " +
                         place_name(report_.first->key(), several_runs_));
        }
        out_ += "\n";
        side("A", a_);
        side("B", b_);
        facts();
        if (report_.first) where();
        if (report_.first) origins();
        growth();
        logits();
        noise();
        integers();
        counts();
        return std::move(out_);
    }

private:
    // "  name      text"
    void line(const char *name, const std::string &text) { out_ += format_text("  %-9s ", name) + text + "\n"; }

    void headline() {
        static const char *const kNames[] = {"MATCH", "DIVERGENCE", "ERROR"};
        static const char *const kColours[] = {"\033[1;32m", "\033[1;31m", "\033[1;35m"};
        int verdict = int(report_.verdict);
        if (colour_) out_ += kColours[verdict];
        out_ += std::string(kNames[verdict]) + ": " + report_.sentence;
        if (colour_) out_ += "\033[0m";
        out_ += "\n";
    }

    void side(const char *name, const Trace &trace) {
        std::string text = printable(trace.path, 60);
        if (!trace.runs.empty()) {
            const Run &run = trace.runs.front();
            text += "  " + printable(run.engine, 24) + " " + printable(run.engine_version, 16);
            if (!run.isa.empty()) text += " " + printable(run.isa, 16);
            if (trace.runs.size() > 1) text += format_text(", %zu runs", trace.runs.size());
            text += format_text(", %zu tokens, %zu records", run.tokens.size(), size_t(trace.n_records));
        }
        line(name, text);
    }

    void facts() {
        const char *name = "facts";
        size_t n = 0;
        for (const Fact &fact : report_.facts) {
            if (n++ == kFactsShown) {
                line("", format_text("and %zu more (see --format json)", report_.facts.size() - kFactsShown));
                break;
            }
            line(name, printable(fact.text, 200));
            name = "";
        }
    }

    void where() {
        const Pair &first = *report_.first;
        const Stage &stage = *find_stage(int(node_of(first.key())));
        std::string place = place_name(first.key(), several_runs_);
        const auto &tokens = a_.runs[size_t(run_of(first.key()))].tokens;
        auto at = std::lower_bound(tokens.begin(), tokens.end(), std::make_pair(int64_t(position_of(first.key())), 0));
        if (at != tokens.end() && at->first == position_of(first.key())) {
            place.insert(place.find(',', place.find("token")), format_text(" (id %d)", at->second));
        }
        out_ += "\n";
        line("where", place + ": " + std::string(stage.what) + "; " + source("A", a_, first.a, first.key()) + ", " +
                          source("B", b_, first.b, first.key()));
        if (!report_.origins.empty() && report_.origins.front().pair == &first)
            line("why", why(report_.origins.front()));
        numbers(first);
        const auto integers = comparison_.integers.find(first.key());
        if (integers != comparison_.integers.end()) {
            line("integers", integer_text(integers->second, stage));
            line("", element_text(integers->second, stage));
        }
        for (const std::string &hint : hints(report_.first_a, report_.first_b)) line("hint", hint);
        // Hashes and sketches cannot tell a code at a rounding tie from a wrong one.
        const bool codes = stage.name.ends_with(".codes") && integers == comparison_.integers.end();
        line("explain", std::string(codes ? "tells codes at rounding ties from wrong ones" : "names the cause") +
                            " (bitnet explain), from raw values of B:");
        line("",
             "BITNET_TRACE_PLUGIN=npy:dir=raw,raw=all BITNET_TRACE_SELECT='" + selection_to_explain(first.key()) + "'");
    }

    static std::string source(const char *name, const Trace &trace, const Place &place, Key key) {
        return trace.raw ? printable(trace.raw->name_of(key), 80) + " of " + name : format_text("line %u of %s", place.line, name);
    }

    static std::string names(const std::vector<std::string> &list) {
        std::string text;
        for (const std::string &name : list) text += (text.empty() ? "" : ", ") + name;
        return text;
    }

    static std::string why(const Origin &origin) {
        std::string recorded = names(origin.recorded), unrecorded = names(origin.unrecorded);
        switch (origin.inputs) {
        case Inputs::token: return "its input, the token id, is equal";
        case Inputs::equal: return "its inputs are equal: " + recorded;
        case Inputs::close:
            return recorded.empty() ? "no record before it is close to this far apart"
                                    : format_text("over %g times closer: ", kJumpFactor) + recorded;
        case Inputs::inside: return "its inputs are inside a class: " + recorded;
        case Inputs::own: return "it does not follow from its own engine's input: " + recorded;
        case Inputs::unrecorded: break;
        }
        std::string text =
            unrecorded.empty() ? "an earlier input was not recorded" : "not recorded on both sides: " + unrecorded;
        return text + (recorded.empty() ? "" : "; equal: " + recorded);
    }

    void number_row(const char *name, double a, double b) {
        line(name, format_text("%-16s %s", full_number(a).c_str(), full_number(b).c_str()));
    }

    void numbers(const Pair &pair) {
        line("", format_text("%-16s %s", "A", "B"));
        const Record &a = report_.first_a, &b = report_.first_b;
        number_row("rms", a.rms, b.rms);
        if (pair.is(Pair::measurable)) number_row("absmax", a.absmax, b.absmax);
        if (auto top = first_top_difference(a, b)) {
            auto shown = [](const std::optional<float> &value) {
                return value ? full_number(double(*value)) : std::string("not in top 8");
            };
            line(format_text("[%u]", top->index).c_str(),
                 format_text("%-16s %s", shown(top->a).c_str(), shown(top->b).c_str()));
        }
        std::string text = !pair.is(Pair::measurable) ? "at least " + short_number(pair.at_least) + " relative L2 (no sketch)"
                           : std::isnan(pair.distance) ? "not measurable" : short_number(pair.distance) + " relative L2";
        auto allowed = allowed_distance(comparison_, pair);
        if (allowed) {
            text += ", allowed " + short_number(*allowed);
        } else if (comparison_.rule == Rule::hashes) {
            text += ", allowed: none, equal hashes";
        }
        if (comparison_.would_pass) {
            text += "; --tolerance " + rounded_up(*comparison_.would_pass) + " would pass every record";
        } else {
            text += "; no --tolerance would pass";
        }
        line("distance", text);
    }

    void origins() {
        bool leads = !report_.origins.empty() && report_.origins.front().pair == report_.first;
        const char *name = leads ? "also" : "suspects";
        size_t begin = leads ? 1 : 0, listed = std::max(options_.max_origins, begin);
        for (size_t i = begin; i < report_.origins.size(); ++i) {
            if (i == listed) {
                line("", format_text("and %zu more places", report_.origins.size() - i));
                break;
            }
            const Origin &origin = report_.origins[i];
            std::string text = place_name(origin.pair->key(), several_runs_) + ": " + why(origin);
            text += "; " + (std::isfinite(origin.worst_distance) ? short_number(origin.worst_distance) : "?") +
                    format_text(" at worst over %llu tokens", Llu(origin.n_positions));
            line(name, text);
            name = "";
        }
    }

    // Height of a distance on the bars' scale, 0 to 1.
    static double height(double distance) {
        if (std::isnan(distance) || distance >= kScaleHigh) return 1;
        if (distance <= kScaleLow) return 0;
        return std::log(distance / kScaleLow) / std::log(kScaleHigh / kScaleLow);
    }

    static std::string distance_text(double distance) {
        if (std::isnan(distance)) return "?";
        return distance == 0 ? "equal" : short_number(distance);
    }

    static std::string bar(double distance) {
        static const char *const kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
        int eighths = distance == 0 ? 0 : std::max(1, int(std::lround(height(distance) * kBarWidth * 8)));
        std::string text;
        for (int i = 0; i < eighths / 8; ++i) text += "█";
        int cells = eighths / 8 + (eighths % 8 ? 1 : 0);
        return text + kEighths[eighths % 8] + std::string(size_t(kBarWidth - cells), ' ');
    }

    void growth() {
        const Growth &growth = report_.growth;
        if (growth.layers.empty()) return;
        out_ += "\n";
        const Stage *stage = growth.layers.back().stage;
        bool same = std::all_of(growth.layers.begin(), growth.layers.end(),
                                [&](const LayerGrowth &g) { return g.stage == stage; });
        line("growth",
             format_text("relative L2 of %s at token %d (log scale, worst over all tokens behind it)",
                         same ? std::string(stage->name).c_str() : "each layer's last record", growth.position));
        if (growth.layers.size() <= kBarLayersMax) {
            for (const LayerGrowth &g : growth.layers) {
                line(format_text("layer %d", g.layer).c_str(),
                     bar(g.distance) +
                         format_text(" %-8s %s", distance_text(g.distance).c_str(), distance_text(g.worst).c_str()));
            }
        } else {
            sparkline("here", &LayerGrowth::distance);
            sparkline("worst", &LayerGrowth::worst);
        }
        if (!growth.jump) return;
        size_t at = *growth.jump;
        const std::string before = at == 0 ? "what enters it" : format_text("layer %d", growth.layers[at - 1].layer);
        line("jump", format_text("layer %d is more than %g times as far apart as %s", growth.layers[at].layer,
                                 kJumpFactor, before.c_str()));
    }

    void sparkline(const char *name, double LayerGrowth::*field) {
        static const char *const kBlocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
        constexpr size_t kPerLine = 100;
        const std::vector<LayerGrowth> &layers = report_.growth.layers;
        for (size_t begin = 0; begin < layers.size() && begin < 2 * kPerLine; begin += kPerLine) {
            size_t end = std::min(begin + kPerLine, layers.size());
            std::string text;
            double worst = 0;
            for (size_t i = begin; i < end; ++i) {
                double distance = layers[i].*field;
                text += distance == 0 ? "·" : kBlocks[size_t(std::lround(height(distance) * 7))];
                worst = std::isnan(distance) ? HUGE_VAL : std::max(worst, distance);
            }
            line(begin == 0 ? name : "", text + format_text("  layers %d to %d, up to %s", layers[begin].layer,
                                                            layers[end - 1].layer, short_number(worst).c_str()));
        }
    }

    static std::string top_text(const std::optional<uint32_t> &top) { return top ? std::to_string(*top) : "?"; }

    void logits() {
        if (!report_.logits || report_.logits->relation == Relation::equal) return;
        const Pair &pair = *report_.logits;
        const LogitsPair &logits = comparison_.logits[pair.logits];
        std::string text =
            format_text("token %d: relative L2 %s", position_of(pair.key()), distance_text(pair.distance).c_str());
        if (auto allowed = allowed_distance(comparison_, pair)) text += " (allowed " + short_number(*allowed) + ")";
        if (!logits.top_a && !logits.top_b) {
            text += ", top-1 not among the listed";
        } else if (logits.top_a == logits.top_b) {
            text += ", top-1 equal: " + top_text(logits.top_a);
        } else {
            text += ", top-1 " + top_text(logits.top_a) + " against " + top_text(logits.top_b);
        }
        if (logits.top_inside_noise) text += " (a tie within the noise)";
        text += format_text(", top-%u %u in common", logits.n_listed, logits.n_common);
        if (report_.logits_worst != &pair) {
            text += format_text("; worst %s at token %d", distance_text(report_.logits_worst->distance).c_str(),
                                position_of(report_.logits_worst->key()));
        }
        line("logits", text);
    }

    void noise() {
        if (!report_.noise || report_.noise->all_equal) return;
        const Noise &noise = *report_.noise;
        std::string text;
        for (size_t i = 0; i < noise.records.size(); ++i) {
            if (noise.records[i] == 0) continue;
            text += (text.empty() ? "" : ", ") + format_text("%llu ", Llu(noise.records[i])) +
                    (i < noise.classes.size() ? "inside " + noise.classes[i] : "outside every class");
        }
        line("noise", text);
    }

    void integers() {
        const Integers &all = report_.integers;
        if (!all.any()) return;
        const char *name = "integers";
        for (const auto &[totals, kind] : {std::pair(&all.codes, StageClass::codes), std::pair(&all.scales, StageClass::scale),
                                           std::pair(&all.sums, StageClass::accumulator)}) {
            std::string text = totals_text(*totals, kind);
            if (text.empty()) continue;
            if (totals->farthest_tie > 0)
                text += format_text("; the farthest %s steps from its tie, %s allowed",
                                    short_number(totals->farthest_tie).c_str(), short_number(kTieDistance).c_str());
            line(name, text);
            name = "";
        }
        if (*name)
            line(name, format_text("equal: %llu codes, %llu scales, %llu sums", Llu(all.codes.values), Llu(all.scales.values),
                                   Llu(all.sums.values)));
        if (all.n_behind) {
            line("", format_text("%llu records lie behind what rounding explains: its effect", Llu(all.n_behind)));
        }
        if (all.first_other && !*name)
            line("", format_text("%llu records differ by something else, first %s", Llu(all.n_other),
                                 place_name(*all.first_other, several_runs_).c_str()));
    }

    void counts() {
        const Counts &c = comparison_.counts;
        std::string text = format_text("%llu compared: %llu equal", Llu(c.compared), Llu(c.equal));
        if (c.within) text += format_text(", %llu within tolerance", Llu(c.within));
        if (c.unjudged) text += format_text(", %llu not judged", Llu(c.unjudged));
        text += format_text(", %llu different; missing in A %llu, in B %llu; unparsable %llu; duplicate %llu",
                            Llu(c.different), Llu(c.missing_in_a), Llu(c.missing_in_b),
                            Llu(c.unparsable_a + c.unparsable_b), Llu(c.duplicate_a + c.duplicate_b));
        out_ += "\n";
        line("counts", text);
    }

    const Report &report_;
    const Comparison &comparison_;
    const Trace &a_, &b_;
    const Options &options_;
    bool colour_, several_runs_;
    std::string out_;
};

}  // namespace

std::string render_text(const Report &report, const Trace &a, const Trace &b, const Options &options, bool colour) {
    return Screen(report, a, b, options, colour).draw();
}

}  // namespace bitnet::diff
