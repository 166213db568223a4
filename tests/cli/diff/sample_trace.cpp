#include "sample_trace.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <numeric>
#include <unistd.h>

namespace bitnet {

namespace {

using Values = std::vector<float>;

uint64_t mix(uint64_t x) {
    uint64_t z = (x + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

// Stands for BLAKE3: 256 bits that depend on every byte and its place.
std::string hash_hex(const Values &values) {
    uint64_t state[4] = {1, 2, 3, 4};
    for (size_t i = 0; i < values.size(); ++i) {
        for (uint64_t &word : state) word = mix(word ^ mix(std::bit_cast<uint32_t>(values[i]) + (uint64_t(i) << 32)));
    }
    std::string hex;
    for (uint64_t word : state) {
        char text[17];
        std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(word));
        hex += text;
    }
    return hex;
}

std::string base64(const void *data, size_t n) {
    static const char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    auto *bytes = static_cast<const unsigned char *>(data);
    std::string out;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t group = uint32_t(bytes[i]) << 16;
        if (i + 1 < n) group |= uint32_t(bytes[i + 1]) << 8;
        if (i + 2 < n) group |= bytes[i + 2];
        out += kDigits[group >> 18];
        out += kDigits[group >> 12 & 63];
        out += i + 1 < n ? kDigits[group >> 6 & 63] : '=';
        out += i + 2 < n ? kDigits[group & 63] : '=';
    }
    return out;
}

std::string number(double value) {
    if (std::isinf(value)) return value > 0 ? "\"Infinity\"" : "\"-Infinity\"";
    char text[40];
    std::snprintf(text, sizeof text, "%.9g", value);
    return text;
}

std::string top_of(const Values &values) {
    std::vector<size_t> order;
    for (size_t i = 0; i < values.size(); ++i) {
        if (!std::isnan(values[i])) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t x, size_t y) { return std::abs(values[x]) > std::abs(values[y]); });
    std::string text = "[";
    for (size_t i = 0; i < std::min<size_t>(8, order.size()); ++i) {
        text += (i ? ",[" : "[") + std::to_string(order[i]) + "," + number(double(values[order[i]])) + "]";
    }
    return text + "]";
}

struct Row {
    int seq, layer;
    std::string stage;
    Values values;
    int step;  // order of the stage in a position
};

// Everything the imaginary network computes; widths are small but not equal to the sketch's.
class Network {
public:
    explicit Network(const SampleTrace &trace) : trace_(trace) {}

    std::vector<Row> run() {
        for (size_t seq = 0; seq < trace_.tokens.size(); ++seq) position(int(seq));
        return std::move(rows_);
    }

private:
    static constexpr size_t kEmbd = 96, kFf = 160, kVocab = 200;

    static float weight(size_t i, uint64_t salt) { return float(int64_t(mix(i * 31 + salt) % 2001) - 1000) / 1000.0f; }

    Values emit(int seq, int layer, const std::string &stage, Values values) {
        if (trace_.fault) trace_.fault(seq, layer, stage, values);
        rows_.push_back({seq, layer, stage, values, step_++});
        return values;
    }
    static Values norm(const Values &x) {
        double sum = 1e-5;
        for (float v : x) sum += double(v) * double(v) / double(x.size());
        Values out(x);
        for (float &v : out) v = float(double(v) / std::sqrt(sum));
        return out;
    }
    // Each output mixes eight inputs.
    static Values linear(const Values &x, size_t n, uint64_t salt) {
        Values out(n);
        for (size_t i = 0; i < n; ++i) {
            for (size_t j = 0; j < 8; ++j) out[i] += weight(i * 8 + j, salt) * x[(i * 5 + j * 11) % x.size()];
        }
        return out;
    }
    static Values add(const Values &x, const Values &y) {
        Values out(x);
        for (size_t i = 0; i < out.size(); ++i) out[i] += y[i];
        return out;
    }

    void position(int seq) {
        step_ = 0;
        Values h(kEmbd);
        for (size_t i = 0; i < kEmbd; ++i) h[i] = weight(i, uint64_t(trace_.tokens[size_t(seq)]) * 77);
        h = emit(seq, -1, "embeddings", h);
        for (int layer = 0; layer < trace_.n_layer; ++layer) h = block(seq, layer, h);
        h = emit(seq, -1, "final_norm", norm(h));
        emit(seq, -1, "logits", linear(h, kVocab, 999));
    }

    Values block(int seq, int layer, const Values &h) {
        auto out = [&](const char *stage, Values values) { return emit(seq, layer, stage, std::move(values)); };
        uint64_t salt = uint64_t(layer) * 100;
        Values a = out("attn_norm", norm(h));
        Values q = out("q_proj", linear(a, kEmbd, salt + 1)), k = out("k_proj", linear(a, kEmbd / 2, salt + 2));
        Values v = out("v_proj", linear(a, kEmbd / 2, salt + 3));
        float turn = std::cos(float(seq));
        for (float &x : q) x *= turn;
        for (float &x : k) x *= turn;
        q = out("q_rope", q);
        keys_[layer].push_back(out("k_rope", k));
        values_[layer].push_back(v);
        Values p;
        for (const Values &key : keys_[layer]) p.push_back(std::inner_product(key.begin(), key.end(), q.begin(), 0.0f));
        double sum = 0;
        for (float &x : p) sum += double(x = std::exp(std::tanh(x)));
        for (float &x : p) x = float(double(x) / sum);
        p = out("attn_scores_softmax", p);
        Values context(kEmbd);
        for (size_t t = 0; t < p.size(); ++t) {
            for (size_t i = 0; i < kEmbd; ++i) context[i] += p[t] * values_[layer][t][i / 2];
        }
        context = out("attn_context", context);
        if (trace_.sub_norms) context = out("attn_sub_norm", norm(context));
        Values h2 = out("attn_residual", add(h, out("attn_out", linear(context, kEmbd, salt + 4))));
        Values b = out("ffn_norm", norm(h2));
        Values gate = out("ffn_gate", linear(b, kFf, salt + 5)), up = out("ffn_up", linear(b, kFf, salt + 6));
        for (size_t i = 0; i < kFf; ++i) gate[i] = std::max(gate[i], 0.0f) * std::max(gate[i], 0.0f) * up[i];
        Values act = out("ffn_act", gate);
        if (trace_.sub_norms) act = out("ffn_sub_norm", norm(act));
        return out("layer_out", add(h2, out("ffn_out", linear(act, kEmbd, salt + 7))));
    }

    const SampleTrace &trace_;
    std::vector<Row> rows_;
    int step_ = 0;
    std::map<int, std::vector<Values>> keys_, values_;
};

std::string array_text(const std::vector<int> &ids) {
    std::string text = "[";
    for (size_t i = 0; i < ids.size(); ++i) text += (i ? "," : "") + std::to_string(ids[i]);
    return text + "]";
}

std::string step_line(int run, uint64_t event, int seq, const std::vector<int> &ids) {
    return "{\"record\":\"step\",\"run\":" + std::to_string(run) + ",\"event\":" + std::to_string(event) +
           ",\"seq\":" + std::to_string(seq) + ",\"n\":" + std::to_string(ids.size()) +
           ",\"tokens\":" + array_text(ids) + "}";
}

}  // namespace

std::vector<float> sketch_of(const std::vector<float> &values) {
    double sums[64] = {};
    for (size_t i = 0; i < values.size(); ++i) {
        if (!std::isfinite(values[i])) continue;
        uint64_t block = i / 64, p = i % 64;
        double v = double(values[i]);
        sums[p ^ (mix(2 * block + 1) & 63)] += mix(2 * block) >> p & 1 ? -v : v;
    }
    return {std::begin(sums), std::end(sums)};
}

std::string tensor_line(int run, uint64_t event, int seq, int layer, const std::string &stage,
                        const std::vector<float> &values) {
    uint64_t multiset = 0, n_nan = 0, n_inf = 0, n_zeros = 0;
    double sum = 0, squares = 0, low = 0, high = 0;
    size_t n = 0;
    for (float value : values) {
        multiset += mix(std::bit_cast<uint32_t>(value));
        n_nan += std::isnan(value) ? 1 : 0;
        n_inf += std::isinf(value) ? 1 : 0;
        n_zeros += value == 0 ? 1 : 0;
        if (!std::isfinite(value)) continue;
        double v = double(value);
        low = n == 0 ? v : std::min(low, v);
        high = n == 0 ? v : std::max(high, v);
        sum += v;
        squares += v * v;
        ++n;
    }
    double count = double(std::max<size_t>(n, 1)), mean = sum / count;
    std::vector<float> sketch = sketch_of(values);
    char hash[17];
    std::snprintf(hash, sizeof hash, "%016llx", static_cast<unsigned long long>(multiset));
    std::string name = "t" + std::to_string(seq) + (layer >= 0 ? "/blk" + std::to_string(layer) : "") + "/" + stage;
    return "{\"record\":\"tensor\",\"run\":" + std::to_string(run) + ",\"event\":" + std::to_string(event) +
           ",\"name\":\"" + name + "\",\"seq\":" + std::to_string(seq) + ",\"layer\":" + std::to_string(layer) +
           ",\"stage\":\"" + stage + "\",\"row\":0,\"shape\":[" + std::to_string(values.size()) +
           "],\"dtype\":\"F32\",\"num_elements\":" + std::to_string(values.size()) + ",\"blake3\":\"" +
           hash_hex(values) + "\",\"multiset\":\"" + hash + "\",\"rms\":" + number(std::sqrt(squares / count)) +
           ",\"mean\":" + number(mean) + ",\"std\":" + number(std::sqrt(std::max(0.0, squares / count - mean * mean))) +
           ",\"min\":" + number(low) + ",\"max\":" + number(high) +
           ",\"absmax\":" + number(std::max(std::abs(low), std::abs(high))) + ",\"l2\":" + number(std::sqrt(squares)) +
           ",\"nan\":" + std::to_string(n_nan) + ",\"inf\":" + std::to_string(n_inf) +
           ",\"zeros\":" + std::to_string(n_zeros) + ",\"top\":" + top_of(values) + ",\"sketch\":\"" +
           base64(sketch.data(), sketch.size() * sizeof(float)) + "\",\"kernel\":\"sample\",\"ns\":1}";
}

std::vector<std::string> SampleTrace::lines() const {
    std::vector<Row> rows = Network(*this).run();
    // Batched: every stage for all positions, then the next stage.
    if (prefill) {
        std::stable_sort(rows.begin(), rows.end(), [](const Row &x, const Row &y) { return x.step < y.step; });
    }
    std::string n = std::to_string(run);
    std::vector<std::string> out = {"{\"record\":\"run\",\"schema\":1,\"run\":" + n + ",\"engine\":\"" + engine +
                                    "\",\"engine_version\":\"" + version +
                                    "\",\"model_path\":\"m.gguf\",\"model_hash\":\"" + model_hash +
                                    "\",\"architecture\":\"bitnet-b1.58\",\"hyperparameters\":" + hyperparameters +
                                    ",\"semantics\":" + semantics + ",\"isa\":\"scalar\",\"kv_type\":\"" + kv_type +
                                    "\",\"threads\":1,\"batch\":256,\"selection\":\"\",\"tokens\":" +
                                    array_text(prefill ? tokens : std::vector<int>{tokens[0]}) +
                                    ",\"prompt\":null,\"time\":\"2026-01-31T12:00:00.123Z\",\"host\":\"h\",\"pid\":1}"};
    uint64_t event = 0, n_records = 0;
    int last_seq = -1, last_step = -1;
    for (const Row &row : rows) {
        if (prefill ? last_seq < 0 : row.seq != last_seq) {
            out.push_back(step_line(run, event, row.seq, prefill ? tokens : std::vector<int>{tokens[size_t(row.seq)]}));
        }
        if (row.step != last_step || !prefill) ++event;
        last_seq = row.seq;
        last_step = row.step;
        if (keep && !keep(row.seq, row.layer, row.stage)) continue;
        out.push_back(tensor_line(run, event, row.seq, row.layer, row.stage, row.values));
        ++n_records;
    }
    out.push_back("{\"record\":\"run_end\",\"run\":" + n + ",\"events\":" + std::to_string(event) +
                  ",\"records\":" + std::to_string(n_records) + ",\"tokens\":" + std::to_string(tokens.size()) +
                  ",\"overridden\":false,\"time\":\"2026-01-31T12:00:01.000Z\"}");
    return out;
}

Folder::Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "bitnet-diff-XXXXXX").string();
    if (!mkdtemp(name.data())) throw std::runtime_error("mkdtemp " + name);
    path_ = name;
}

Folder::~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

std::string Folder::write_bytes(const std::string &name, const std::string &bytes) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << bytes;
    return path(name);
}

std::string Folder::write(const std::string &name, const std::vector<std::string> &lines) const {
    return write_bytes(name, joined(lines));
}

std::string joined(const std::vector<std::string> &lines) {
    std::string text;
    for (const std::string &line : lines) text += line + "\n";
    return text;
}

size_t line_of(const std::vector<std::string> &lines, int seq, int layer, const std::string &stage) {
    std::string name =
        "\"name\":\"t" + std::to_string(seq) + (layer >= 0 ? "/blk" + std::to_string(layer) : "") + "/" + stage + "\"";
    for (size_t i = 0; i < lines.size(); ++i) {
        if (lines[i].find(name) != std::string::npos) return i;
    }
    throw std::runtime_error("no line " + name);
}

}  // namespace bitnet
