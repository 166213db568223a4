// What a run record says of a foreign engine: only what it is seen to do.
#include <link.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "shim/session.h"

namespace bitnet::shim {

namespace {

struct Description {
    char hyperparameters[256], semantics[96], isa[64];
};

// The engine's library for this CPU: "libggml-cpu-haswell.so" says which instructions it uses.
int find_cpu_library(dl_phdr_info *info, size_t, void *user) {
    const char *slash = info->dlpi_name ? strrchr(info->dlpi_name, '/') : nullptr;
    if (!slash || strncmp(slash + 1, "libggml-cpu", 11) != 0) return 0;
    char *out = static_cast<char *>(user);
    snprintf(out, sizeof Description::isa, "%s", slash + 4);
    if (char *dot = strstr(out, ".so")) *dot = 0;
    return 1;
}

void add_number(char *text, size_t capacity, const char *key, int64_t value) {
    if (value <= 0) return;
    const size_t n = strlen(text);
    snprintf(text + n, capacity - n, "%s%s=%lld", n ? "," : "", key, static_cast<long long>(value));
}

// In the fewest digits that bring the value back.
void add_float(char *text, size_t capacity, const char *key, float value) {
    if (!(value > 0)) return;
    char number[32];
    for (int digits = 6; digits <= 9; ++digits) {
        snprintf(number, sizeof number, "%.*g", digits, double(value));
        if (strtof(number, nullptr) == value) break;
    }
    const size_t n = strlen(text);
    snprintf(text + n, capacity - n, "%s%s=%s", n ? "," : "", key, number);
}

void describe(const Session &s, const ModelFile *file, Description *out) {
    const Plan &plan = s.plan;
    const int64_t *embeddings = plan.embedding_weight ? s.engine->ne(plan.embedding_weight) : nullptr;
    const auto number = [out](const char *key, int64_t value) {
        add_number(out->hyperparameters, sizeof out->hyperparameters, key, value);
    };
    number("n_vocab", embeddings ? embeddings[1] : 0);
    number("n_ctx_train", file ? file->n_ctx_train : 0);
    number("n_embd", embeddings ? embeddings[0] : 0);
    number("n_layer", plan.n_layers);
    number("n_ff", file ? file->n_ff : 0);
    number("n_head", plan.heads.n_head);
    number("n_head_kv", plan.heads.n_head_kv);
    number("head_dim", plan.heads.head_dim);
    number("n_rot", plan.n_rot);
    add_float(out->semantics, sizeof out->semantics, "eps", plan.eps);
    add_float(out->semantics, sizeof out->semantics, "theta", plan.theta);
    dl_iterate_phdr(find_cpu_library, out->isa);
}

}  // namespace

void describe_run(Session *s, TraceRun *run) {
    // Read during trace_host_begin_run alone, on this thread.
    static __thread Description description;
    description = {};
    ModelFile *file = model_file_of(*s->engine, s->plan.embedding_weight);
    describe(*s, file, &description);
    run->engine = "llama.cpp";
    run->engine_version = s->engine->version;
    run->model_path = file ? file->path : "";
    run->model_hash = file ? model_file_hash(file) : "";
    run->architecture = file ? file->architecture : "";
    run->hyperparameters = description.hyperparameters;
    run->semantics = description.semantics;
    run->isa = description.isa;
    run->kv_type = s->plan.cache_keys ? s->engine->type_name_of(s->plan.cache_keys) : "";
    run->tokens = s->rows.tokens;
    run->n_tokens = s->rows.tokens ? uint64_t(s->rows.n) : 0;
}

}  // namespace bitnet::shim
