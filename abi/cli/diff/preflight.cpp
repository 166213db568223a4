#include "abi/cli/diff/diff.h"
#include "abi/cli/diff/text.h"

#include <algorithm>
#include <charconv>

namespace bitnet::diff {

namespace {

using Ids = std::vector<int32_t>;

struct Known {
    std::string_view key;
    bool has_parts;  // "semantics.eps"
};
constexpr Known kKeys[] = {{"model_hash", false}, {"tokens", false},     {"hyperparameters", true},
                           {"semantics", true},   {"kv_type", false},    {"architecture", false},
                           {"stages", false},     {"overridden", false}, {"runs", false}};

class Facts {
public:
    Facts(const Options &options, bool several_runs) : options_(options), several_runs_(several_runs) {}

    // `text` is prefixed by the run when it says the same thing of one run only.
    void add(const std::string &key, const std::string &a, const std::string &b, bool mismatch, const std::string &text,
             int run) {
        bool ignored = options_.ignore.count(key) || options_.ignore.count(key.substr(0, key.find('.')));
        Fact fact{key, a, b, text, mismatch && !ignored, ignored};
        if (several_runs_ && key == "tokens") fact.text = format_text("run %d: ", run) + text;
        if (ignored) fact.text += " (ignored)";
        auto same = [&](const Fact &f) { return f.text == fact.text; };
        if (std::none_of(facts_.begin(), facts_.end(), same)) facts_.push_back(fact);
    }
    std::vector<Fact> take() {
        std::stable_partition(facts_.begin(), facts_.end(), [](const Fact &f) { return f.mismatch; });
        return std::move(facts_);
    }

private:
    const Options &options_;
    bool several_runs_;
    std::vector<Fact> facts_;
};

// "1e-05" and "0.00001" are the same number; so are an f32 and the double it was read from.
bool same_value(const std::string &a, const std::string &b) {
    if (a == b) return true;
    auto parse = [](const std::string &text, double &out) {
        auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
        return error == std::errc() && end == text.data() + text.size() &&
               text.find_first_of(".eE") != std::string::npos;
    };
    double x = 0, y = 0;
    bool a_real = parse(a, x), b_real = parse(b, y);
    if (!a_real && !b_real) return false;
    if (!a_real) std::from_chars(a.data(), a.data() + a.size(), x);
    if (!b_real) std::from_chars(b.data(), b.data() + b.size(), y);
    return float(x) == float(y);
}

const std::string *find_value(const TextPairs &pairs, const std::string &key) {
    for (const auto &[name, value] : pairs) {
        if (name == key) return &value;
    }
    return nullptr;
}

void compare_pairs(const char *name, const TextPairs &a, const TextPairs &b, bool mismatch, int run, Facts &facts) {
    auto key_of = [&](const std::string &part) { return std::string(name) + "." + part; };
    for (const auto &[key, value] : a) {
        const std::string *other = find_value(b, key);
        if (other && same_value(value, *other)) continue;
        std::string shown = printable(key, 40) + " " + printable(value, 40);
        if (other) {
            facts.add(key_of(key), value, *other, mismatch,
                      std::string(name) + ": " + shown + " against " + printable(*other, 40), run);
        } else if (!b.empty()) {
            facts.add(key_of(key), value, "", false, std::string(name) + ": " + shown + " in A only", run);
        }
    }
    for (const auto &[key, value] : b) {
        if (a.empty() || find_value(a, key)) continue;
        facts.add(key_of(key), "", value, false,
                  std::string(name) + ": " + printable(key, 40) + " " + printable(value, 40) + " in B only", run);
    }
}

// Two values of the run record that may be unknown on a side.
void compare_texts(const char *key, const char *name, const std::string &a, const std::string &b, bool mismatch,
                   int run, Facts &facts) {
    if (a == b) return;
    if (a.empty() || b.empty()) {
        facts.add(key, a, b, false, std::string(name) + ": unknown in " + (a.empty() ? "A" : "B"), run);
        return;
    }
    facts.add(key, a, b, mismatch, std::string(name) + ": " + printable(a, 16) + " against " + printable(b, 16), run);
}

Ids ids_of(const Run &run) {
    Ids ids;
    for (const auto &[position, id] : run.tokens) ids.push_back(id);
    return ids;
}

// Whether `longer` is one token followed by `shorter`, as far as both go.
bool has_one_in_front(const Ids &longer, const Ids &shorter) {
    if (longer.size() < 2 || shorter.empty()) return false;
    size_t n = std::min(longer.size() - 1, shorter.size());
    // A shift must explain one list to its end, not just a lucky first token.
    if (n == 1 && longer.size() != shorter.size() + 1) return false;
    return std::equal(longer.begin() + 1, longer.begin() + 1 + std::ptrdiff_t(n), shorter.begin());
}

// Names the usual mistakes around BOS; "" when it is none of them.
std::string bos_text(const Ids &a, const Ids &b) {
    for (bool b_is_longer : {true, false}) {
        const Ids &longer = b_is_longer ? b : a, &shorter = b_is_longer ? a : b;
        const char *name = b_is_longer ? "B" : "A", *other = b_is_longer ? "A" : "B";
        if (!has_one_in_front(longer, shorter)) continue;
        if (longer[0] == longer[1]) {
            return format_text("%s begins with BOS %d twice (double BOS)", name, longer[0]);
        }
        return format_text("%s has BOS %d, %s has none", name, longer[0], other);
    }
    return "";
}

std::string id_text(const std::vector<std::pair<int64_t, int32_t>> &tokens, int64_t position) {
    auto at = std::lower_bound(tokens.begin(), tokens.end(), std::make_pair(position, int32_t(0)));
    return at != tokens.end() && at->first == position ? std::to_string(at->second) : "none";
}

// First position that has not the same id on both sides; -1: none.
int64_t first_token_difference(const Run &a, const Run &b) {
    auto [at_a, at_b] = std::mismatch(a.tokens.begin(), a.tokens.end(), b.tokens.begin(), b.tokens.end());
    if (at_a == a.tokens.end() && at_b == b.tokens.end()) return -1;
    if (at_a == a.tokens.end()) return at_b->first;
    if (at_b == b.tokens.end()) return at_a->first;
    return std::min(at_a->first, at_b->first);
}

void compare_tokens(const Run &a, const Run &b, const Options &options, int run, Facts &facts) {
    if (a.tokens.empty() && b.tokens.empty()) return;
    std::string size_a = format_text("%zu tokens", a.tokens.size()),
                size_b = format_text("%zu tokens", b.tokens.size());
    if (a.tokens.empty() || b.tokens.empty()) {
        facts.add("tokens", size_a, size_b, false,
                  std::string("token ids: unknown in ") + (a.tokens.empty() ? "A" : "B"), run);
        return;
    }
    int64_t position = first_token_difference(a, b);
    if (position < 0) return;
    std::string id_a = id_text(a.tokens, position), id_b = id_text(b.tokens, position);
    std::string where =
        format_text("position %lld has %s in A, %s in B", static_cast<long long>(position), id_a.c_str(), id_b.c_str());
    std::string bos = bos_text(ids_of(a), ids_of(b));
    bool one_ends = position > std::min(a.tokens.back().first, b.tokens.back().first);
    std::string text = "token ids: ";
    if (!bos.empty()) {
        text += bos + "; " + where;
    } else if (one_ends) {
        text += format_text("equal up to position %lld, then only %s goes on (%s against %s)",
                            static_cast<long long>(position - 1), id_a == "none" ? "B" : "A", size_a.c_str(),
                            size_b.c_str());
    } else {
        text += where + " (" + size_a + " against " + size_b + ")";
    }
    facts.add("tokens", id_a, id_b, !(one_ends && bos.empty() && options.allow_missing), text, run);
}

std::string stage_names(const std::bitset<kNodeLimit> &nodes) {
    std::string names;
    for (const Stage &stage : stages()) {
        if (nodes[stage.node]) names += (names.empty() ? "" : ", ") + std::string(stage.name);
    }
    return names;
}

void compare_stage_sets(const Run &a, const Run &b, int run, Facts &facts) {
    std::string only_a = stage_names(a.nodes & ~b.nodes), only_b = stage_names(b.nodes & ~a.nodes);
    if (!only_a.empty()) facts.add("stages", only_a, "", false, "stages only in A: " + only_a, run);
    if (!only_b.empty()) facts.add("stages", "", only_b, false, "stages only in B: " + only_b, run);
}

}  // namespace

bool is_preflight_key(const std::string &key) {
    size_t dot = key.find('.');
    for (const Known &known : kKeys) {
        if (known.key == std::string_view(key).substr(0, dot)) return dot == std::string::npos || known.has_parts;
    }
    return false;
}

std::vector<Fact> preflight(const Trace &a, const Trace &b, const Options &options) {
    Facts facts(options, a.runs.size() > 1 || b.runs.size() > 1);
    for (size_t i = 0; i < std::min(a.runs.size(), b.runs.size()); ++i) {
        const Run &x = a.runs[i], &y = b.runs[i];
        int run = int(i);
        if (x.model_hash != y.model_hash && !x.model_hash.empty() && !y.model_hash.empty()) {
            facts.add("model_hash", x.model_hash, y.model_hash, true,
                      "different model files: hash " + printable(x.model_hash, 12) + " against " +
                          printable(y.model_hash, 12),
                      run);
        } else {
            compare_texts("model_hash", "model hash", x.model_hash, y.model_hash, true, run, facts);
        }
        compare_tokens(x, y, options, run, facts);
        compare_pairs("hyperparameters", x.hyperparameters, y.hyperparameters, true, run, facts);
        compare_pairs("semantics", x.semantics, y.semantics, false, run, facts);
        compare_texts("kv_type", "KV type", x.kv_type, y.kv_type, false, run, facts);
        compare_texts("architecture", "architecture", x.architecture, y.architecture, false, run, facts);
        compare_stage_sets(x, y, run, facts);
        for (const auto &[side, own] : {std::pair("A", &x), std::pair("B", &y)}) {
            if (!own->bare) continue;
            std::string text = std::string(side) + " holds BitNet-rs's records: a hash and a size each, no sketch";
            if (own->n_position_assumed) {
                text += format_text("; %llu name no position, 0 is assumed",
                                    static_cast<unsigned long long>(own->n_position_assumed));
            }
            facts.add("records", x.bare ? "BitNet-rs" : "", y.bare ? "BitNet-rs" : "", false, text, run);
        }
        for (const auto &[side, overridden] : {std::pair("A", x.overridden), std::pair("B", y.overridden)}) {
            if (overridden) {
                facts.add("overridden", x.overridden ? "true" : "false", y.overridden ? "true" : "false", false,
                          std::string("a sink replaced values during ") + side, run);
            }
        }
    }
    if (a.runs.size() != b.runs.size() && !a.runs.empty() && !b.runs.empty()) {
        facts.add("runs", std::to_string(a.runs.size()), std::to_string(b.runs.size()), false,
                  format_text("runs: %zu against %zu", a.runs.size(), b.runs.size()), 0);
    }
    return facts.take();
}

}  // namespace bitnet::diff
