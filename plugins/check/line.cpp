#include "plugins/check/line.h"

#include <bit>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// RapidJSON: the parser of Debian's packages that needs no C++ runtime (simdjson and nlohmann do), no shared library,
// and leaves numbers as they are written, so that no integer or double is rounded. Strings are decoded in the line
// itself; its stack holds the nesting alone, which is limited here: so nothing in it asks for memory or throws.
#define RAPIDJSON_ASSERT(x) ((void)0)
#define RAPIDJSON_NEW(x) (static_cast<decltype(x) *>(nullptr))  // never reached: the allocator is given
#define RAPIDJSON_DELETE(x) ((void)(x))
#include <rapidjson/error/en.h>
#include <rapidjson/reader.h>

namespace bitnet {

static_assert(std::endian::native == std::endian::little, "sketches are little-endian");

bool Slice::is(const char *text) const { return n == strlen(text) && memcmp(data, text, n) == 0; }

namespace {

constexpr int kMaxDepth = 16;
constexpr size_t kStackBytes = 1024;  // of kMaxDepth levels, at a few words each, with its growth

struct FixedAllocator {
    alignas(16) char bytes[kStackBytes];
    static const bool kNeedFree = false;
    void *Malloc(size_t n) { return n && n <= sizeof bytes ? bytes : nullptr; }
    void *Realloc(void *, size_t, size_t n) { return Malloc(n); }
    static void Free(void *) {}
};

enum Kinds : uint8_t { kRun = 1, kStep = 2, kTensor = 4, kRunEnd = 8, kEvery = 15, kOptional = 0 };

enum Field {
    kRecord,
    kRunNumber,
    kSchema,
    kEngine,
    kModelHash,
    kArchitecture,
    kKvType,
    kHyperparameters,
    kSemantics,
    kTokens,
    kSeq,
    kCount,
    kLayer,
    kStage,
    kDtype,
    kElements,
    kBlake3,
    kMultiset,
    kAbsmax,
    kL2,
    kNan,
    kInf,
    kTop,
    kSketch,
    kRecords,
    kFieldCount,
    kUnknown = kFieldCount
};

struct FieldRule {
    const char *name;
    uint8_t needed_in;
};
constexpr FieldRule kFields[kFieldCount] = {
    {"record", kEvery},        {"run", kEvery},           {"schema", kRun},
    {"engine", kRun},          {"model_hash", kRun},      {"architecture", kOptional},
    {"kv_type", kOptional},    {"hyperparameters", kRun}, {"semantics", kRun},
    {"tokens", kRun | kStep},  {"seq", kStep | kTensor},  {"n", kStep},
    {"layer", kTensor},        {"stage", kTensor},        {"dtype", kTensor},
    {"num_elements", kTensor}, {"blake3", kTensor},       {"multiset", kTensor},
    {"absmax", kTensor},       {"l2", kTensor},           {"nan", kTensor},
    {"inf", kTensor},          {"top", kTensor},          {"sketch", kTensor},
    {"records", kRunEnd},
};

bool append_fact_bytes(FactText *facts, const char *bytes, size_t n) {
    if (facts->capacity - facts->n < n + 1) {
        const size_t capacity = 2 * (facts->n + n + 1) + 1024;
        char *grown = static_cast<char *>(realloc(facts->data, capacity));
        if (!grown) return false;
        facts->data = grown;
        facts->capacity = capacity;
    }
    if (n) memcpy(facts->data + facts->n, bytes, n);
    facts->n += n;
    facts->data[facts->n] = 0;
    return true;
}

int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

bool hex_bytes(Slice digits, uint8_t *out, size_t n) {
    if (digits.n != 2 * n) return false;
    for (size_t i = 0; i < n; ++i) {
        const int high = hex_digit(digits.data[2 * i]), low = hex_digit(digits.data[2 * i + 1]);
        if (high < 0 || low < 0) return false;
        out[i] = uint8_t(high << 4 | low);
    }
    return true;
}

int base64_digit(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == '+') return 62;
    return c == '/' ? 63 : -1;
}

bool base64_sketch(Slice digits, float *out) {
    constexpr size_t kBytes = BITNET_SKETCH_BUCKETS * sizeof(float), kDigits = (kBytes + 2) / 3 * 4;
    static_assert(kBytes % 3 == 1, "the last group has one byte and two '='");
    if (digits.n != kDigits || memcmp(digits.data + kDigits - 2, "==", 2) != 0) return false;
    uint8_t bytes[kBytes + 2];
    for (size_t i = 0; i < kDigits; i += 4) {
        uint32_t group = 0;
        for (size_t j = 0; j < 4; ++j) {
            const int digit = i + j >= kDigits - 2 ? 0 : base64_digit(digits.data[i + j]);
            if (digit < 0) return false;
            group = group << 6 | uint32_t(digit);
        }
        for (size_t j = 0; j < 3; ++j) bytes[i / 4 * 3 + j] = uint8_t(group >> (16 - 8 * j));
    }
    memcpy(out, bytes, kBytes);
    return true;
}

// Decimal digits alone.
bool whole_number(Slice text, uint64_t limit, uint64_t *out) {
    uint64_t value = 0;
    if (text.n == 0 || text.n > 20) return false;
    for (size_t i = 0; i < text.n; ++i) {
        const unsigned digit = unsigned(text.data[i]) - '0';
        if (digit > 9 || value > (UINT64_MAX - digit) / 10) return false;
        value = 10 * value + digit;
    }
    *out = value;
    return value <= limit;
}

// What the parser reports, put into the line. Every function returns false to end the parse, having said why.
struct Handler {
    LineParser *parser;
    int depth = 0;
    int field = kUnknown;  // of the line's object
    uint64_t seen = 0;     // bit by field
    bool tokens_are_counted = false;
    int pair_size = 0;  // of the [index, value] under way

    TraceLine &line() { return parser->line; }

    bool bad(const char *expected) {
        const char *name = field < kFieldCount ? kFields[field].name : "?";
        snprintf(parser->reason, sizeof parser->reason, "\"%s\": %s expected", name, expected);
        return false;
    }
    bool no_memory() {
        snprintf(parser->reason, sizeof parser->reason, "out of memory");
        return false;
    }

    bool count(Slice text, uint64_t *out, uint64_t limit = UINT64_MAX) {
        return whole_number(text, limit, out) || bad("a whole number, not too large,");
    }
    bool size(Slice text, double *out) {
        *out = strtod(text.data, nullptr);
        return (std::isfinite(*out) && *out >= 0) || bad("a finite number that is not negative");
    }

    bool number(Slice text) {
        TraceLine &l = line();
        if (depth > 1) return element(text, true);
        switch (field) {
        case kRunNumber: return count(text, &l.run);
        case kSchema: return count(text, &l.schema);
        case kSeq: return count(text, &l.seq);
        case kCount: return count(text, &l.n);
        case kElements: return count(text, &l.n_elements);
        case kNan: return count(text, &l.n_nan);
        case kInf: return count(text, &l.n_inf);
        case kRecords: return count(text, &l.n_records);
        case kAbsmax: return size(text, &l.absmax);
        case kL2: return size(text, &l.l2);
        case kLayer: {
            uint64_t layer = 0;
            const bool minus = text.data[0] == '-';
            if (!whole_number({text.data + minus, text.n - minus}, INT32_MAX, &layer)) return bad("a layer's index");
            l.layer = minus ? -int64_t(layer) : int64_t(layer);
            return true;
        }
        case kTokens: return tokens_are_counted = true;  // in a run_end
        case kUnknown: return true;
        default: return bad("another type of value");
        }
    }

    bool fact(const char *key, Slice value) {
        return (append_fact_bytes(&parser->facts, key, strlen(key) + 1) &&
                append_fact_bytes(&parser->facts, value.data, value.n) && append_fact_bytes(&parser->facts, "", 1)) ||
               no_memory();
    }

    bool text(Slice text) {
        TraceLine &l = line();
        if (depth > 1) return element(text, false);
        switch (field) {
        case kRecord: l.record = text; return true;
        case kStage: l.stage = text; return true;
        case kDtype: l.dtype = text; return true;
        case kEngine: return true;
        case kModelHash:
        case kArchitecture:
        case kKvType: return text.n == 0 || fact(kFields[field].name, text);
        case kBlake3: return hex_bytes(text, l.blake3, sizeof l.blake3) || bad("64 hex digits");
        case kMultiset: {
            uint8_t bytes[8];
            if (!hex_bytes(text, bytes, sizeof bytes)) return bad("16 hex digits");
            for (uint8_t byte : bytes) l.multiset = l.multiset << 8 | byte;
            return true;
        }
        case kSketch: return base64_sketch(text, l.sketch) || bad("base64 of 64 f32");
        case kUnknown: return true;
        default: return bad("another type of value");
        }
    }

    // Inside of an array or object of the line's object.
    bool element(Slice text, bool is_number) {
        switch (field) {
        case kTokens: return depth == 2 && is_number ? token(text) : bad("an array of token ids or null");
        case kTop: return depth == 3 ? top_entry(text, is_number) : bad("an array of [index, value]");
        case kHyperparameters:
        case kSemantics:
            return (depth == 2 && append_fact_bytes(&parser->facts, text.data, text.n) &&
                    append_fact_bytes(&parser->facts, "", 1)) ||
                   bad("an object of numbers and texts");
        default: return true;
        }
    }

    bool token(Slice text) {
        uint64_t id = 0;
        if (!count(text, &id, INT32_MAX)) return false;
        if (parser->n_tokens == parser->token_capacity) {
            const size_t capacity = 2 * parser->token_capacity + 64;
            int32_t *grown = static_cast<int32_t *>(realloc(parser->tokens, capacity * sizeof(int32_t)));
            if (!grown) return no_memory();
            parser->tokens = grown;
            parser->token_capacity = capacity;
        }
        parser->tokens[parser->n_tokens++] = int32_t(id);
        return true;
    }

    bool top_entry(Slice text, bool is_number) {
        TraceLine &l = line();
        if (l.n_top == BITNET_STATS_TOP || pair_size > 1) return bad("at most 8 [index, value]");
        if (pair_size++ == 0) {
            uint64_t index = 0;
            if (!is_number || !count(text, &index, UINT32_MAX)) return bad("[index, value]");
            l.top_index[l.n_top] = uint32_t(index);
            return true;
        }
        float value;
        if (is_number) {
            value = strtof(text.data, nullptr);
        } else if (text.is("Infinity") || text.is("-Infinity")) {
            value = text.data[0] == '-' ? -HUGE_VALF : HUGE_VALF;
        } else {
            return bad("[index, value]");
        }
        l.top_value[l.n_top++] = value;
        return true;
    }

    // RapidJSON's events.
    bool Null() {
        if (depth > 1) return field == kUnknown || bad("no null in it");
        return field == kUnknown || field == kTokens || field == kModelHash || bad("a value");
    }
    bool Bool(bool value) {
        const char *word = value ? "true" : "false";
        if (depth > 1) return element({word, strlen(word)}, false);
        return field == kUnknown || bad("another type of value");
    }
    bool Int(int) { return false; }  // numbers come as text
    bool Uint(unsigned) { return false; }
    bool Int64(int64_t) { return false; }
    bool Uint64(uint64_t) { return false; }
    bool Double(double) { return false; }
    bool RawNumber(const char *data, rapidjson::SizeType n, bool) {
        return depth == 0 ? not_an_object() : number({data, n});
    }
    bool String(const char *data, rapidjson::SizeType n, bool) {
        return depth == 0 ? not_an_object() : text({data, n});
    }
    bool Key(const char *data, rapidjson::SizeType n, bool) {
        if (depth > 1) return pair_key({data, n});
        field = kUnknown;
        for (int i = 0; i < kFieldCount; ++i) {
            if (!Slice{data, n}.is(kFields[i].name)) continue;
            field = i;
            if (seen >> i & 1) {
                snprintf(parser->reason, sizeof parser->reason, "\"%s\" is there twice", kFields[i].name);
                return false;
            }
            seen |= uint64_t(1) << i;
        }
        return true;
    }
    bool pair_key(Slice key) {
        if (field != kHyperparameters && field != kSemantics) return true;
        FactText *facts = &parser->facts;
        return (append_fact_bytes(facts, kFields[field].name, strlen(kFields[field].name)) &&
                append_fact_bytes(facts, ".", 1) && append_fact_bytes(facts, key.data, key.n) &&
                append_fact_bytes(facts, "", 1)) ||
               no_memory();
    }
    bool not_an_object() {
        snprintf(parser->reason, sizeof parser->reason, "a JSON object expected");
        return false;
    }
    bool nest(bool is_object) {
        if (depth == 0 && !is_object) return not_an_object();
        if (depth == kMaxDepth) {
            snprintf(parser->reason, sizeof parser->reason, "nested more than %d deep", kMaxDepth);
            return false;
        }
        const bool pairs = field == kHyperparameters || field == kSemantics;
        const bool list = field == kTokens || field == kTop;
        if (depth == 1 && field != kUnknown && !(is_object ? pairs : list)) return bad("another type of value");
        if (depth == 2 && field != kUnknown && !(field == kTop && !is_object)) return bad("nothing nested so deep");
        if (depth == 1 && field == kTokens) line().has_tokens = true;
        pair_size = 0;
        ++depth;
        return true;
    }
    bool StartObject() { return nest(true); }
    bool StartArray() { return nest(false); }
    bool EndObject(rapidjson::SizeType) { return --depth, true; }
    bool EndArray(rapidjson::SizeType) {
        if (field == kTop && depth == 3 && pair_size != 2) return bad("[index, value]");
        return --depth, true;
    }
};

bool finish_line(LineParser *parser, uint64_t seen, bool tokens_are_counted) {
    TraceLine &line = parser->line;
    static constexpr const char *kKinds[] = {"run", "step", "tensor", "run_end"};
    int kind = 0;
    while (kind < 4 && !line.record.is(kKinds[kind])) ++kind;
    if (kind == 4) {
        snprintf(parser->reason, sizeof parser->reason, "\"record\": run, step, tensor or run_end expected");
        return false;
    }
    line.kind = LineKind(kind);
    for (int i = 0; i < kFieldCount; ++i) {
        if (!(kFields[i].needed_in >> kind & 1) || (seen >> i & 1)) continue;
        snprintf(parser->reason, sizeof parser->reason, "no \"%s\" in a %s record", kFields[i].name, kKinds[kind]);
        return false;
    }
    if (line.kind == LineKind::run && line.schema != 1) {
        snprintf(parser->reason, sizeof parser->reason, "\"schema\": %llu found, 1 expected",
                 static_cast<unsigned long long>(line.schema));
        return false;
    }
    if (tokens_are_counted && line.kind != LineKind::run_end) {
        snprintf(parser->reason, sizeof parser->reason, "\"tokens\": an array of token ids or null expected");
        return false;
    }
    if (line.kind == LineKind::step && line.has_tokens && parser->n_tokens != line.n) {
        snprintf(parser->reason, sizeof parser->reason, "\"tokens\": %zu found, \"n\" says %llu", parser->n_tokens,
                 static_cast<unsigned long long>(line.n));
        return false;
    }
    return true;
}

}  // namespace

bool parse_line(LineParser *parser, char *text, size_t n_bytes) {
    parser->line = {};
    parser->n_tokens = parser->facts.n = 0;
    parser->reason[0] = 0;
    if (memchr(text, 0, n_bytes)) {
        snprintf(parser->reason, sizeof parser->reason, "not JSON: it holds a NUL byte");
        return false;
    }
    FixedAllocator allocator;
    rapidjson::GenericReader<rapidjson::UTF8<>, rapidjson::UTF8<>, FixedAllocator> reader(&allocator);
    rapidjson::InsituStringStream stream(text);
    Handler handler{parser};
    reader.Parse<rapidjson::kParseInsituFlag | rapidjson::kParseIterativeFlag | rapidjson::kParseNumbersAsStringsFlag |
                 rapidjson::kParseValidateEncodingFlag>(stream, handler);
    if (reader.HasParseError()) {
        if (parser->reason[0]) return false;
        snprintf(parser->reason, sizeof parser->reason, "not JSON: %s (byte %zu)",
                 rapidjson::GetParseError_En(reader.GetParseErrorCode()), reader.GetErrorOffset() + 1);
        return false;
    }
    return finish_line(parser, handler.seen, handler.tokens_are_counted);
}

void free_line_parser(LineParser *parser) {
    free(parser->tokens);
    free(parser->facts.data);
    *parser = {};
}

}  // namespace bitnet
