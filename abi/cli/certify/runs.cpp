#include "abi/cli/certify/runs.h"

#include <algorithm>
#include <exception>

#include "abi/cli/certify/certificate.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"
#include "abi/cli/trace_output.h"

namespace bitnet::certify {

namespace {

constexpr const char *everything = "**,*.*";
constexpr const char *hex_digits = "0123456789abcdef";
constexpr size_t digest_bytes = 32;
constexpr int odd_batch = 3;
constexpr size_t the_rest = SIZE_MAX;

// An in-process sink that hands every row's hash to a function. An exception may not cross the library: it waits here.
struct Watch {
    RowFunction on_row;
    const bitnet_trace_host_t *host = nullptr;
    const bitnet_ext_hash_t *hash = nullptr;
    std::exception_ptr failure = nullptr;

    static bitnet_status_t open(void **state, const bitnet_trace_host_t *host, const char *) {
        auto *self = static_cast<Watch *>(*state);
        self->host = host;
        self->hash = static_cast<const bitnet_ext_hash_t *>(host->get_extension(host, BITNET_EXT_HASH));
        return self->hash ? BITNET_OK : BITNET_E_UNSUPPORTED;
    }

    static bitnet_status_t event(void *state, const bitnet_event_t *header) {
        if (header->type != BITNET_EVENT_TENSOR) return BITNET_OK;
        auto *self = static_cast<Watch *>(state);
        try {
            self->tensor(*reinterpret_cast<const bitnet_tensor_event_t *>(header));
            return BITNET_OK;
        } catch (...) {
            self->failure = std::current_exception();
            return BITNET_E_USER;
        }
    }

    void tensor(const bitnet_tensor_event_t &event) const {
        for (uint32_t r = 0; r < event.n_rows; r++) {
            const uint8_t *digest = hash->blake3(host, &event, r);
            if (digest == nullptr) throw CommandError("the trace host could not hash a row");
            Row row{{event.header.position + static_cast<int32_t>(r), event.header.layer, event.stage}, ""};
            row.hash.reserve(2 * digest_bytes);
            for (size_t i = 0; i < digest_bytes; i++) {
                row.hash += hex_digits[digest[i] >> 4];
                row.hash += hex_digits[digest[i] & 15];
            }
            on_row(row);
        }
    }
};

const bitnet_trace_sink_t watch_sink = {sizeof(bitnet_trace_sink_t),
                                        BITNET_ABI_VERSION,
                                        "bitnet-certify",
                                        uint64_t{1} << BITNET_EVENT_TENSOR,
                                        Watch::open,
                                        Watch::event,
                                        nullptr,
                                        nullptr};

class Run {
public:
    Run(const bitnet_model_t *model, const Workload &work, const Plan &plan, const RowFunction &on_row)
        : work_(work), plan_(plan), watch_{on_row}, model_(model), info_(model_info(model)), ctx_(create()) {}

    std::vector<int32_t> execute() {
        evaluate_prompt(prepare());
        if (plan_.traced)
            decode();
        else
            generate();
        if (plan_.traced) unwatch();
        return chosen_;
    }

private:
    ContextHandle create() const {
        bitnet_context_params_t params = {};
        params.struct_size = sizeof(params);
        params.n_ctx = static_cast<int32_t>(work_.prompt.size()) + work_.n_decode;
        params.n_threads = plan_.n_threads;
        params.n_batch = plan_.n_batch;
        bitnet_ctx_t *ctx = nullptr;
        check(bitnet_context_create(model_, &params, &ctx));
        return ContextHandle(ctx, bitnet_context_free);
    }

    void watch() {
        if (!plan_.traced) return;
        check(bitnet_trace_select(ctx_.get(), everything));
        check(bitnet_trace_set_sink(ctx_.get(), &watch_sink, &watch_));
    }

    void unwatch() {
        if (!plan_.traced) return;
        if (watch_.failure) std::rethrow_exception(watch_.failure);
        finish_trace(ctx_.get());
        check(bitnet_trace_set_sink(ctx_.get(), nullptr, nullptr));
    }

    // Tokens that are none of the prompt's, up to the context's end: what reuse must leave no trace of.
    void evaluate_others() {
        std::vector<int32_t> others;
        const int32_t n = bitnet_context_capacity(ctx_.get()) - bitnet_context_position(ctx_.get());
        for (int32_t i = 0; i < n; i++)
            others.push_back((work_.prompt[static_cast<size_t>(i) % work_.prompt.size()] + 1) % info_.n_vocab);
        if (n > 0) check(bitnet_eval_tokens(ctx_.get(), others.data(), others.size(), nullptr));
    }

    void evaluate_half() {
        watch();
        evaluate(0, static_cast<size_t>(work_.half()));
        unwatch();
    }

    // Brings the context to where the plan has it begin, watched; returns that position.
    size_t prepare() {
        const int half = work_.half();
        switch (plan_.use) {
        case ContextUse::fresh: break;
        case ContextUse::reset:
            evaluate_others();
            check(bitnet_context_reset(ctx_.get()));
            break;
        case ContextUse::truncated:
            evaluate_half();
            evaluate_others();
            check(bitnet_context_truncate(ctx_.get(), half));
            break;
        case ContextUse::restored:
            evaluate_others();
            check(bitnet_context_restore(ctx_.get(), work_.saved.data(), work_.saved.size()));
            break;
        case ContextUse::forked: {
            evaluate_half();
            bitnet_ctx_t *fork = nullptr;
            check(bitnet_context_fork(ctx_.get(), &fork));
            ContextHandle held(fork, bitnet_context_free);
            check(bitnet_context_reset(ctx_.get()));
            evaluate_others();
            ctx_ = std::move(held);
            break;
        }
        }
        watch();
        return static_cast<size_t>(bitnet_context_position(ctx_.get()));
    }

    void evaluate_prompt(size_t begin) { evaluate(begin, work_.prompt.size()); }

    void evaluate(size_t begin, size_t end) {
        for (size_t turn = 0; begin < end; turn++) {
            const size_t n =
                plan_.chunks.empty() ? end - begin : std::min(plan_.chunks[turn % plan_.chunks.size()], end - begin);
            evaluate_chunk(work_.prompt.data() + begin, n);
            begin += n;
        }
    }

    void evaluate_chunk(const int32_t *tokens, size_t n) {
        bitnet_eval_params_t params = {};
        params.struct_size = sizeof(params);
        params.logits = plan_.traced ? BITNET_LOGITS_LAST : BITNET_LOGITS_ALL;
        const int32_t position = bitnet_context_position(ctx_.get());
        check(bitnet_eval_tokens(ctx_.get(), tokens, n, &params));
        if (plan_.traced) return;
        for (int32_t i = 0; i < static_cast<int32_t>(n); i++) {
            show(position + i, BITNET_STAGE_FINAL_NORM, bitnet_get_hidden_ith(ctx_.get(), i), info_.n_embd);
            show(position + i, BITNET_STAGE_LOGITS, bitnet_get_logits_ith(ctx_.get(), i), info_.n_vocab);
        }
    }

    void show(int32_t position, int32_t stage, const float *values, int32_t n) const {
        if (values == nullptr) check(BITNET_E_INTERNAL);
        watch_.on_row({{position, -1, stage}, blake3_of(values, static_cast<size_t>(n) * sizeof(float))});
    }

    void decode() {
        for (int i = 0; i < work_.n_decode; i++) {
            int32_t token = -1;
            check(bitnet_top_logits(ctx_.get(), -1, 1, &token, nullptr));
            chosen_.push_back(token);
            evaluate_chunk(&token, 1);
        }
    }

    // The same with bitnet_generate, which leaves its last token unevaluated.
    void generate() {
        if (work_.n_decode == 0) return;
        bitnet_generate_params_t params = {};
        params.struct_size = sizeof(params);
        params.max_tokens = work_.n_decode;
        params.flags = BITNET_GENERATE_IGNORE_END;
        params.on_token = on_token;
        params.on_token_user = this;
        size_t n = 0;
        const bitnet_status_t status = bitnet_generate(ctx_.get(), &params, nullptr, &n);
        if (watch_.failure) std::rethrow_exception(watch_.failure);
        check(status);
        const int32_t last = chosen_.back();
        evaluate_chunk(&last, 1);
    }

    static int32_t on_token(void *user, int32_t token, const float *logits, int32_t n_vocab) {
        auto *self = static_cast<Run *>(user);
        try {
            const size_t position = self->work_.prompt.size() + self->chosen_.size() - 1;
            self->show(static_cast<int32_t>(position), BITNET_STAGE_LOGITS, logits, n_vocab);
            self->chosen_.push_back(token);
            return 0;
        } catch (...) {
            self->watch_.failure = std::current_exception();
            return 1;
        }
    }

    const Workload &work_;
    const Plan &plan_;
    Watch watch_;  // outlives the context that reports to it
    const bitnet_model_t *model_;
    const bitnet_model_info_t info_;
    ContextHandle ctx_;
    std::vector<int32_t> chosen_;
};

const char *use_text(ContextUse use) {
    switch (use) {
    case ContextUse::fresh: return "";
    case ContextUse::reset: return ", reset context";
    case ContextUse::truncated: return ", truncated context";
    case ContextUse::restored: return ", restored context";
    case ContextUse::forked: return ", forked context";
    }
    return "";
}

}  // namespace

std::string Plan::text() const {
    std::string text = text_of("%d thread%s, ", n_threads, n_threads == 1 ? "" : "s");
    if (chunks.empty())
        text += "prompt whole";
    else if (chunks == std::vector<size_t>{1})
        text += "token by token";
    else {
        text += "chunks of";
        for (const size_t n : chunks) text += n == the_rest ? " the rest" : text_of(" %zu", n);
    }
    if (n_batch > 0) text += text_of(", n_batch %d", n_batch);
    return text + use_text(use) + (traced ? "" : ", untraced");
}

std::vector<Plan> plans(const std::vector<int> &thread_counts, bool quick) {
    const std::vector<size_t> whole = {}, single = {1}, odd = {1, 7, 3};
    const int fewest = thread_counts.front(), most = thread_counts.back();
    const int middle = thread_counts[thread_counts.size() / 2];
    if (quick) {
        return {{fewest, whole},
                {most, single},
                {middle, odd, odd_batch},
                {most, odd, 0, ContextUse::restored},
                {most, whole, 0, ContextUse::fresh, false}};
    }
    std::vector<Plan> all;
    for (const int n : thread_counts) {
        all.push_back({n, whole});
        all.push_back({n, single});
        all.push_back({n, odd});
        all.push_back({n, {1, the_rest}});
        all.push_back({n, whole, 1});
        all.push_back({n, whole, odd_batch});
        all.push_back({n, {5}, odd_batch});
        all.push_back({n, whole, 0, ContextUse::fresh, false});
    }
    all.push_back({most, single, 0, ContextUse::fresh, false});
    all.push_back({fewest, whole, 0, ContextUse::reset});
    all.push_back({most, odd, 0, ContextUse::truncated});
    all.push_back({most, whole, odd_batch, ContextUse::restored});
    all.push_back({middle, whole, 0, ContextUse::forked});
    all.push_back({most, whole, 0, ContextUse::restored, false});
    return all;
}

std::string description(const std::vector<int> &thread_counts, bool quick) {
    std::string text = "threads";
    for (const int n : thread_counts) text += text_of(" %d", n);
    return text + (quick
                       ? "; prompt whole, token by token, in chunks with n_batch 3; context fresh, restored; untraced"
                       : "; prompt whole, token by token, in chunks, n_batch 1 and 3; context fresh, reset, truncated, "
                         "restored, forked; untraced");
}

std::vector<uint8_t> saved_half(const bitnet_model_t *model, const Workload &work) {
    bitnet_context_params_t params = {};
    params.struct_size = sizeof(params);
    params.n_ctx = std::max(work.half(), 1);
    params.n_threads = 1;
    bitnet_ctx_t *ctx = nullptr;
    check(bitnet_context_create(model, &params, &ctx));
    const ContextHandle held(ctx, bitnet_context_free);
    if (work.half() > 0) check(bitnet_eval_tokens(ctx, work.prompt.data(), static_cast<size_t>(work.half()), nullptr));
    size_t n = 0;
    check(bitnet_context_save(ctx, nullptr, &n));
    std::vector<uint8_t> saved(n);
    check(bitnet_context_save(ctx, saved.data(), &n));
    return saved;
}

std::vector<int32_t> execute(const bitnet_model_t *model, const Workload &work, const Plan &plan,
                             const RowFunction &on_row) {
    return Run(model, work, plan, on_row).execute();
}

Coverage coverage_of(const Plan &plan, const Workload &work) {
    return {plan.use == ContextUse::restored ? work.half() : 0, !plan.traced};
}

}  // namespace bitnet::certify
