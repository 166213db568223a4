#include "abi/cli/envelope/measure.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "abi/cli/envelope/classes.h"
#include "abi/cli/envelope/rows.h"
#include "abi/cli/terminal.h"

namespace bitnet::envelope {

namespace {

constexpr size_t kept_bytes_max = size_t(128) << 20;

ModelHandle load(const Engine &engine, const std::string &semantics) {
    ModelOptions options;
    options.path = engine.model_path;
    options.isa = engine.isa;
    options.copy = engine.copy;
    options.as = {semantics};
    return load_model(options);
}

ContextOptions threads_of(const Engine &engine) {
    ContextOptions options;
    options.n_threads = engine.n_threads;
    return options;
}

std::string joined(const std::string &a, const std::string &b) { return a + (a.empty() || b.empty() ? "" : ",") + b; }

// Positions whose rows fit into kept_bytes_max: what a layer shows of each, and the logits.
size_t positions_at_once(const bitnet_model_info_t &info, size_t n_tokens) {
    const size_t n_q = size_t(info.n_head) * size_t(info.head_dim);
    const size_t of_layer = 8 * size_t(info.n_embd) + 5 * size_t(info.n_ff) + 6 * n_q + size_t(info.n_head) * n_tokens;
    const size_t bytes = sizeof(float) * (size_t(info.n_layer) * of_layer + size_t(info.n_vocab));
    return std::clamp(kept_bytes_max / bytes, size_t(1), n_tokens);
}

// One model evaluating the tokens a chunk at a time.
class Evaluation {
public:
    Evaluation(const bitnet_model_t *model, const Subject &subject, int n_threads, size_t n_batch, RowSink &sink)
        : tokens_(subject.tokens), sink_(sink), ctx_(nullptr, bitnet_context_free) {
        bitnet_context_params_t params = {};
        params.struct_size = sizeof params;
        params.n_ctx = int32_t(tokens_.size());
        params.n_threads = n_threads;
        params.n_batch = int32_t(n_batch);
        bitnet_ctx_t *ctx = nullptr;
        check(bitnet_context_create(model, &params, &ctx));
        ctx_.reset(ctx);
        sink.attach(ctx);
    }

    void run(size_t begin, size_t end) {
        if (begin == 0) check(bitnet_context_reset(ctx_.get()));
        bitnet_eval_params_t params = {};
        params.struct_size = sizeof params;
        params.logits = BITNET_LOGITS_NONE;  // those that are traced are computed all the same
        const bitnet_status_t status = bitnet_eval_tokens(ctx_.get(), tokens_.data() + begin, end - begin, &params);
        sink_.rethrow();
        check(status);
    }

private:
    const std::vector<int32_t> &tokens_;
    RowSink &sink_;
    ContextHandle ctx_;
};

class Measurement {
public:
    Measurement(const Engine &engine, const Subject &subject)
        : engine_(engine), subject_(subject), model_(load(engine, subject.semantics)),
          progress_("measuring the envelope") {
        if (subject.tokens.empty()) throw CommandError("no envelope: at least one token is needed");
        const std::string hash = model_hash(model_.get());
        if (hash != subject.model_hash)
            throw CommandError(text_of("%s: model %s, expected %s", bitnet_model_path(model_.get()), hash.c_str(),
                                       printable(subject.model_hash).c_str()));
        n_threads_ = thread_count(threads_of(engine));
        n_at_once_ = positions_at_once(model_info(model_.get()), subject.tokens.size());
        own_ = std::make_unique<Evaluation>(model_.get(), subject, n_threads_, n_at_once_, kept_);
    }

    Envelope run() {
        Envelope envelope;
        envelope.subject = subject_;
        envelope.model_path = bitnet_model_path(model_.get());
        keep(0, std::min(n_at_once_, subject_.tokens.size()));
        for (const LegalClass &legal : legal_classes())
            n_runs_ += legal.variations.size() * size_t(subject_.n_seeds + 1);
        for (const LegalClass &legal : legal_classes()) {
            ClassReach reach;
            reach.name = legal.name;
            reach.text = legal.text;
            reach.stages = kept_.stages();
            reach.logits.resize(subject_.tokens.size());
            for (const Variation &variation : legal.variations) {
                vary(variation, reach);
                n_done_ += size_t(subject_.n_seeds + 1);
            }
            envelope.classes.push_back(std::move(reach));
        }
        return envelope;
    }

private:
    void vary(const Variation &variation, ClassReach &reach) {
        const bool own = *variation.semantics == 0;
        const char *semantics = variation.semantics;
        ModelHandle model(nullptr, bitnet_model_free);
        if (!own) {
            model = load(engine_, joined(subject_.semantics, semantics));
            if (bitnet_model_semantics(model.get()) == std::string(bitnet_model_semantics(model_.get()))) {
                semantics = variation.instead;
                model = load(engine_, joined(subject_.semantics, semantics));
            }
        }
        const bitnet_model_t *varied = own ? model_.get() : model.get();
        const std::string name = std::string(semantics) + (variation.held ? own ? "codes held" : ", codes held" : "");
        if (!own) compare(varied, name, {variation.held, 0}, reach);
        for (int seed = 1; variation.seeded && seed <= subject_.n_seeds; seed++)
            compare(varied,
                    name + text_of(variation.held ? ", rounded otherwise, seed %d" : ", codes flipped, seed %d", seed),
                    {variation.held, seed}, reach);
    }

    void compare(const bitnet_model_t *model, const std::string &name, Noise noise, ClassReach &reach) {
        reach.variations.push_back(name);
        ComparedRows rows(kept_, name, noise, reach);
        Evaluation evaluation(model, subject_, n_threads_, n_at_once_, rows);
        for (size_t begin = 0; begin < subject_.tokens.size(); begin += n_at_once_) {
            const size_t end = std::min(begin + n_at_once_, subject_.tokens.size());
            keep(begin, end);
            evaluation.run(begin, end);
        }
        const uint64_t n_expected = uint64_t(reach.stages.size()) * subject_.tokens.size();
        if (rows.n_rows() != n_expected)
            throw CommandError(text_of("no envelope: %s has %llu rows, the engine itself %llu", name.c_str(),
                                       static_cast<unsigned long long>(rows.n_rows()),
                                       static_cast<unsigned long long>(n_expected)));
        progress_.update(n_done_ + size_t(noise.seed), n_runs_);
    }

    // The engine's own rows of these positions. A prompt that fits is evaluated once.
    void keep(size_t begin, size_t end) {
        if (end == n_kept_end_ && begin == n_kept_begin_) return;
        kept_.clear();
        own_->run(begin, end);
        n_kept_begin_ = begin, n_kept_end_ = end;
    }

    const Engine &engine_;
    const Subject &subject_;
    ModelHandle model_;
    Progress progress_;
    int n_threads_ = 1;
    size_t n_at_once_ = 1;
    KeptRows kept_;
    std::unique_ptr<Evaluation> own_;  // reports to kept_
    size_t n_kept_begin_ = 0, n_kept_end_ = 0;
    size_t n_done_ = 0, n_runs_ = 0;
};

}  // namespace

std::string with_kv(std::string semantics, const std::string &kv) {
    if (kv.empty()) return semantics;
    const std::string key = ",kv=";
    const size_t at = ("," + semantics).find(key);
    if (at == std::string::npos) return semantics + key + kv;
    const size_t end = std::min(semantics.find(',', at), semantics.size());
    return semantics.replace(at, end - at, key.substr(1) + kv);
}

Subject subject_of(const bitnet_model_t *model, const std::string &kv, std::vector<int32_t> tokens, int n_seeds) {
    Subject subject;
    subject.engine_version = bitnet_version();
    subject.model_hash = model_hash(model);
    subject.semantics = with_kv(bitnet_model_semantics(model), kv);
    subject.n_seeds = n_seeds >= 0 ? n_seeds : default_seeds(tokens.size());
    subject.tokens = std::move(tokens);
    return subject;
}

Envelope measure(const Engine &engine, const Subject &subject) {
    unsetenv("BITNET_TRACE_PLUGIN");  // what the environment would attach may replace values
    return Measurement(engine, subject).run();
}

}  // namespace bitnet::envelope
