#include "abi/cli/explain/operation.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "abi/cli/recording/npy.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet::explain {

using recording::dtype_bytes;
using recording::value_at;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// At equal input; the numbers and their reasons: EXPLAIN.md.
constexpr double norm_max = 2e-6, activation_max = 2e-6, residual_max = 2e-6, head_max = 2e-6, linear_max = 5e-7;
constexpr double attention_max = 5e-6, rope_max = 2e-6, rope_max_per_position = 1e-7;
constexpr double scale_max = 2.4e-7;
constexpr double tie_distance_max = 4e-5;  // code steps
constexpr size_t ties_tried_max = 8;       // a row: all 2^8 ways to flip them
// Half a unit in the last place of values that were recorded in a shorter type.
constexpr double f16_recording = 0x1p-11, bf16_recording = 0x1p-8;

int32_t base_of(int32_t stage) { return stage & 0xff; }
int32_t companion_of(int32_t stage) { return stage & ~0xff; }

double allowed_for(int32_t stage, int32_t dtype, int32_t position, const Tolerances &tolerances) {
    if (tolerances.exact) return 0;
    double allowed = 0;
    switch (class_of(stage)) {
    case OperationClass::norm: allowed = norm_max; break;
    case OperationClass::rope: allowed = rope_max + rope_max_per_position * position; break;
    case OperationClass::attention: allowed = attention_max; break;
    case OperationClass::linear: allowed = linear_max; break;
    case OperationClass::activation: allowed = activation_max; break;
    case OperationClass::residual: allowed = residual_max; break;
    case OperationClass::head: allowed = head_max; break;
    case OperationClass::scale: allowed = scale_max; break;
    case OperationClass::codes: allowed = tie_distance_max; break;
    case OperationClass::embedding:
    case OperationClass::acc: break;
    }
    if (dtype == BITNET_DTYPE_F16) allowed += f16_recording;
    if (dtype == BITNET_DTYPE_BF16) allowed += bf16_recording;
    return allowed * tolerances.factor;
}

// A row of ours against the recorded one.
struct Difference {
    double distance = 0;
    bool equal = true;  // bits, where both are of one type
    size_t index = 0;
    double recorded = 0, ours = 0;
};

Difference compare_row(const char *ours, int32_t dtype, const std::string &recorded, int32_t recorded_dtype, size_t n) {
    Difference fit;
    double error = 0, size = 0, worst = -1;
    for (size_t i = 0; i < n; ++i) {
        const double a = value_at(ours, dtype, i), b = value_at(recorded.data(), recorded_dtype, i);
        const bool same = a == b || (std::isnan(a) && std::isnan(b));
        double off = same ? 0 : std::fabs(a - b);
        if (std::isnan(off)) off = infinity;
        if (std::isfinite(a)) size += a * a;
        error += off * off;
        fit.equal &= same;
        if (off > worst) worst = off, fit.index = i, fit.recorded = b, fit.ours = a;
    }
    fit.distance = error == 0 ? 0 : size > 0 ? std::sqrt(error / size) : infinity;
    return fit;
}

// The rows of a stage at some positions, one after another.
struct Gathered {
    std::string bytes;
    bitnet_rows_t view;
};

class Judge {
public:
    Judge(const Engine &engine, const Recording &recording, Key place, const Tolerances &tolerances)
        : engine_(engine), recording_(recording), place_(place), tolerances_(tolerances),
          operation_(engine.find(place.first, place.second)), recorded_(recording.find(place.first, place.second)) {}

    Fit run() {
        if (!operation_) return not_compared("these semantics have no such operation");
        if (!recorded_) return not_compared("its output was not recorded");
        if (!choose_inputs()) return fit_;
        std::string ours = compute();
        compare(ours);
        if (!fit_.within && !tolerances_.exact && class_of(place_.second) == OperationClass::linear && float_input_)
            try_ties();
        return fit_;
    }

private:
    Fit not_compared(const std::string &why) {
        fit_.compared = false;
        fit_.why_not = why;
        return fit_;
    }

    std::string name(int32_t stage) const {
        const char *known = stage ? bitnet_stage_name(stage) : "token ids";
        return known ? known : "?";
    }

    // Positions of the output whose inputs are all there.
    bool choose_inputs() {
        positions_ = recorded_->positions;
        if (operation_->n_inputs == 0) return choose_tokens();
        if (choose_codes() || choose_probabilities()) return true;
        for (uint32_t i = 0; i < operation_->n_inputs; ++i) {
            const Key key = {operation_->input_layer[i], operation_->input_stage[i]};
            const Rows *rows = recording_.find(key.first, key.second);
            if (!rows) rows = looked_through(key);
            if (!rows) {
                not_compared("its input " + name(key.second) + " was not recorded");
                return false;
            }
            keep_positions(*rows, operation_->every_position >> i & 1);
            inputs_.emplace_back(key.second, rows);
        }
        float_input_ = true;
        if (!positions_.empty()) return true;
        not_compared("its inputs were recorded at no position of it");
        return false;
    }

    // The codes that an engine really used say more than those we would make.
    bool choose_codes() {
        const OperationClass kind = class_of(place_.second);
        if (kind != OperationClass::linear && kind != OperationClass::acc) return false;
        const int32_t layer = place_.first, site = site_of(place_.second);
        const Rows *codes = recording_.find(layer, site | BITNET_STAGE_CODES);
        const Rows *scales = recording_.find(layer, site | BITNET_STAGE_SCALE);
        const bool as_ours = engine_.find(layer, site | BITNET_STAGE_CODES) != nullptr;
        if (!codes || !as_ours || (kind == OperationClass::linear && !scales)) return false;
        if (scales && scales->row_elements(0) != engine_.find(layer, site | BITNET_STAGE_SCALE)->row_elements)
            return false;
        inputs_.emplace_back(site | BITNET_STAGE_CODES, codes);
        keep_positions(*codes, false);
        if (kind == OperationClass::linear) {
            inputs_.emplace_back(site | BITNET_STAGE_SCALE, scales);
            keep_positions(*scales, false);
        }
        return !positions_.empty();
    }

    // Probabilities that are rounded before they meet the values: next to a tie the last bit of ours would decide.
    bool choose_probabilities() {
        const Key softmax = {place_.first, BITNET_STAGE_ATTN_SCORES_SOFTMAX}, v = {place_.first, BITNET_STAGE_V_PROJ};
        const std::string semantics = engine_.semantics();
        const bool rounded = semantics.find("attn_p=f16") != std::string::npos &&
                             semantics.find("kv_swap=attention") == std::string::npos;
        if (place_.second != BITNET_STAGE_ATTN_CONTEXT || !rounded || !recording_.find(softmax.first, softmax.second) ||
            !recording_.find(v.first, v.second))
            return false;
        for (const Key &key : {softmax, v}) {
            inputs_.emplace_back(key.second, recording_.find(key.first, key.second));
            keep_positions(*inputs_.back().second, key == v);
        }
        if (positions_.empty()) {
            inputs_.clear();
            positions_ = recorded_->positions;
            return false;
        }
        return float_input_ = by_row_ = true;
    }

    static int32_t site_of(int32_t linear) {
        switch (base_of(linear)) {
        case BITNET_STAGE_ATTN_OUT: return BITNET_STAGE_ATTN_SUB_NORM;
        case BITNET_STAGE_FFN_GATE:
        case BITNET_STAGE_FFN_UP: return BITNET_STAGE_FFN_NORM;
        case BITNET_STAGE_FFN_OUT: return BITNET_STAGE_FFN_SUB_NORM;
        default: return BITNET_STAGE_ATTN_NORM;
        }
    }

    bool choose_tokens() {
        const auto known = [&](int32_t p) {
            return size_t(p) < recording_.tokens.size() && recording_.tokens[size_t(p)] >= 0;
        };
        std::erase_if(positions_, [&](int32_t p) { return !known(p); });
        if (!positions_.empty()) return true;
        not_compared("the token ids are not known");
        return false;
    }

    void keep_positions(const Rows &rows, bool every) {
        if (!every) {
            std::erase_if(positions_, [&](int32_t p) {
                return !std::binary_search(rows.positions.begin(), rows.positions.end(), p);
            });
            return;
        }
        int32_t n = 0;  // positions from 0 without a gap
        while (size_t(n) < rows.positions.size() && rows.positions[size_t(n)] == n) ++n;
        std::erase_if(positions_, [&](int32_t p) { return p >= n; });
    }

    // A sub-norm that nobody recorded is computed too: its engine may not have it.
    const Rows *looked_through(Key key) {
        if (key.second != BITNET_STAGE_ATTN_SUB_NORM && key.second != BITNET_STAGE_FFN_SUB_NORM) return nullptr;
        const bitnet_operation_t *norm = engine_.find(key.first, key.second);
        const Rows *rows = norm ? recording_.find(norm->input_layer[0], norm->input_stage[0]) : nullptr;
        if (!rows) return nullptr;
        Gathered input = gather(norm->input_stage[0], *rows, rows->positions);
        input.view.data = input.bytes.data();
        const std::string out = engine_.run(key, {input.view}, rows->positions);
        through_.dtype = BITNET_DTYPE_F32;
        through_.positions = rows->positions;
        const size_t row_bytes = out.size() / rows->positions.size();
        for (size_t r = 0; r < rows->positions.size(); ++r)
            through_.rows.push_back(out.substr(r * row_bytes, row_bytes));
        fit_.through = name(key.second);
        return &through_;
    }

    static Gathered gather(int32_t stage, const Rows &rows, const std::vector<int32_t> &positions) {
        Gathered out;
        size_t row_bytes = 0;
        for (const int32_t p : positions) {
            const auto at = std::lower_bound(rows.positions.begin(), rows.positions.end(), p) - rows.positions.begin();
            const std::string &row = rows.rows[size_t(at)];
            if (!out.bytes.empty() && row.size() != row_bytes)
                throw CommandError(text_of("%s: position %d has %zu bytes: expected %zu, as before it",
                                           bitnet_stage_name(stage), p, row.size(), row_bytes));
            row_bytes = row.size();
            out.bytes += row;
        }
        out.view = {stage, rows.dtype, positions.size(), row_bytes / dtype_bytes(rows.dtype), row_bytes, nullptr};
        return out;
    }

    std::string compute() const {
        if (!by_row_) return compute(positions_);
        std::string out;  // rows of several widths
        for (const int32_t p : positions_) out += compute({p});
        return out;
    }

    std::string compute(const std::vector<int32_t> &positions) const {
        std::vector<Gathered> gathered;
        std::vector<bitnet_rows_t> views;
        if (operation_->n_inputs == 0) {
            std::vector<int32_t> tokens;
            for (const int32_t p : positions) tokens.push_back(recording_.tokens[size_t(p)]);
            return engine_.run(place_, {{0, BITNET_DTYPE_I32, tokens.size(), 1, 4, tokens.data()}}, positions);
        }
        for (size_t i = 0; i < inputs_.size(); ++i) {
            const bool every = float_input_ && (operation_->every_position >> i & 1);
            std::vector<int32_t> all;
            for (int32_t p = 0; every && p <= positions.back(); ++p) all.push_back(p);
            gathered.push_back(gather(inputs_[i].first, *inputs_[i].second, every ? all : positions));
        }
        for (Gathered &rows : gathered) {
            rows.view.data = rows.bytes.data();
            views.push_back(rows.view);
        }
        return engine_.run(place_, views, positions);
    }

    size_t elements(int32_t position, size_t total) const {
        if (operation_->row_elements) return operation_->row_elements;
        size_t sum = 0;  // rows of scores: in proportion to position + 1
        for (const int32_t p : positions_) sum += size_t(p) + 1;
        return total / sum * (size_t(position) + 1);
    }

    const std::string &recorded_row(int32_t position) const {
        const auto &all = recorded_->positions;
        return recorded_->rows[size_t(std::lower_bound(all.begin(), all.end(), position) - all.begin())];
    }

    // Another number of elements: as wrong as can be.
    void other_shape(int32_t position, size_t n_bytes) {
        fit_.equal = fit_.within = false;
        fit_.rows.clear();
        fit_.distance = infinity;
        fit_.position = position;
        fit_.shape = text_of("%zu elements were recorded", n_bytes / dtype_bytes(recorded_->dtype));
    }

    void compare(const std::string &ours) {
        const size_t element = dtype_bytes(operation_->dtype), total = ours.size() / element;
        double nearest = -1;
        fit_.compared = fit_.equal = fit_.within = true;
        fit_.n_rows = positions_.size();
        size_t at = 0;
        for (const int32_t position : positions_) {
            const size_t n = elements(position, total);
            const std::string &recorded = recorded_row(position);
            if (recorded.size() != n * dtype_bytes(recorded_->dtype)) return other_shape(position, recorded.size());
            Difference row = compare_row(ours.data() + at * element, operation_->dtype, recorded, recorded_->dtype, n);
            if (class_of(place_.second) == OperationClass::codes) row.distance = from_ties(recorded, at, n, ours);
            at += n;
            const double allowed = allowed_for(place_.second, recorded_->dtype, position, tolerances_);
            const double excess = row.distance == 0 ? 0 : allowed > 0 ? row.distance / allowed : infinity;
            fit_.equal &= row.equal;
            fit_.within &= row.distance <= allowed;
            fit_.rows.push_back({position, row.distance, allowed});
            if (excess > nearest || (excess == nearest && row.distance > fit_.distance)) {
                nearest = excess;
                fit_.distance = row.distance;
                fit_.allowed = allowed;
                fit_.position = position;
                fit_.index = row.index;
                fit_.recorded = row.recorded;
                fit_.ours = row.ours;
            }
        }
        if (fit_.within) fit_.rows.clear();
    }

    // Of a row of codes: how far from a tie the farthest is that differs; infinite when one is off by more than 1.
    double from_ties(const std::string &recorded, size_t at, size_t n, const std::string &ours) const {
        const Rows &input = *inputs_[0].second;
        const std::string &x =
            input.rows[size_t(std::lower_bound(input.positions.begin(), input.positions.end(), positions_[at / n]) -
                              input.positions.begin())];
        double absmax = 1e-5, worst = 0;
        for (size_t i = 0; i < n; ++i) absmax = std::max(absmax, std::fabs(value_at(x.data(), input.dtype, i)));
        for (size_t i = 0; i < n; ++i) {
            const int a = static_cast<signed char>(ours[at + i]), b = static_cast<signed char>(recorded[i]);
            if (a == b) continue;
            const double scaled = value_at(x.data(), input.dtype, i) * 127 / absmax;
            worst = std::max(worst, std::abs(a - b) > 1 ? infinity : std::fabs(scaled - 0.5 * (a + b)));
        }
        return worst;
    }

    // ---- a linear whose codes were not recorded: flips at ties may explain it ----

    struct Tie {
        size_t index;
        int8_t other;  // the code on its other side
        double distance;
    };

    void try_ties() {
        const int32_t site = site_of(place_.second), layer = place_.first;
        const bitnet_operation_t *codes_of = engine_.find(layer, site | BITNET_STAGE_CODES);
        const bitnet_operation_t *scales_of = engine_.find(layer, site | BITNET_STAGE_SCALE);
        if (!codes_of || !scales_of || scales_of->row_elements != 1) return;
        const Rows &x = *inputs_[0].second;
        const std::vector<int32_t> positions = positions_;
        Fit total = fit_;
        total.within = true;
        total.rows.clear();
        total.distance = 0;
        total.n_flips = 0;
        for (const int32_t position : positions) {
            const Gathered input = gather(inputs_[0].first, x, {position});
            bitnet_rows_t view = input.view;
            view.data = input.bytes.data();
            const std::string codes = engine_.run({layer, site | BITNET_STAGE_CODES}, {view}, {position});
            const std::string scale = engine_.run({layer, site | BITNET_STAGE_SCALE}, {view}, {position});
            if (!explain_row(position, input, codes, scale, total)) return;
        }
        fit_ = total;
    }

    static std::vector<Tie> ties_of(const Gathered &input, const std::string &codes, const std::string &scale) {
        std::vector<Tie> ties;
        const double s = value_at(scale.data(), BITNET_DTYPE_F32, 0);
        for (size_t i = 0; i < codes.size(); ++i) {
            const double scaled = value_at(input.bytes.data(), input.view.dtype, i) * s;
            const double low = std::floor(scaled), distance = std::fabs(scaled - low - 0.5);
            if (distance > tie_distance_max) continue;
            const int code = static_cast<signed char>(codes[i]);
            ties.push_back({i, int8_t(code == int(low) ? int(low) + 1 : int(low)), distance});
        }
        std::sort(ties.begin(), ties.end(), [](const Tie &a, const Tie &b) { return a.distance < b.distance; });
        if (ties.size() > ties_tried_max) ties.resize(ties_tried_max);
        return ties;
    }

    bool explain_row(int32_t position, const Gathered &input, const std::string &codes, const std::string &scale,
                     Fit &total) {
        const std::vector<Tie> ties = ties_of(input, codes, scale);
        const size_t n_trials = size_t(1) << ties.size(), n_in = codes.size(), n_out = operation_->row_elements;
        std::string trials, scales;
        for (size_t trial = 0; trial < n_trials; ++trial) {
            std::string flipped = codes;
            for (size_t t = 0; t < ties.size(); ++t)
                if (trial >> t & 1) flipped[ties[t].index] = char(ties[t].other);
            trials += flipped;
            scales += scale;
        }
        const int32_t site = site_of(place_.second);
        const std::string out =
            engine_.run(place_,
                        {{site | BITNET_STAGE_CODES, BITNET_DTYPE_I8, n_trials, n_in, n_in, trials.data()},
                         {site | BITNET_STAGE_SCALE, BITNET_DTYPE_F32, n_trials, 1, 4, scales.data()}},
                        std::vector<int32_t>(n_trials, position));
        const double allowed = allowed_for(place_.second, recorded_->dtype, position, tolerances_);
        double best = infinity;
        size_t best_trial = 0;
        for (size_t trial = 0; trial < n_trials; ++trial) {
            const Difference row = compare_row(out.data() + trial * n_out * 4, BITNET_DTYPE_F32, recorded_row(position),
                                               recorded_->dtype, n_out);
            if (row.distance < best) best = row.distance, best_trial = trial;
        }
        if (best > allowed) return false;
        total.distance = std::max(total.distance, best);
        for (; best_trial; best_trial &= best_trial - 1) ++total.n_flips;
        return true;
    }

    const Engine &engine_;
    const Recording &recording_;
    const Key place_;
    const Tolerances &tolerances_;
    const bitnet_operation_t *operation_;
    const Rows *recorded_;
    std::vector<std::pair<int32_t, const Rows *>> inputs_;
    std::vector<int32_t> positions_;
    Rows through_;
    bool float_input_ = false;
    bool by_row_ = false;  // an input has another width at each position
    Fit fit_;
};

}  // namespace

OperationClass class_of(int32_t stage) {
    switch (companion_of(stage)) {
    case BITNET_STAGE_CODES: return OperationClass::codes;
    case BITNET_STAGE_SCALE: return OperationClass::scale;
    case BITNET_STAGE_ACC: return OperationClass::acc;
    }
    switch (stage) {
    case BITNET_STAGE_EMBEDDINGS: return OperationClass::embedding;
    case BITNET_STAGE_ATTN_NORM:
    case BITNET_STAGE_ATTN_SUB_NORM:
    case BITNET_STAGE_FFN_NORM:
    case BITNET_STAGE_FFN_SUB_NORM:
    case BITNET_STAGE_FINAL_NORM: return OperationClass::norm;
    case BITNET_STAGE_Q_ROPE:
    case BITNET_STAGE_K_ROPE: return OperationClass::rope;
    case BITNET_STAGE_ATTN_SCORES:
    case BITNET_STAGE_ATTN_SCORES_SOFTMAX:
    case BITNET_STAGE_ATTN_CONTEXT: return OperationClass::attention;
    case BITNET_STAGE_FFN_ACT: return OperationClass::activation;
    case BITNET_STAGE_ATTN_RESIDUAL:
    case BITNET_STAGE_LAYER_OUT: return OperationClass::residual;
    case BITNET_STAGE_LOGITS: return OperationClass::head;
    default: return OperationClass::linear;
    }
}

std::optional<Engine> Engine::make(const bitnet_model_t *model, const std::string &semantics, std::string &why) {
    bitnet_replay_t *handle = nullptr;
    if (bitnet_replay_create(model, semantics.c_str(), &handle) != BITNET_OK) {
        why = bitnet_last_error();
        return std::nullopt;
    }
    Engine engine(ReplayHandle(handle, bitnet_replay_free));
    const size_t n = bitnet_replay_operation_count(handle);
    for (size_t i = 0; i < n; ++i) {
        bitnet_operation_t operation = {};
        operation.struct_size = sizeof operation;
        check(bitnet_replay_operation(handle, i, &operation));
        engine.places_[{operation.layer, operation.stage}] = i;
        engine.operations_.push_back(operation);
    }
    return engine;
}

const bitnet_operation_t *Engine::find(int32_t layer, int32_t stage) const {
    const auto found = places_.find({layer, stage});
    return found == places_.end() ? nullptr : &operations_[found->second];
}

std::string Engine::run(Key place, const std::vector<bitnet_rows_t> &inputs,
                        const std::vector<int32_t> &positions) const {
    bitnet_replay_params_t params = {};
    params.struct_size = sizeof params;
    params.layer = place.first;
    params.stage = place.second;
    params.inputs = inputs.data();
    params.n_inputs = uint32_t(inputs.size());
    params.positions = positions.data();
    size_t n = 0;
    check(bitnet_replay_run(replay_.get(), &params, nullptr, &n));
    std::string out(n * dtype_bytes(find(place.first, place.second)->dtype), '\0');
    check(bitnet_replay_run(replay_.get(), &params, out.data(), &n));
    return out;
}

Fit judge(const Engine &engine, const Recording &recording, Key place, const Tolerances &tolerances) {
    try {
        return Judge(engine, recording, place, tolerances).run();
    } catch (const CommandError &error) {  // inputs that this model's operation cannot take
        Fit fit;
        fit.why_not = error.what();
        return fit;
    }
}

bool is_bf16(const Rows &rows) {
    if (rows.dtype == BITNET_DTYPE_BF16) return true;
    if (rows.dtype != BITNET_DTYPE_F32) return false;
    for (const std::string &row : rows.rows)
        for (size_t i = 0; i < row.size(); i += 4)
            if (row[i] || row[i + 1]) return false;
    return true;
}

}  // namespace bitnet::explain
