#include "abi/cli/diff/record_parser.h"

#include "abi/cli/diff/text.h"

#include <simdjson.h>

#include <array>
#include <bit>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

namespace bitnet::diff {

static_assert(std::endian::native == std::endian::little, "sketches are little-endian");

namespace {

using simdjson::dom::array;
using simdjson::dom::element;
using simdjson::dom::object;

std::string found(element value) { return printable(simdjson::minify(value), 40); }

[[noreturn]] void bad(std::string_view field, element value, const char *expected) {
    throw LineError(format_text("\"%.*s\": %s found, %s expected", int(field.size()), field.data(),
                                found(value).c_str(), expected));
}

std::string_view text(std::string_view field, element value) {
    std::string_view out;
    if (value.get(out)) bad(field, value, "a string");
    return out;
}

uint64_t count(std::string_view field, element value, uint64_t limit = std::numeric_limits<uint64_t>::max()) {
    uint64_t out;
    if (value.get(out) || out > limit) {
        bad(field, value, format_text("an integer from 0 to %llu", static_cast<unsigned long long>(limit)).c_str());
    }
    return out;
}

int64_t integer(std::string_view field, element value) {
    int64_t out;
    if (value.get(out)) bad(field, value, "an integer");
    return out;
}

// A number, or one of the strings that stand for what JSON has no number for.
double number(std::string_view field, element value) {
    double out;
    if (!value.get(out)) return out;
    std::string_view name;
    if (!value.get(name)) {
        if (name == "NaN") return std::numeric_limits<double>::quiet_NaN();
        if (name == "Infinity") return std::numeric_limits<double>::infinity();
        if (name == "-Infinity") return -std::numeric_limits<double>::infinity();
    }
    bad(field, value, "a number");
}

double metric(std::string_view field, element value) {
    double out = number(field, value);
    if (!std::isfinite(out)) bad(field, value, "a finite number (a metric over the finite elements)");
    return out;
}

double size_metric(std::string_view field, element value) {
    double out = metric(field, value);
    if (out < 0) bad(field, value, "a number that is not negative");
    return out;
}

// Value of each digit, 0xff for what is none.
using DigitTable = std::array<uint8_t, 256>;
constexpr DigitTable digit_table(std::string_view digits) {
    DigitTable table{};
    table.fill(0xff);
    for (size_t i = 0; i < digits.size(); ++i) table[static_cast<unsigned char>(digits[i])] = uint8_t(i);
    return table;
}
constexpr DigitTable hex_table() {
    DigitTable table = digit_table("0123456789abcdef");
    for (int i = 10; i < 16; ++i) table[size_t('A' + i - 10)] = uint8_t(i);
    return table;
}
constexpr DigitTable kHex = hex_table();
constexpr DigitTable kBase64 = digit_table("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");

void hex_bytes(std::string_view field, element value, uint8_t *out, size_t n) {
    std::string_view digits = text(field, value);
    bool good = digits.size() == 2 * n;
    unsigned wrong = 0;
    for (size_t i = 0; good && i < n; ++i) {
        const unsigned high = kHex[static_cast<unsigned char>(digits[2 * i])];
        const unsigned low = kHex[static_cast<unsigned char>(digits[2 * i + 1])];
        wrong |= high | low;
        out[i] = uint8_t(high << 4 | low);
    }
    if (!good || wrong > 15) bad(field, value, format_text("%zu hex digits", 2 * n).c_str());
}

void sketch_floats(element value, std::array<float, kSketchBuckets> &out) {
    constexpr size_t kBytes = kSketchBuckets * sizeof(float), kGroups = (kBytes + 2) / 3;
    static_assert(kGroups * 3 - kBytes == 2, "the last group holds one byte and is padded by two '='");
    const std::string_view digits = text("sketch", value);
    bool good = digits.size() == kGroups * 4 && digits.ends_with("==");
    uint8_t bytes[kGroups * 3];
    unsigned wrong = 0;
    const auto *in = reinterpret_cast<const unsigned char *>(digits.data());
    auto group = [&](size_t i, unsigned third, unsigned fourth) {
        const unsigned first = kBase64[in[4 * i]], second = kBase64[in[4 * i + 1]];
        wrong |= first | second | third | fourth;
        const uint32_t bits = first << 18 | second << 12 | third << 6 | fourth;
        bytes[3 * i] = uint8_t(bits >> 16);
        bytes[3 * i + 1] = uint8_t(bits >> 8);
        bytes[3 * i + 2] = uint8_t(bits);
    };
    if (good) {
        for (size_t i = 0; i + 1 < kGroups; ++i) group(i, kBase64[in[4 * i + 2]], kBase64[in[4 * i + 3]]);
        group(kGroups - 1, 0, 0);
    }
    if (!good || wrong > 63) bad("sketch", value, "base64 of 64 f32");
    std::memcpy(out.data(), bytes, kBytes);
}

void top_entries(element value, Record &record) {
    array entries;
    if (value.get(entries) || entries.size() > kTopCount) bad("top", value, "at most 8 [index, value] pairs");
    for (element entry : entries) {
        array pair;
        if (entry.get(pair) || pair.size() != 2) bad("top", entry, "[index, value]");
        uint64_t index = count("top", pair.at(0), std::numeric_limits<uint32_t>::max());
        double magnitude = number("top", pair.at(1));
        if (std::isnan(magnitude)) bad("top", entry, "a value that is not NaN");
        record.top[record.n_top++] = {uint32_t(index), float(magnitude)};
    }
}

// false: null. Ids of the whole run or step.
bool token_ids(element value, std::vector<int32_t> &out) {
    if (value.is_null()) return false;
    array ids;
    if (value.get(ids)) bad("tokens", value, "an array of token ids or null");
    out.reserve(ids.size());
    for (element id : ids) {
        out.push_back(int32_t(count("tokens", id, uint64_t(std::numeric_limits<int32_t>::max()))));
    }
    return true;
}

TextPairs text_pairs(std::string_view field, element value) {
    object pairs;
    if (value.get(pairs)) bad(field, value, "an object");
    TextPairs out;
    for (auto [key, item] : pairs) {
        std::string_view plain;
        out.emplace_back(key, item.get(plain) ? simdjson::minify(item) : std::string(plain));
    }
    return out;
}

// Which of a record's mandatory fields were seen; a second one of the same name is an error too.
class Seen {
public:
    explicit Seen(std::span<const std::string_view> fields) : fields_(fields) {}
    // Position in the list, or -1 for a field that is not in it. Fast when they come in the list's order.
    int mark(std::string_view field) {
        for (size_t n = 0; n < fields_.size(); ++n) {
            const size_t i = next_ + n < fields_.size() ? next_ + n : next_ + n - fields_.size();
            if (fields_[i] != field) continue;
            if (seen_ >> i & 1) throw LineError(format_text("\"%s\" is there twice", printable(field).c_str()));
            seen_ |= uint64_t(1) << i;
            next_ = i + 1;
            return int(i);
        }
        return -1;
    }
    void check() const {
        for (size_t i = 0; i < fields_.size(); ++i) {
            if (!(seen_ >> i & 1)) {
                throw LineError(format_text("no \"%.*s\"", int(fields_[i].size()), fields_[i].data()));
            }
        }
    }

private:
    std::span<const std::string_view> fields_;
    size_t next_ = 0;
    uint64_t seen_ = 0;
};

std::string text_or_empty(std::string_view field, element value) {
    return value.is_null() ? "" : std::string(text(field, value));
}

RunLine parse_run(object fields) {
    static constexpr std::string_view kFields[] = {"run",        "schema",          "engine",    "engine_version",
                                                   "model_hash", "hyperparameters", "semantics", "tokens"};
    Seen seen(kFields);
    RunLine line;
    for (auto [key, value] : fields) {
        switch (seen.mark(key)) {
        case 0: line.number = count(key, value); break;
        case 1:
            if (integer(key, value) != kSchema) bad(key, value, format_text("%d", kSchema).c_str());
            break;
        case 2: line.run.engine = text(key, value); break;
        case 3: line.run.engine_version = text(key, value); break;
        case 4: line.run.model_hash = text_or_empty(key, value); break;
        case 5: line.run.hyperparameters = text_pairs(key, value); break;
        case 6: line.run.semantics = text_pairs(key, value); break;
        case 7: {
            std::vector<int32_t> ids;
            token_ids(value, ids);
            for (size_t i = 0; i < ids.size(); ++i) line.run.tokens.emplace_back(int64_t(i), ids[i]);
            break;
        }
        default:
            if (key == "model_path") line.run.model_path = text_or_empty(key, value);
            if (key == "architecture") line.run.architecture = text_or_empty(key, value);
            if (key == "isa") line.run.isa = text_or_empty(key, value);
            if (key == "kv_type") line.run.kv_type = text_or_empty(key, value);
        }
    }
    seen.check();
    return line;
}

StepLine parse_step(object fields) {
    static constexpr std::string_view kFields[] = {"run", "seq", "n", "tokens"};
    Seen seen(kFields);
    StepLine line;
    uint64_t n = 0;
    for (auto [key, value] : fields) {
        switch (seen.mark(key)) {
        case 0: line.run = count(key, value); break;
        case 1: line.position = int64_t(count(key, value, uint64_t(kMaxPositions - 1))); break;
        case 2: n = count(key, value, uint64_t(kMaxPositions)); break;
        case 3: line.has_tokens = token_ids(value, line.tokens); break;
        default: break;
        }
    }
    seen.check();
    if (line.has_tokens && line.tokens.size() != n) {
        throw LineError(format_text("\"tokens\": %zu found, \"n\" says %llu", line.tokens.size(),
                                    static_cast<unsigned long long>(n)));
    }
    return line;
}

void check_tensor(const TensorLine &line) {
    const Record &r = line.record;
    for (uint32_t i = 0; i < r.n_top; ++i) {
        if (r.top[i].index >= r.n_elements) {
            throw LineError(format_text("\"top\": index %u found, below %llu expected", r.top[i].index,
                                        static_cast<unsigned long long>(r.n_elements)));
        }
    }
    if (r.n_nan > r.n_elements || r.n_inf > r.n_elements - r.n_nan || r.n_zeros > r.n_elements - r.n_nan - r.n_inf) {
        throw LineError("\"nan\", \"inf\" and \"zeros\" together: more than \"num_elements\"");
    }
}

// Sets the stage and checks that the layer fits it.
void set_stage(TensorLine &line, std::string_view name) {
    const bool all_layers = line.layer == kAllLayersOutLayer && name == kAllLayersOut;
    line.stage = all_layers ? find_stage(layer_out_node()) : find_stage(name);
    if (!line.stage) throw LineError(format_text("\"stage\": unknown stage \"%s\"", printable(name).c_str()));
    if (all_layers) return;
    if (line.layer == kAllLayersOutLayer) {
        throw LineError(format_text("stage \"%s\": layer -2 belongs to \"all_layers_out\"", printable(name).c_str()));
    }
    bool fits = line.stage->in_layer ? line.layer >= 0 && line.layer < kMaxLayers : line.layer == -1;
    if (!fits) {
        throw LineError(format_text("stage \"%s\": layer %lld found, %s expected",
                                    std::string(line.stage->name).c_str(), static_cast<long long>(line.layer),
                                    line.stage->in_layer ? "a block's index" : "-1"));
    }
}

TensorLine parse_tensor(object fields) {
    static constexpr std::string_view kFields[] = {
        "run",  "event", "seq", "layer",  "stage", "dtype", "num_elements", "blake3", "multiset", "rms",
        "mean", "min",   "max", "absmax", "l2",    "nan",   "inf",          "zeros",  "top",      "sketch"};
    Seen seen(kFields);
    TensorLine line;
    Record &r = line.record;
    std::string_view stage_name;
    for (auto [key, value] : fields) {
        if (key == "argmax") r.argmax = uint32_t(count(key, value, std::numeric_limits<uint32_t>::max()));
        if (key == "nonfinite") r.nonfinite = uint32_t(count(key, value, std::numeric_limits<uint32_t>::max()));
        switch (seen.mark(key)) {
        case 0: line.run = count(key, value); break;
        case 1: r.event = count(key, value); break;
        case 2: line.position = int64_t(count(key, value, uint64_t(kMaxPositions - 1))); break;
        case 3: line.layer = integer(key, value); break;
        case 4: stage_name = text(key, value); break;
        case 5: {
            std::string_view dtype = text(key, value);
            if (dtype != "F32" && dtype != "F16" && dtype != "BF16" && dtype != "I8" && dtype != "I32") {
                bad(key, value, "F32, F16, BF16, I8 or I32");
            }
            dtype.copy(r.dtype.data(), r.dtype.size() - 1);
            break;
        }
        case 6: r.n_elements = count(key, value); break;
        case 7: hex_bytes(key, value, r.blake3.data(), r.blake3.size()); break;
        case 8:
            hex_bytes(key, value, reinterpret_cast<uint8_t *>(&r.multiset), sizeof r.multiset);
            r.multiset = __builtin_bswap64(r.multiset);  // the digits are those of a number
            break;
        case 9: r.rms = size_metric(key, value); break;
        case 10: r.mean = metric(key, value); break;
        case 11: r.min = metric(key, value); break;
        case 12: r.max = metric(key, value); break;
        case 13: r.absmax = size_metric(key, value); break;
        case 14: r.l2 = size_metric(key, value); break;
        case 15: r.n_nan = count(key, value); break;
        case 16: r.n_inf = count(key, value); break;
        case 17: r.n_zeros = count(key, value); break;
        case 18: top_entries(value, r); break;
        case 19: sketch_floats(value, r.sketch); break;
        default: break;
        }
    }
    seen.check();
    set_stage(line, stage_name);
    check_tensor(line);
    return line;
}

// What "t5/blk3/attn_norm" says; parts that it lacks stay as they were.
void read_name(std::string_view name, int64_t &position, int64_t &layer, std::string_view &stage) {
    auto part = [&](std::string_view prefix, int64_t &out) {
        const size_t slash = name.find('/');
        if (slash == std::string_view::npos || !name.starts_with(prefix)) return;
        int64_t value = 0;
        const char *begin = name.data() + prefix.size(), *end = name.data() + slash;
        auto [after, error] = std::from_chars(begin, end, value);
        if (error != std::errc() || after != end || value < 0) return;
        out = value;
        name.remove_prefix(slash + 1);
    };
    part("t", position);
    part("blk", layer);
    stage = name;
}

void bare_dtype(element value, Record &record) {
    const std::string_view dtype = text("dtype", value);
    if (dtype.empty() || dtype.size() > record.dtype.size() - 1) bad("dtype", value, "a type such as F32");
    for (size_t i = 0; i < dtype.size(); ++i)
        record.dtype[i] = char(std::toupper(static_cast<unsigned char>(dtype[i])));
}

// BitNet-rs: nine fields, of which the last three may be missing or null; the name says the same.
BareLine parse_bare(object fields) {
    static constexpr std::string_view kFields[] = {"name", "shape", "dtype", "blake3", "rms", "num_elements"};
    Seen seen(kFields);
    BareLine bare;
    TensorLine &line = bare.tensor;
    Record &r = line.record;
    r.bare = true;
    std::string_view name, stage;
    std::optional<int64_t> said_position, said_layer;
    std::string_view said_stage;
    for (auto [key, value] : fields) {
        switch (seen.mark(key)) {
        case 0: name = text(key, value); break;
        case 1:
            if (!value.is_array()) bad(key, value, "an array");
            break;
        case 2: bare_dtype(value, r); break;
        case 3: hex_bytes(key, value, r.blake3.data(), r.blake3.size()); break;
        // Rust writes null for a number that is not finite.
        case 4: r.rms = value.is_null() ? std::numeric_limits<double>::quiet_NaN() : number(key, value); break;
        case 5: r.n_elements = count(key, value); break;
        default:
            if (value.is_null()) break;
            if (key == "seq") said_position = int64_t(count(key, value, uint64_t(kMaxPositions - 1)));
            if (key == "layer") said_layer = integer(key, value);
            if (key == "stage") said_stage = text(key, value);
        }
    }
    seen.check();
    if (r.rms < 0) throw LineError("\"rms\": a negative number found");
    line.position = line.layer = -1;
    read_name(name, line.position, line.layer, stage);
    line.position = said_position.value_or(line.position);
    line.layer = said_layer.value_or(line.layer);
    if (!said_stage.empty()) stage = said_stage;
    if (line.position >= kMaxPositions) throw LineError("\"name\": the position is too large");
    if (line.position < 0) {
        r.position_assumed = true;
        line.position = 0;
    }
    if (stage == kAllLayersOut) line.layer = kAllLayersOutLayer;
    set_stage(line, stage);
    return bare;
}

RunEndLine parse_run_end(object fields) {
    static constexpr std::string_view kFields[] = {"run", "records"};
    Seen seen(kFields);
    RunEndLine line;
    for (auto [key, value] : fields) {
        switch (seen.mark(key)) {
        case 0: line.run = count(key, value); break;
        case 1: line.n_records = count(key, value); break;
        default:
            if (key == "overridden" && value.get(line.overridden)) bad(key, value, "true or false");
        }
    }
    seen.check();
    return line;
}

}  // namespace

const size_t RecordParser::kPadding = simdjson::SIMDJSON_PADDING;

struct RecordParser::Impl {
    simdjson::dom::parser parser;
};

RecordParser::RecordParser() : impl_(std::make_unique<Impl>()) {}
RecordParser::~RecordParser() = default;

Line RecordParser::parse(const char *line, size_t n_bytes) {
    element root;
    if (auto error = impl_->parser.parse(line, n_bytes, false).get(root)) {
        throw LineError(format_text("not JSON: %s", simdjson::error_message(error)));
    }
    object fields;
    if (root.get(fields)) throw LineError("a JSON object expected");
    element kind_field;
    if (fields["record"].get(kind_field)) {
        element other;
        if (!fields["name"].get(other) && !fields["blake3"].get(other)) return parse_bare(fields);
        throw LineError("no \"record\"");
    }
    std::string_view kind = text("record", kind_field);
    if (kind == "tensor") return parse_tensor(fields);
    if (kind == "step") return parse_step(fields);
    if (kind == "run") return parse_run(fields);
    if (kind == "run_end") return parse_run_end(fields);
    bad("record", kind_field, "run, step, tensor or run_end");
}

}  // namespace bitnet::diff
