// Every function of the header, called with NULL wherever it takes a pointer: a status or a neutral value, no crash.
#include <bitnet_cpp.h>

#include <regex>

#include "tests/abi/support.h"

namespace bitnet_test {
namespace {

class Null : public testing::Test {
protected:
    const Model model_ = load();
    const Context ctx_ = context(model_.get());
    const bitnet_model_t *model() { return model_.get(); }
    bitnet_ctx_t *ctx() { return ctx_.get(); }
    static void invalid(bitnet_status_t status, const char *argument) {
        expect_error(status, BITNET_E_INVALID, {std::string(argument) + " is NULL"});
    }
};

TEST_F(Null, WithoutPointers) {
    EXPECT_NE(bitnet_abi_version(), 0u);
    EXPECT_NE(bitnet_version(), nullptr);
    EXPECT_NE(bitnet_status_name(0), nullptr);
    EXPECT_NE(bitnet_last_error(), nullptr);
    EXPECT_GT(bitnet_isa_count(), 0);
    EXPECT_NE(bitnet_isa_name(0), nullptr);
    EXPECT_EQ(bitnet_isa_usable(0), 1);
    EXPECT_EQ(bitnet_tokenize_bound(0), 1u);
    EXPECT_GE(bitnet_tokenize_bound(SIZE_MAX), SIZE_MAX - 1);
    EXPECT_EQ(bitnet_stage_name(0), nullptr);
    bitnet_set_log(nullptr, nullptr);
}

TEST_F(Null, Load) {
    auto *out = reinterpret_cast<bitnet_model_t *>(this);
    invalid(bitnet_load(nullptr, nullptr, &out), "path");
    EXPECT_EQ(out, nullptr);
    invalid(bitnet_load(small_model, nullptr, nullptr), "out");
    out = reinterpret_cast<bitnet_model_t *>(this);
    invalid(bitnet_load_memory(nullptr, 0, nullptr, nullptr, &out), "data");
    EXPECT_EQ(out, nullptr);
    invalid(bitnet_load_memory("GGUF", 4, nullptr, nullptr, nullptr), "out");
    expect_error(bitnet_load_memory("GGUF", 4, nullptr, nullptr, &out), BITNET_E_FORMAT);
    bitnet_model_free(nullptr);
}

TEST_F(Null, Model) {
    size_t n = 0;
    auto info = make<bitnet_model_info_t>();
    auto tensor = make<bitnet_tensor_info_t>();
    invalid(bitnet_model_get_info(nullptr, &info), "model");
    invalid(bitnet_model_get_info(model(), nullptr), "out");
    EXPECT_EQ(bitnet_model_architecture(nullptr), nullptr);
    EXPECT_EQ(bitnet_model_path(nullptr), nullptr);
    EXPECT_EQ(bitnet_model_isa(nullptr), nullptr);
    EXPECT_EQ(bitnet_model_semantics(nullptr), nullptr);
    invalid(bitnet_model_hash(nullptr, nullptr, &n), "model");
    invalid(bitnet_model_hash(model(), nullptr, nullptr), "n");
    invalid(bitnet_blake3(nullptr, 1, nullptr, &n), "data");
    invalid(bitnet_blake3("a", 1, nullptr, nullptr), "n");
    EXPECT_EQ(bitnet_model_warning_count(nullptr), 0u);
    EXPECT_EQ(bitnet_model_warning(nullptr, 0), nullptr);
    EXPECT_EQ(bitnet_model_key_count(nullptr), 0u);
    EXPECT_EQ(bitnet_model_key_name(nullptr, 0), nullptr);
    EXPECT_EQ(bitnet_model_key_type(nullptr, 0), nullptr);
    EXPECT_EQ(bitnet_model_key_length(nullptr, 0), 0u);
    invalid(bitnet_model_key_text(nullptr, 0, 0, nullptr, &n), "model");
    invalid(bitnet_model_key_text(model(), 0, 0, nullptr, nullptr), "n");
    EXPECT_EQ(bitnet_model_tensor_count(nullptr), 0u);
    invalid(bitnet_model_tensor(nullptr, 0, &tensor), "model");
    invalid(bitnet_model_tensor(model(), 0, nullptr), "out");
}

TEST_F(Null, Context) {
    auto *out = reinterpret_cast<bitnet_ctx_t *>(this);
    size_t n = 0;
    invalid(bitnet_context_create(nullptr, nullptr, &out), "model");
    EXPECT_EQ(out, nullptr);
    invalid(bitnet_context_create(model(), nullptr, nullptr), "out");
    bitnet_context_free(nullptr);
    invalid(bitnet_context_reset(nullptr), "ctx");
    invalid(bitnet_context_truncate(nullptr, 0), "ctx");
    out = reinterpret_cast<bitnet_ctx_t *>(this);
    invalid(bitnet_context_fork(nullptr, &out), "ctx");
    EXPECT_EQ(out, nullptr);
    invalid(bitnet_context_fork(ctx(), nullptr), "out");
    EXPECT_EQ(bitnet_context_position(nullptr), -1);
    EXPECT_EQ(bitnet_context_capacity(nullptr), -1);
    EXPECT_EQ(bitnet_context_memory(nullptr), 0u);
    auto head = make<bitnet_head_stats_t>();
    invalid(bitnet_context_get_head_stats(nullptr, &head), "ctx");
    invalid(bitnet_context_get_head_stats(ctx(), nullptr), "out");
    invalid(bitnet_context_save(nullptr, nullptr, &n), "ctx");
    invalid(bitnet_context_save(ctx(), nullptr, nullptr), "n");
    invalid(bitnet_context_restore(nullptr, "", 1), "ctx");
    invalid(bitnet_context_restore(ctx(), nullptr, 0), "data");
}

TEST_F(Null, Tokens) {
    size_t n = 0;
    invalid(bitnet_tokenize_text(nullptr, "a", 1, 0, nullptr, &n), "model");
    invalid(bitnet_tokenize_text(model(), nullptr, 1, 0, nullptr, &n), "text");
    invalid(bitnet_tokenize_text(model(), nullptr, SIZE_MAX, 0, nullptr, &n), "text");
    invalid(bitnet_tokenize_text(model(), "a", 1, 0, nullptr, nullptr), "n");
    EXPECT_OK(bitnet_tokenize_text(model(), nullptr, 0, 0, nullptr, &n));
    EXPECT_EQ(n, 0u);
    invalid(bitnet_detokenize(nullptr, nullptr, 0, 0, nullptr, &n), "model");
    invalid(bitnet_detokenize(model(), nullptr, 1, 0, nullptr, &n), "tokens");
    invalid(bitnet_detokenize(model(), nullptr, 0, 0, nullptr, nullptr), "n");
    EXPECT_OK(bitnet_detokenize(model(), nullptr, 0, 0, nullptr, &n));
    EXPECT_EQ(n, 1u);
    EXPECT_EQ(bitnet_token_text(nullptr, 0), nullptr);
    EXPECT_EQ(bitnet_token_type(nullptr, 0), 0);
    EXPECT_EQ(bitnet_token_score(nullptr, 0), 0.0f);
    EXPECT_EQ(bitnet_token_special(nullptr, BITNET_SPECIAL_BOS), -1);
    invalid(bitnet_token_end_ids(nullptr, nullptr, &n), "model");
    invalid(bitnet_token_end_ids(model(), nullptr, nullptr), "n");
    EXPECT_EQ(bitnet_token_wants_bos(nullptr), 0);
    EXPECT_EQ(bitnet_chat_template(nullptr), nullptr);
}

TEST_F(Null, EvalAndLogits) {
    const int32_t token = 1;
    size_t n = 0;
    double logprob = 0;
    invalid(bitnet_eval_tokens(nullptr, &token, 1, nullptr), "ctx");
    invalid(bitnet_eval_tokens(ctx(), nullptr, 1, nullptr), "tokens");
    EXPECT_EQ(bitnet_get_logits_ith(nullptr, 0), nullptr);
    invalid(bitnet_copy_logits(nullptr, 0, nullptr, &n), "ctx");
    EXPECT_EQ(bitnet_logits_count(nullptr), 0);
    EXPECT_EQ(bitnet_get_hidden_ith(nullptr, 0), nullptr);
    invalid(bitnet_token_logprobs(nullptr, &token, 1, &logprob), "ctx");
    invalid(bitnet_token_logprobs(ctx(), nullptr, 1, &logprob), "tokens");
    invalid(bitnet_token_logprobs(ctx(), &token, 1, nullptr), "out");
    invalid(bitnet_top_logits(nullptr, 0, 1, nullptr, nullptr), "ctx");
    ASSERT_OK(bitnet_eval_tokens(ctx(), &token, 1, nullptr));
    invalid(bitnet_copy_logits(ctx(), 0, nullptr, nullptr), "n");
    EXPECT_OK(bitnet_top_logits(ctx(), 0, 1, nullptr, nullptr));
}

TEST_F(Null, Generate) {
    const int32_t token = 1;
    int32_t out[4];
    size_t n = 4;
    ASSERT_OK(bitnet_eval_tokens(ctx(), &token, 1, nullptr));
    invalid(bitnet_generate(nullptr, nullptr, out, &n), "ctx");
    invalid(bitnet_generate(ctx(), nullptr, out, nullptr), "n");
    expect_error(bitnet_generate(ctx(), nullptr, nullptr, &n), BITNET_E_INVALID, {"out", "on_token"});
    auto params = make<bitnet_generate_params_t>();
    params.n_stop_tokens = 1;
    invalid(bitnet_generate(ctx(), &params, out, &n), "stop_tokens");
    params.n_stop_tokens = 0;
    params.n_stop_strings = 1;
    invalid(bitnet_generate(ctx(), &params, out, &n), "stop_strings");
    const char *const strings[] = {nullptr};
    params.stop_strings = strings;
    n = 4;
    expect_error(bitnet_generate(ctx(), &params, out, &n), BITNET_E_INVALID, {"stop_strings"});
}

TEST_F(Null, Trace) {
    auto stats = make<bitnet_trace_stats_t>();
    const Recorder recorder;
    invalid(bitnet_trace_set_sink(nullptr, &recorder.table, nullptr), "ctx");
    EXPECT_OK(bitnet_trace_set_sink(ctx(), nullptr, nullptr));
    invalid(bitnet_trace_load_plugin(nullptr, "jsonl", nullptr), "ctx");
    invalid(bitnet_trace_load_plugin(ctx(), nullptr, nullptr), "path");
    invalid(bitnet_trace_select(nullptr, ""), "ctx");
    EXPECT_OK(bitnet_trace_select(ctx(), nullptr));
    invalid(bitnet_trace_set_prompt(nullptr, "a", 1), "ctx");
    EXPECT_OK(bitnet_trace_set_prompt(ctx(), nullptr, 5));
    invalid(bitnet_trace_get_stats(nullptr, &stats), "ctx");
    invalid(bitnet_trace_get_stats(ctx(), nullptr), "out");
    invalid(bitnet_trace_end_run(nullptr), "ctx");
    EXPECT_OK(bitnet_trace_end_run(ctx()));
}

TEST_F(Null, ForeignTrace) {
    bitnet_trace_t *out = reinterpret_cast<bitnet_trace_t *>(this);
    auto params = make<bitnet_trace_params_t>();
    auto tensor = make<bitnet_trace_tensor_t>();
    auto kv = make<bitnet_kv_state_t>();
    auto stats = make<bitnet_trace_stats_t>();
    const Recorder recorder;
    invalid(bitnet_trace_open(nullptr, &out), "params");
    EXPECT_EQ(out, nullptr);
    invalid(bitnet_trace_open(&params, &out), "params->engine");
    invalid(bitnet_trace_open(&params, nullptr), "out");
    params.engine = "nobody";
    params.n_tokens = 1;
    invalid(bitnet_trace_open(&params, &out), "params->tokens");
    // No trace is a trace with nothing attached.
    bitnet_trace_close(nullptr);
    EXPECT_EQ(bitnet_trace_enabled(nullptr), 0);
    EXPECT_EQ(bitnet_trace_wants(nullptr, BITNET_STAGE_Q_PROJ, 0, 0), 0);
    EXPECT_OK(bitnet_trace_add_sink(nullptr, &recorder.table, nullptr));
    EXPECT_OK(bitnet_trace_add_plugin(nullptr, "jsonl", nullptr));
    EXPECT_OK(bitnet_trace_reselect(nullptr, nullptr));
    EXPECT_OK(bitnet_trace_step(nullptr, 0, nullptr, 1));
    EXPECT_OK(bitnet_trace_emit(nullptr, nullptr));
    EXPECT_OK(bitnet_trace_emit(nullptr, &tensor));
    EXPECT_OK(bitnet_trace_kv(nullptr, &kv));
    EXPECT_OK(bitnet_trace_end(nullptr));
    EXPECT_OK(bitnet_trace_statistics(nullptr, &stats));
    EXPECT_EQ(stats.n_events, 0u);
    invalid(bitnet_trace_statistics(nullptr, nullptr), "out");
    params.n_tokens = 0;
    ASSERT_OK(bitnet_trace_open(&params, &out));
    invalid(bitnet_trace_add_sink(out, nullptr, nullptr), "sink");
    invalid(bitnet_trace_add_plugin(out, nullptr, nullptr), "path");
    EXPECT_OK(bitnet_trace_reselect(out, nullptr));
    EXPECT_OK(bitnet_trace_emit(out, nullptr));  // nothing is attached
    Recorder attached;
    ASSERT_OK(bitnet_trace_add_sink(out, &attached.table, &attached));
    invalid(bitnet_trace_emit(out, nullptr), "tensor");
    invalid(bitnet_trace_kv(out, nullptr), "kv");
    bitnet_trace_close(out);
}

TEST_F(Null, Compare) {
    const float a = 1;
    auto limits = make<bitnet_logits_limits_t>();
    auto row = make<bitnet_logits_row_t>();
    EXPECT_NE(bitnet_compare_preset_name(0), nullptr);
    invalid(bitnet_compare_preset(nullptr, &limits), "name");
    invalid(bitnet_compare_preset("bitnet", nullptr), "out");
    invalid(bitnet_compare_logits(nullptr, &a, 1, 1, nullptr, &row, nullptr), "a");
    invalid(bitnet_compare_logits(&a, nullptr, 1, 1, nullptr, &row, nullptr), "b");
    EXPECT_OK(bitnet_compare_logits(&a, &a, 1, 1, nullptr, nullptr, nullptr));
    invalid(bitnet_compare_rows(nullptr, 1, nullptr, nullptr), "rows");
    EXPECT_OK(bitnet_compare_rows(nullptr, 0, nullptr, nullptr));
}

TEST_F(Null, Replay) {
    auto *out = reinterpret_cast<bitnet_replay_t *>(this);
    invalid(bitnet_replay_create(nullptr, nullptr, &out), "model");
    EXPECT_EQ(out, nullptr);
    invalid(bitnet_replay_create(model(), nullptr, nullptr), "out");
    bitnet_replay_free(nullptr);
    EXPECT_EQ(bitnet_replay_semantics(nullptr), nullptr);
    EXPECT_EQ(bitnet_replay_operation_count(nullptr), 0u);
    auto operation = make<bitnet_operation_t>();
    invalid(bitnet_replay_operation(nullptr, 0, &operation), "replay");
    auto params = make<bitnet_replay_params_t>();
    size_t n = 0;
    invalid(bitnet_replay_run(nullptr, &params, nullptr, &n), "replay");
    ASSERT_OK(bitnet_replay_create(model(), nullptr, &out));
    invalid(bitnet_replay_operation(out, 0, nullptr), "out");
    invalid(bitnet_replay_run(out, nullptr, nullptr, &n), "params");
    invalid(bitnet_replay_run(out, &params, nullptr, nullptr), "n");
    params.n_inputs = 1;
    invalid(bitnet_replay_run(out, &params, nullptr, &n), "params->inputs");
    bitnet_replay_free(out);
}

TEST_F(Null, Compatibility) {
    int32_t token = 1;
    int count = 0;
    double logprob = 0;
    float logit = 0;
    const float logits[2] = {1, 2};
    invalid(bitnet_logprobs(nullptr, 1, 2, &token, &logprob), "logits");
    invalid(bitnet_logprobs(logits, 1, 2, nullptr, &logprob), "tokens");
    invalid(bitnet_logprobs(logits, 1, 2, &token, nullptr), "out");
    EXPECT_EQ(bitnet_model_new_from_file(nullptr), nullptr);
    EXPECT_EQ(bitnet_context_new(nullptr, nullptr), nullptr);
    EXPECT_EQ(bitnet_tokenize(nullptr, nullptr, 0, 0, nullptr, 0), -1);
    EXPECT_EQ(bitnet_eval(nullptr, nullptr, 0, nullptr, 0), -1);
    EXPECT_EQ(bitnet_eval(ctx(), &token, 1, &logit, 1), -4);
    EXPECT_EQ(bitnet_prefill(nullptr, nullptr, 0), -1);
    EXPECT_EQ(bitnet_vocab_size(nullptr), -1);
    EXPECT_EQ(bitnet_decode_greedy(nullptr, nullptr, 0, 0, 0, nullptr, 0), -1);
    EXPECT_EQ(bitnet_cpp_create_model(nullptr), nullptr);
    bitnet_cpp_destroy_model(nullptr);
    EXPECT_EQ(bitnet_cpp_generate(nullptr, nullptr, 0, nullptr, nullptr), -1);
    EXPECT_EQ(bitnet_cpp_generate(nullptr, nullptr, 0, nullptr, &count), -1);
    EXPECT_EQ(crossval_bitnet_tokenize(nullptr, nullptr, 0, 0, nullptr, 0, nullptr, nullptr, 0), -1);
    EXPECT_EQ(crossval_bitnet_eval_with_tokens(nullptr, nullptr, 0, 0, nullptr, 0, nullptr, nullptr, nullptr, 0), -1);
    EXPECT_EQ(bitnet_cpp_init_context(nullptr, nullptr, 0, 0, nullptr, 0), -1);
    EXPECT_EQ(bitnet_cpp_free_context(nullptr), 0);
    bitnet_cpp_reset_context(nullptr);
    EXPECT_EQ(bitnet_cpp_get_position(nullptr), -1);
    EXPECT_EQ(bitnet_cpp_tokenize_with_context(nullptr, nullptr, 0, 0, nullptr, 0, nullptr, nullptr, 0), -1);
    EXPECT_EQ(bitnet_cpp_eval_with_context(nullptr, nullptr, 0, 0, nullptr, 0, nullptr, nullptr, nullptr, 0), -1);
    EXPECT_EQ(bitnet_cpp_eval_gpu(nullptr, nullptr, 0, nullptr, 0, nullptr, nullptr, nullptr, 0), -1);
    EXPECT_EQ(bitnet_cpp_session_create(nullptr, nullptr, nullptr, 0, 0, nullptr, 0), -1);
    EXPECT_EQ(bitnet_cpp_session_free(nullptr), 0);
    EXPECT_EQ(bitnet_cpp_session_tokenize(nullptr, nullptr, 0, 0, nullptr, 0, nullptr, nullptr, 0), -1);
    EXPECT_EQ(bitnet_cpp_session_eval(nullptr, nullptr, 0, nullptr, 0, nullptr, nullptr, nullptr, 0), -1);
    EXPECT_EQ(bitnet_cpp_get_capabilities(nullptr), -1);
}

// The calls above are all that there are.
TEST(NullCoverage, EveryFunctionOfTheHeaderIsCalledHere) {
    const auto text = [](const char *path) {
        const std::vector<uint8_t> bytes = read_file(path);
        return std::string(bytes.begin(), bytes.end());
    };
    const std::string header = text("include/bitnet_c.h") + text("include/bitnet_cpp.h");
    const std::string here = text("tests/abi/null_test.cpp");
    const std::regex declaration("BITNET_(?:CPP_)?API\\s[^;#]*?\\b((?:crossval_)?bitnet_\\w+)\\s*\\(");
    int n = 0;
    for (std::sregex_iterator it(header.begin(), header.end(), declaration), end; it != end; ++it, ++n)
        EXPECT_NE(here.find((*it)[1].str() + "("), std::string::npos) << (*it)[1];
    EXPECT_GE(n, 100);
}

}  // namespace
}  // namespace bitnet_test
