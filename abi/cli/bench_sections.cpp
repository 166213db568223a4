#include "abi/cli/bench_sections.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>

#include "abi/cli/bench_trace.h"
#include "abi/cli/demo_model.h"
#include "abi/cli/synthetic_model.h"
#include "abi/cli/terminal.h"

namespace bitnet {

namespace {

constexpr double mega = 1e6;
constexpr double giga = 1e9;
constexpr size_t read_bytes = 512u << 20;  // far more than any cache
constexpr int batch_rows = 512;            // the engine's default batch
constexpr int decode_position = 32;        // of the shallow decode: a short prompt
constexpr int traced_decodes = 8;

// Kilobytes behind "name:" in /proc/self/status, in MB.
double status_megabytes(const std::string &name) {
    std::ifstream status("/proc/self/status");
    std::string line;
    while (std::getline(status, line)) {
        if (line.starts_with(name + ":")) return std::stod(line.substr(name.size() + 1)) * 1024 / mega;
    }
    throw CommandError("/proc/self/status: found no " + name + ", expected a line of it");
}

double milliseconds(double seconds) { return 1e3 * seconds; }

}  // namespace

BenchSections::BenchSections(const BenchPlan &plan, const bitnet_model_t *model)
    : plan_(plan), model_(model), work_(work_of(model, kv_is_f16(model))) {
    const int longest = *std::max_element(plan.prefill.begin(), plan.prefill.end());
    tokens_ = bench_tokens(model, static_cast<size_t>(std::max(longest, plan.depth) + plan.n_decode + batch_rows));
}

int BenchSections::threads_max() const { return *std::max_element(plan_.threads.begin(), plan_.threads.end()); }

// For prefills and decodes near the beginning.
bitnet_ctx_t *BenchSections::context(int n_threads, const DecodeMode &mode) {
    const auto found = contexts_.find({n_threads, mode.adjust});
    if (found != contexts_.end()) return found->second.get();
    const int longest = *std::max_element(plan_.prefill.begin(), plan_.prefill.end());
    const int n_ctx = std::min(std::max({longest, decode_position + plan_.n_decode, batch_rows}),
                               static_cast<int>(model_info(model_).n_ctx_train));
    ContextHandle made = make_context(model_, n_threads, n_ctx, &mode);
    return contexts_.emplace(ContextKey{n_threads, mode.adjust}, std::move(made)).first->second.get();
}

// ---- memory and limits ------------------------------------------------------------------------------------------

void BenchSections::memory() {
    const int n_threads = threads_max();
    report_.add("memory", "resident after load", n_threads, "MB", status_megabytes("VmRSS"));
    const int n = std::min<int>(batch_rows, model_info(model_).n_ctx_train - 1);
    bitnet_ctx_t *ctx = context(n_threads, decode_modes()[0]);
    check(bitnet_context_reset(ctx));
    time_eval(ctx, tokens_.data(), static_cast<size_t>(n), BITNET_LOGITS_LAST);
    report_.add("memory", text_of("resident after %d tokens", n), n_threads, "MB", status_megabytes("VmRSS"));
    report_.add("memory", "of it not pages of the file", n_threads, "MB", status_megabytes("RssAnon"));
    report_.add("memory", "of it allocated by the context", n_threads, "MB",
                static_cast<double>(bitnet_context_memory(ctx)) / mega);
    report_.add("memory", "peak until then", n_threads, "MB", status_megabytes("VmHWM"));
}

void BenchSections::limits() {
    if (!memory_buffer_) {
        memory_buffer_.emplace(ReadBuffer::anonymous(read_bytes));
        model_buffer_.emplace(plan_.model.path.empty() ? ReadBuffer::borrowed(demo_model_data(), demo_model_size())
                                                       : ReadBuffer::mapped_file(plan_.model.path));
    }
    for (const int n_threads : plan_.threads) {
        for (const ReadLoop &loop : read_loops()) {
            const double rate = read_bandwidth(*memory_buffer_, loop, n_threads, read_bytes);
            report_.add_limit(std::string("read memory, ") + loop.name, n_threads, Limit::read, rate);
            if (rate > fastest_[n_threads].first) fastest_[n_threads] = {rate, &loop};
            report_.add_limit(std::string("read the model, ") + loop.name, n_threads, Limit::read,
                              read_bandwidth(*model_buffer_, loop, n_threads, read_bytes));
        }
        report_.add_limit(byte_products().name, n_threads, Limit::byte_products,
                          byte_product_rate(byte_products(), n_threads));
    }
}

// Bytes per second of the loop that has been the fastest so far. limits() comes first.
double BenchSections::reading_now(int n_threads) const {
    return read_bandwidth(*memory_buffer_, *fastest_.at(n_threads).second, n_threads, read_bytes / 2);
}

// ---- prefill and decode -----------------------------------------------------------------------------------------

void BenchSections::prefill() {
    for (const int n : plan_.prefill) {
        for (const int n_threads : plan_.threads) {
            bitnet_ctx_t *ctx = context(n_threads, decode_modes()[0]);
            const double seconds = time_prefill(ctx, tokens_.data(), static_cast<size_t>(n), BITNET_LOGITS_LAST);
            report_.add("prefill", text_of("%d tokens", n), n_threads, "tokens/s", n / seconds, Limit::byte_products,
                        work_.ternary_macs() * n / seconds);
        }
    }
}

double BenchSections::decode_at(const std::string &section, int position, bitnet_ctx_t *ctx, int n_threads,
                                const DecodeMode &mode) {
    const size_t n = static_cast<size_t>(plan_.n_decode);
    if (mode.greedy && !mode.reads_head && head_stats(ctx).n_bytes == 0)
        time_greedy(ctx, tokens_.data(), n);  // makes the copy
    const bitnet_head_stats_t before = head_stats(ctx);
    const double reading_before = reading_now(n_threads);
    const double seconds =
        mode.greedy ? time_greedy(ctx, tokens_.data(), n) : time_decode(ctx, tokens_.data() + position, n, mode.logits);
    const double reading = (reading_before + reading_now(n_threads)) / 2;
    const bitnet_head_stats_t after = head_stats(ctx);
    double n_bytes = 0;
    if (after.n_certified > before.n_certified) {
        const double n_tokens = static_cast<double>(after.n_certified - before.n_certified);
        const double rows = static_cast<double>(after.n_rows_computed - before.n_rows_computed) / n_tokens;
        // Of the copy at least four of the five bits; how often the fifth is needed depends on the head.
        n_bytes = plan_.n_decode * (0.8 * static_cast<double>(after.n_bytes) + rows * work_.head_row_bytes);
        const std::string of_head = "certified head";
        report_.add(of_head, text_of("logits computed, position %d", position), n_threads, "a token", rows);
        report_.add(of_head, "compact copy", n_threads, "MB", static_cast<double>(after.n_bytes) / mega);
        report_.add(of_head, "compact copy made in", n_threads, "ms",
                    milliseconds(static_cast<double>(after.build_ns) * 1e-9));
    }
    const bitnet_weight_stats_t weights = weight_stats(ctx);
    const double dense_bytes = static_cast<double>(weights.n_bytes);
    if (weights.dense != 0) {
        report_.add("dense weights", "copy", n_threads, "MB", dense_bytes / mega);
        report_.add("dense weights", "copy made in", n_threads, "ms",
                    milliseconds(static_cast<double>(weights.build_ns) * 1e-9));
    }
    for (int i = 0; i < plan_.n_decode; i++) n_bytes += work_.decode_bytes(position + i, mode.reads_head, dense_bytes);
    report_.add(section, text_of("%s, position %d", mode.name, position), n_threads, "tokens/s",
                plan_.n_decode / seconds, Limit::read, n_bytes / seconds, reading);
    return seconds / plan_.n_decode;
}

// How many times as fast one way is as another that was measured right before or after it: a machine that changes
// between repetitions changes both.
void BenchSections::add_ratios(const std::string &section, int position, int n_threads,
                               const std::map<std::string, double> &seconds) {
    for (const char *weights : {"", ", dense weights"}) {
        const std::string with = weights;
        report_.add(section, text_of("certified against full head%s, position %d", weights, position), n_threads,
                    "times", seconds.at("greedy, full head" + with) / seconds.at("greedy, certified head" + with));
    }
}

// context() after a short prompt.
bitnet_ctx_t *BenchSections::shallow_context(int n_threads, const DecodeMode &mode) {
    bitnet_ctx_t *ctx = context(n_threads, mode);
    const int position = std::min(decode_position, bitnet_context_capacity(ctx) - plan_.n_decode);
    check(bitnet_context_reset(ctx));
    if (position > 0) time_eval(ctx, tokens_.data(), static_cast<size_t>(position), BITNET_LOGITS_NONE);
    return ctx;
}

// One number of threads after the other, so that the ways to decode with it follow each other.
void BenchSections::decode() {
    for (const int n_threads : plan_.threads) {
        std::map<std::string, double> seconds;
        int position = 0;
        for (const DecodeMode &mode : decode_modes()) {
            bitnet_ctx_t *ctx = shallow_context(n_threads, mode);
            position = bitnet_context_position(ctx);
            seconds[mode.name] = decode_at("decode", position, ctx, n_threads, mode);
        }
        add_ratios("decode", position, n_threads, seconds);
    }
}

// The cache is computed once, on all threads, and copied into the other contexts.
bitnet_ctx_t *BenchSections::deep_context(int n_threads, const DecodeMode &mode) {
    const auto found = deep_contexts_.find({n_threads, mode.adjust});
    if (found != deep_contexts_.end()) return found->second.get();
    ContextHandle made = make_context(model_, n_threads, plan_.depth + plan_.n_decode, &mode);
    if (deep_contexts_.empty()) {
        const double seconds =
            time_eval(made.get(), tokens_.data(), static_cast<size_t>(plan_.depth), BITNET_LOGITS_NONE);
        report_.add("deep", text_of("prefill of %d tokens", plan_.depth), n_threads, "tokens/s", plan_.depth / seconds,
                    Limit::byte_products, work_.ternary_macs() * plan_.depth / seconds);
    } else {
        bitnet_ctx_t *filled = deep_contexts_.begin()->second.get();
        size_t n = 0;
        check(bitnet_context_save(filled, nullptr, &n));
        const std::unique_ptr<char[]> state(new char[n]);
        check(bitnet_context_save(filled, state.get(), &n));
        check(bitnet_context_restore(made.get(), state.get(), n));
    }
    return deep_contexts_.emplace(ContextKey{n_threads, mode.adjust}, std::move(made)).first->second.get();
}

void BenchSections::deep() {
    deep_context(threads_max(), decode_modes()[0]);
    for (const int n_threads : plan_.threads) {
        const DecodeMode &all_logits = decode_modes()[0];
        bitnet_ctx_t *shallow = shallow_context(n_threads, all_logits);
        const int near = bitnet_context_position(shallow);
        const double near_seconds =
            time_decode(shallow, tokens_.data() + near, static_cast<size_t>(plan_.n_decode), all_logits.logits) /
            plan_.n_decode;
        std::map<std::string, double> seconds;
        for (const DecodeMode &mode : decode_modes())
            seconds[mode.name] = decode_at("deep", plan_.depth, deep_context(n_threads, mode), n_threads, mode);
        report_.add("deep", text_of("a token, position %d against %d", plan_.depth, near), n_threads, "times",
                    seconds[all_logits.name] / near_seconds);
        add_ratios("deep", plan_.depth, n_threads, seconds);
    }
}

// ---- kernels in place -------------------------------------------------------------------------------------------

// What is no linear, as parts of the whole time.
void BenchSections::add_shares(const std::string &section, int n_threads, const StageTimes &times) {
    const struct {
        const char *name;
        double seconds;
    } shares[] = {
        {"norms", times.seconds(BITNET_STAGE_ATTN_NORM) + times.seconds(BITNET_STAGE_ATTN_SUB_NORM) +
                      times.seconds(BITNET_STAGE_FFN_NORM) + times.seconds(BITNET_STAGE_FFN_SUB_NORM) +
                      times.seconds(BITNET_STAGE_FINAL_NORM)},
        {"quantisation", times.codes_seconds()},
        {"RoPE", times.seconds(BITNET_STAGE_Q_ROPE) + times.seconds(BITNET_STAGE_K_ROPE)},
        {"attention", times.seconds(BITNET_STAGE_ATTN_CONTEXT)},
        {"activation", times.seconds(BITNET_STAGE_FFN_ACT)},
        {"residuals", times.seconds(BITNET_STAGE_ATTN_RESIDUAL) + times.seconds(BITNET_STAGE_LAYER_OUT)},
        {"ternary linears", times.ternary_seconds()},
        {"the head", times.seconds(BITNET_STAGE_LOGITS)},
    };
    for (const auto &share : shares) {
        if (share.seconds > 0)
            report_.add(section, std::string("share of ") + share.name, n_threads, "% of the time",
                        100 * share.seconds / times.total_seconds());
    }
}

void BenchSections::kernels_in_prefill(int n_threads) {
    const std::string section = "kernels in prefill";
    const int n = std::min(batch_rows, *std::max_element(plan_.prefill.begin(), plan_.prefill.end()));
    bitnet_ctx_t *ctx = context(n_threads, decode_modes()[0]);
    const StageTimes times(ctx, false);
    time_prefill(ctx, tokens_.data(), static_cast<size_t>(n), BITNET_LOGITS_NONE);
    const auto add = [&](const std::string &name, double macs, double seconds) {
        const double rate = macs * times.n_tokens() / seconds;
        report_.add(section, times.ternary_kernel() + ", " + name, n_threads, "GMAC/s", rate / giga,
                    Limit::byte_products, rate);
    };
    for (int g = 0; g < n_linear_groups; g++) {
        const LinearGroup group = static_cast<LinearGroup>(g);
        add(linear_group_name(group), work_.group_macs[static_cast<size_t>(g)], times.group_seconds(group));
    }
    add("all linears", work_.ternary_macs(), times.ternary_seconds());
    add_shares(section, n_threads, times);
}

void BenchSections::kernels_in_decode(int n_threads) {
    const std::string section = "kernels in decode";
    bitnet_ctx_t *ctx = context(n_threads, decode_modes()[0]);
    const size_t n = static_cast<size_t>(std::min(plan_.n_decode, bitnet_context_capacity(ctx)));
    check(bitnet_context_reset(ctx));
    const StageTimes times(ctx, true);
    time_decode(ctx, tokens_.data(), n, BITNET_LOGITS_LAST);
    const auto add = [&](const std::string &name, double n_bytes, double seconds) {
        const double rate = n_bytes * times.n_tokens() / seconds;
        report_.add(section, name, n_threads, "GB/s", rate / giga, Limit::read, rate);
    };
    for (int g = 0; g < n_linear_groups; g++) {
        const LinearGroup group = static_cast<LinearGroup>(g);
        add(times.ternary_kernel() + ", " + linear_group_name(group), work_.group_bytes[static_cast<size_t>(g)],
            times.group_seconds(group));
    }
    add(times.ternary_kernel() + ", all linears", work_.ternary_bytes(), times.ternary_seconds());
    add("head", work_.head_bytes, times.seconds(BITNET_STAGE_LOGITS));
    add_shares(section, n_threads, times);
}

void BenchSections::kernels() {
    for (const int n_threads : plan_.threads) kernels_in_prefill(n_threads);
    for (const int n_threads : plan_.threads) kernels_in_decode(n_threads);
}

// ---- tracing, regions, load -------------------------------------------------------------------------------------

// One token at a time, one way after the other, so that a machine that slows down slows all of them. With its logits,
// so that a sink that asks for them makes no more work than there is without one.
void BenchSections::tracing() {
    const int n_threads = threads_max();
    bitnet_ctx_t *ctx = context(n_threads, decode_modes()[0]);
    const struct {
        TraceWay way;
        const char *name;
    } ways[] = {{TraceWay::nothing, "nothing attached"},
                {TraceWay::null_everything, "null sink with everything"},
                {TraceWay::jsonl_default, "jsonl with the default stages"},
                {TraceWay::jsonl_everything, "jsonl with everything"}};
    constexpr int n_ways = static_cast<int>(std::size(ways));
    std::array<double, n_ways> seconds = {};
    check(bitnet_context_reset(ctx));
    const size_t n = static_cast<size_t>(std::min(traced_decodes, bitnet_context_capacity(ctx)));
    time_decode(ctx, tokens_.data(), n, BITNET_LOGITS_LAST);
    for (int i = 0; i < n_ways; i++) {
        AttachedTrace trace(ctx, ways[i].way);
        const std::string name = ways[i].name;
        const auto slot = static_cast<size_t>(i);
        seconds[slot] = time_decode(ctx, tokens_.data(), n, BITNET_LOGITS_LAST) / static_cast<double>(n);
        report_.add("tracing", name, n_threads, "ns/token", 1e9 * seconds[slot]);
        if (i > 0) report_.add("tracing", name + ", more", n_threads, "%", 100 * (seconds[slot] / seconds[0] - 1));
        trace.finish();
    }
    const ServiceTimes services(ctx);
    time_decode(ctx, tokens_.data(), n, BITNET_LOGITS_LAST);
    for (int i = 0; i < n_services; i++)
        report_.add("tracing", service_name(i), 1, "GB/s", services.bytes_per_second(i) / giga);
}

constexpr int region_layers = 144;  // so many that what an eval costs beside them does not count

ModelHandle make_region_model(const std::string &isa) {
    const SyntheticShape shape = {"regions", region_layers, 128, 128, 2, 2, 128, 1024, 512};
    const std::string file = make_synthetic_model(shape, 0, TernaryFormat::i2_s).bytes();
    bitnet_load_params_t params = {};
    params.struct_size = sizeof(params);
    params.isa = isa.empty() ? nullptr : isa.c_str();
    params.flags = BITNET_LOAD_COPY;
    bitnet_model_t *model = nullptr;
    check(bitnet_load_memory(file.data(), file.size(), "regions", &params, &model));
    return ModelHandle(model, bitnet_model_free);
}

// Layers of the smallest shape, in which waking the threads and waiting for them is nearly all that several threads
// add: what else a layer does, one thread's time shows, and between not being split at all and being split evenly lies
// the cost of a region.
void BenchSections::regions() {
    constexpr int regions_per_layer = 4;  // the linears; attention joins them beyond n_evals positions (core/DESIGN.md)
    constexpr int n_evals = 64;
    if (!region_model_) region_model_ = make_region_model(plan_.model.isa);
    // The median: a thread that the system takes away for a moment makes one eval long, not all.
    const auto seconds_per_layer = [&](int n_threads) {
        const ContextHandle ctx = make_context(region_model_.get(), n_threads, n_evals);
        std::vector<double> times;
        for (int i = 0; i < n_evals; i++) times.push_back(time_eval(ctx.get(), tokens_.data(), 1, BITNET_LOGITS_NONE));
        return median(times) / region_layers;
    };
    const double alone = seconds_per_layer(1);
    report_.add("regions", "a layer of 128 x 128", 1, "us", 1e6 * alone);
    for (const int n_threads : plan_.threads) {
        if (n_threads == 1) continue;
        const double together = seconds_per_layer(n_threads);
        report_.add("regions", "a layer of 128 x 128", n_threads, "us", 1e6 * together);
        report_.add("regions", "a parallel region, at least", n_threads, "us",
                    1e6 * std::max(together - alone, 0.0) / regions_per_layer);
        report_.add("regions", "a parallel region, at most", n_threads, "us",
                    1e6 * std::max(together - alone / n_threads, 0.0) / regions_per_layer);
    }
}

void BenchSections::load() {
    for (const int n_threads : plan_.threads) {
        const double from = seconds_now();
        const ModelHandle model = load_model(plan_.model);
        const double loaded = seconds_now();
        const ContextHandle ctx = make_context(model.get(), n_threads, 0);
        time_eval(ctx.get(), tokens_.data(), 1, BITNET_LOGITS_LAST);
        const double first = seconds_now();
        report_.add("load", "load, every code checked", 1, "ms", milliseconds(loaded - from), Limit::read,
                    work_.ternary_bytes() / (loaded - from));
        report_.add("load", "load to the first token's logits", n_threads, "ms", milliseconds(first - from),
                    Limit::read, (work_.ternary_bytes() + work_.decode_bytes(0, true)) / (first - from));
    }
}

}  // namespace bitnet
