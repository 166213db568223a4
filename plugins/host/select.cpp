// The selection grammar: items separated by ',', each "seq:layer:stage" with parts missing at the front, '!' excludes.
#include "plugins/host/select.h"

#include <cstdlib>
#include <cstring>

#include "plugins/host/text.h"
#include "plugins/host/trace_host.h"

namespace bitnet {

namespace {

struct Span {
    const char *begin, *end;
    size_t size() const { return size_t(end - begin); }
    int quoted() const { return size() > 60 ? 60 : int(size()); }  // bytes worth repeating in a message
    bool is(const char *text) const { return size() == strlen(text) && memcmp(begin, text, size()) == 0; }
};

// '*' any bytes, '?' one byte, but neither matches a '.': companions ("q_proj.acc") are asked for, never swept in.
// Linear in practice: only the last '*' is ever retried.
bool glob_match(Span pattern, const char *text, size_t n_bytes) {
    const char *p = pattern.begin, *t = text, *end = text + n_bytes;
    const char *star = nullptr, *star_text = nullptr;
    while (t < end) {
        if (p < pattern.end && *p == '*') {
            star = p++;
            star_text = t;
        } else if (p < pattern.end && ((*p == '?' && *t != '.') || *p == *t)) {
            ++p, ++t;
        } else if (star && *star_text != '.') {
            p = star + 1;
            t = ++star_text;
        } else {
            return false;
        }
    }
    while (p < pattern.end && *p == '*') ++p;
    return p == pattern.end;
}

bool has_wildcard(Span span) {
    return span.size() && (memchr(span.begin, '*', span.size()) || memchr(span.begin, '?', span.size()));
}

// Cuts the next part off `rest` at `separator`. False when nothing is left.
bool next_part(Span *rest, char separator, Span *part) {
    if (!rest->begin) return false;
    const char *cut = rest->size() ? static_cast<const char *>(memchr(rest->begin, separator, rest->size())) : nullptr;
    *part = {rest->begin, cut ? cut : rest->end};
    rest->begin = cut ? cut + 1 : nullptr;
    return true;
}

bool parse_int(const char **cursor, const char *end, int32_t *out) {
    const char *p = *cursor;
    const bool negative = p < end && *p == '-';
    if (negative) ++p;
    int64_t value = 0;
    const char *digits = p;
    for (; p < end && *p >= '0' && *p <= '9'; ++p) {
        value = value * 10 + (*p - '0');
        if (value > INT32_MAX) return false;
    }
    if (p == digits) return false;
    *cursor = p;
    *out = int32_t(negative ? -value : value);
    return true;
}

// "7", "-1", "0-4", "-1-3", or a glob of digits.
bool parse_number_term(Span span, NumberTerm *out) {
    *out = {};
    if (has_wildcard(span)) {
        for (const char *p = span.begin; p < span.end; ++p) {
            if (!strchr("*?0123456789", *p)) return false;
        }
        out->glob = span.begin;
        out->glob_bytes = uint32_t(span.size());
        return true;
    }
    const char *p = span.begin;
    if (!parse_int(&p, span.end, &out->lo)) return false;
    out->hi = out->lo;
    if (p == span.end) return true;
    return *p++ == '-' && parse_int(&p, span.end, &out->hi) && p == span.end && out->lo <= out->hi;
}

struct Compiler {
    Selection *selection;
    uint32_t n_terms = 0;
    Span item;  // being compiled, for messages
    char *error;

    bool fail(const char *what, Span part, const char *expected) {
        set_text(error, TRACE_ERROR_BYTES, "selection item '%.*s': %s '%.*s' is not %s", item.quoted(), item.begin,
                 what, part.quoted(), part.begin, expected);
        return false;
    }

    bool fail_stage(Span part, const char *what) {
        char names[320];
        size_t n = 0;
        for (int32_t stage = 1; stage <= BITNET_STAGE_COUNT; ++stage) {
            const int wrote = snprintf(names + n, sizeof names - n, " %s", trace_stage_name(stage));
            if (wrote > 0 && size_t(wrote) < sizeof names - n) n += size_t(wrote);
        }
        set_text(error, TRACE_ERROR_BYTES,
                 "selection item '%.*s': %s '%.*s'; stages:%s; companions: .codes .scale .acc", item.quoted(),
                 item.begin, what, part.quoted(), part.begin, names);
        return false;
    }

    // `lowest`: the smallest number that makes sense here.
    bool numbers(Span part, const char *what, int32_t lowest, NumberSet *out);
    bool stage_term(Span part, bool *chosen);
    bool stages(Span part, bool *chosen);
    bool check_layers(Span stage_part, NumberSet layers, const bool *chosen);
    bool compile_item(Span part, int index, bool exclude);
};

bool strip_braces(Span *part) {
    if (part->size() < 2 || *part->begin != '{' || part->end[-1] != '}') return false;
    ++part->begin, --part->end;
    return true;
}

bool Compiler::numbers(Span part, const char *what, int32_t lowest, NumberSet *out) {
    *out = {n_terms, 0};
    if (part.is("*")) return true;
    Span rest = part, term;
    strip_braces(&rest);
    while (next_part(&rest, ';', &term)) {
        NumberTerm &number = selection->terms[n_terms];
        if (!parse_number_term(term, &number)) {
            return fail(what, part, "a number, a range a-b, a list {a;b} or '*'");
        }
        if (!number.glob && number.lo < lowest) {
            return fail(what, part, lowest < 0 ? "-1 or a block's index" : "a position from 0");
        }
        ++n_terms, ++out->count;
    }
    return true;
}

// A name, a range of names in execution order, or a glob.
bool Compiler::stage_term(Span part, bool *chosen) {
    const char *dash = part.size() ? static_cast<const char *>(memchr(part.begin, '-', part.size())) : nullptr;
    if (has_wildcard(part)) {
        bool any = false;
        const bool bare = part.is("*");
        for (int slot = 0; slot < kStageSlots; ++slot) {
            const char *name = trace_stage_name(slot_stage(slot));
            const bool hit = bare ? slot == 0 || stage_is_default(slot_stage(slot))  // 0: stages with a foreign name
                                  : name && glob_match(part, name, strlen(name));
            if (hit) chosen[slot] = any = true;
        }
        return any || fail_stage(part, "no stage matches");
    }
    if (dash) {
        const int32_t first = stage_find(part.begin, size_t(dash - part.begin));
        const int32_t last = stage_find(dash + 1, size_t(part.end - dash - 1));
        if (first < 1 || last < first || last > BITNET_STAGE_COUNT) return fail_stage(part, "not a range of stages:");
        for (int32_t stage = first; stage <= last; ++stage) chosen[stage_slot(stage)] = true;
        return true;
    }
    const int32_t stage = stage_find(part.begin, part.size());
    if (!stage) return fail_stage(part, "no stage is named");
    chosen[stage_slot(stage)] = true;
    return true;
}

bool Compiler::stages(Span part, bool *chosen) {
    Span rest = part, term;
    strip_braces(&rest);
    while (next_part(&rest, ';', &term)) {
        if (!stage_term(term, chosen)) return false;
    }
    return true;
}

bool matches(const Selection &selection, NumberSet set, int32_t value) {
    if (!set.count) return true;
    for (uint32_t i = set.first; i < set.first + set.count; ++i) {
        const NumberTerm &term = selection.terms[i];
        if (!term.glob) {
            if (value >= term.lo && value <= term.hi) return true;
            continue;
        }
        char digits[16];
        const int n = snprintf(digits, sizeof digits, "%d", int(value));
        if (glob_match({term.glob, term.glob + term.glob_bytes}, digits, size_t(n))) return true;
    }
    return false;
}

// What is known without a model: embeddings, final_norm and logits have layer -1, the rest a block's index.
bool Compiler::check_layers(Span stage_part, NumberSet layers, const bool *chosen) {
    bool outer = false, inner = false;
    for (int slot = 0; slot < kStageSlots; ++slot) {
        if (!chosen[slot]) continue;
        if (slot == 0 || stage_in_block(slot_stage(slot))) inner = true;
        if (slot == 0 || !stage_in_block(slot_stage(slot))) outer = true;
    }
    bool blocks = !layers.count;
    for (uint32_t i = layers.first; i < layers.first + layers.count; ++i) {
        blocks |= selection->terms[i].glob || selection->terms[i].hi >= 0;
    }
    if ((inner && blocks) || (outer && matches(*selection, layers, -1))) return true;
    return fail("stage", stage_part,
                inner ? "a stage of layer -1 (embeddings, final_norm, logits)" : "in a block: its layer is -1");
}

bool Compiler::compile_item(Span part, int index, bool exclude) {
    int n_fields = 1;
    for (const char *p = part.begin; p < part.end; ++p) n_fields += *p == ':';
    if (n_fields > 3) {
        set_text(error, TRACE_ERROR_BYTES, "selection item '%.*s': more than three parts, expected seq:layer:stage",
                 item.quoted(), item.begin);
        return false;
    }
    Span fields[3] = {}, rest = part;
    for (int i = 0; i < n_fields; ++i) next_part(&rest, ':', &fields[i]);
    static constexpr char kAll[] = "*";
    const Span all = {kAll, kAll + 1};
    const Span stage = fields[n_fields - 1];
    const Span layer = n_fields > 1 ? fields[n_fields - 2] : all;
    // The other name of the last layer_out stands at layer -2; which block is the last is not known here.
    const bool any_layer = stage.is("all_layers_out") && layer.is("-2");
    SelectItem &out = selection->items[index];
    if (!numbers(n_fields > 2 ? fields[0] : all, "position", 0, &out.seq)) return false;
    if (!numbers(any_layer ? all : layer, "layer", -1, &out.layer)) return false;
    bool chosen[kStageSlots] = {};
    if (!stages(stage, chosen) || !check_layers(stage, out.layer, chosen)) return false;
    for (int slot = 0; slot < kStageSlots; ++slot) {
        if (chosen[slot]) (exclude ? selection->exclude : selection->include)[slot] |= uint64_t(1) << index;
    }
    return true;
}

Span trim(Span span) {
    while (span.begin < span.end && *span.begin == ' ') ++span.begin;
    while (span.begin < span.end && span.end[-1] == ' ') --span.end;
    return span;
}

void include_default(Selection *selection) {
    selection->include[0] |= 1;
    for (int32_t stage = 1; stage <= BITNET_STAGE_COUNT; ++stage) {
        if (stage_is_default(stage)) selection->include[stage_slot(stage)] |= 1;
    }
}

bool compile_items(Compiler *compiler, Span text) {
    int n_items = 0;
    bool any_include = false;
    Span rest = text, part;
    while (next_part(&rest, ',', &part)) {
        part = trim(part);
        compiler->item = part;
        if (n_items == kSelectItemsMax) {
            set_text(compiler->error, TRACE_ERROR_BYTES, "selection: more than %d items", kSelectItemsMax);
            return false;
        }
        const bool exclude = part.size() && *part.begin == '!';
        if (exclude) part = trim({part.begin + 1, part.end});
        if (!part.size()) {
            set_text(compiler->error, TRACE_ERROR_BYTES, "selection '%.*s': item %d is empty", text.quoted(),
                     text.begin, n_items + 1);
            return false;
        }
        any_include |= !exclude;
        if (!compiler->compile_item(part, ++n_items, exclude)) return false;
    }
    if (!any_include) include_default(compiler->selection);
    return true;
}

// Whether excludes without conditions take every included stage away again.
bool is_empty(const Selection &selection) {
    for (int slot = 0; slot < kStageSlots; ++slot) {
        bool all_excluded = false;
        for (int i = 1; i <= kSelectItemsMax; ++i) {
            const bool bound = selection.items[i].seq.count || selection.items[i].layer.count;
            all_excluded |= (selection.exclude[slot] >> i & 1) && !bound;
        }
        if (selection.include[slot] && !all_excluded && slot != 0) return false;
    }
    return true;
}

}  // namespace

bool selection_compile(Selection *out, const char *text, char *error) {
    *out = {};
    if (!text) text = "";
    const size_t n_bytes = strlen(text);
    out->text = static_cast<char *>(malloc(n_bytes + 1));
    out->terms = static_cast<NumberTerm *>(malloc((n_bytes + 1) * sizeof(NumberTerm)));  // a term is at least a byte
    Compiler compiler{out, 0, {}, error};
    bool ok = out->text && out->terms;
    if (!ok) {
        set_text(error, TRACE_ERROR_BYTES, "selection: out of memory for %zu bytes", n_bytes);
    } else {
        memcpy(out->text, text, n_bytes + 1);
        const Span all = trim({out->text, out->text + n_bytes});
        if (!all.size()) {
            include_default(out);
        } else {
            ok = compile_items(&compiler, all);
            if (ok && is_empty(*out)) {
                compiler.item = all;
                ok = compiler.fail_stage(all, "everything is excluded by");
            }
        }
    }
    if (!ok) selection_free(out);
    return ok;
}

void selection_free(Selection *selection) {
    free(selection->text);
    free(selection->terms);
    *selection = {};
}

namespace {

bool any_item(const Selection &selection, uint64_t mask, int32_t layer, int32_t position) {
    for (; mask; mask &= mask - 1) {
        const SelectItem &item = selection.items[__builtin_ctzll(mask)];
        if (matches(selection, item.layer, layer) && matches(selection, item.seq, position)) return true;
    }
    return false;
}

}  // namespace

bool selection_wants_row(const Selection &selection, int32_t stage, int32_t layer, int32_t position) {
    const int slot = stage_slot(stage);
    return slot >= 0 && any_item(selection, selection.include[slot], layer, position) &&
           !any_item(selection, selection.exclude[slot], layer, position);
}

bool selection_wants_layer(const Selection &selection, int32_t stage, int32_t layer) {
    const int slot = stage_slot(stage);
    if (slot < 0) return false;
    for (uint64_t mask = selection.exclude[slot]; mask; mask &= mask - 1) {
        const SelectItem &item = selection.items[__builtin_ctzll(mask)];
        if (!item.seq.count && matches(selection, item.layer, layer)) return false;
    }
    for (uint64_t mask = selection.include[slot]; mask; mask &= mask - 1) {
        if (matches(selection, selection.items[__builtin_ctzll(mask)].layer, layer)) return true;
    }
    return false;
}

bool selection_wants(const Selection &selection, int32_t stage, int32_t layer, int32_t first_position, int32_t n_rows) {
    const int slot = stage_slot(stage);
    if (slot < 0 || !selection.include[slot]) return false;
    for (int32_t row = 0; row < n_rows; ++row) {
        if (selection_wants_row(selection, stage, layer, first_position + row)) return true;
    }
    return false;
}

}  // namespace bitnet
