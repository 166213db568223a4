#include "plugins/modeltracer/summary.h"

#include <cmath>

#include "plugins/modeltracer/fields.h"

namespace bitnet::modeltracer {

namespace {

struct Nine {
    uint64_t total_forwards, anomalies_detected, attention_traces, logit_traces, kv_steps, total_evictions;
    double avg_hit_rate;
    uint64_t quant_warnings, quant_criticals;
};

Nine nine_of(const Traced &traced) {
    return {traced.n_forwards,
            traced.anomalies->n_forwards,
            traced.attention->n_heads,
            traced.lens->n_traces,
            traced.kv->n_steps,
            traced.kv->n_evicted,
            kv_average_hit_rate(traced.kv),
            traced.quantisation->n_warnings,
            traced.quantisation->n_criticals};
}

void put_nine(JsonText *out, const Nine &nine) {
    out->lit("{\"total_forwards\":");
    out->put_unsigned(nine.total_forwards);
    put_integer(out, "anomalies_detected", int64_t(nine.anomalies_detected));
    put_integer(out, "attention_traces", int64_t(nine.attention_traces));
    put_integer(out, "logit_traces", int64_t(nine.logit_traces));
    put_integer(out, "kv_steps", int64_t(nine.kv_steps));
    put_integer(out, "total_evictions", int64_t(nine.total_evictions));
    put_real(out, "avg_hit_rate", nine.avg_hit_rate);
    put_integer(out, "quant_warnings", int64_t(nine.quant_warnings));
    put_integer(out, "quant_criticals", int64_t(nine.quant_criticals));
    out->put('}');
}

void put_classes(JsonText *out, const Anomalies &anomalies) {
    put_key(out, "anomalies");
    out->put('{');
    for (int i = 0; i < kAnomalies; ++i) {
        if (i) out->put(',');
        out->put_string(anomaly_name(i));
        out->put(':');
        out->put_unsigned(anomalies.n_of[i]);
    }
    out->put('}');
    put_integer(out, "propagated", int64_t(anomalies.n_run_propagated));
    put_text(out, "first_anomaly", anomalies.n_run ? anomalies.first_of_run : nullptr);
}

void put_quantisation(JsonText *out, const Quantisation &of) {
    const double nan = std::nan("");  // what was not measured is no number
    put_key(out, "quantisation");
    out->lit("{\"linears\":");
    out->put_unsigned(of.n_linears);
    put_real(out, "worst_cosine", of.n_linears ? of.worst_cosine : nan);
    put_integer(out, "logits", int64_t(of.n_logits));
    const double n = double(of.n_logits);
    put_real(out, "mean_logits_cosine", of.n_logits ? of.sum_logits_cosine / n : nan);
    put_real(out, "worst_logits_cosine", of.n_logits ? of.worst_logits_cosine : nan);
    put_real(out, "mean_kl_divergence", of.n_logits ? of.sum_kl / n : nan);
    put_integer(out, "likelihoods", int64_t(of.n_likelihoods));
    const double m = double(of.n_likelihoods);
    const double perplexity = of.n_likelihoods ? std::exp(of.sum_nll / m) : nan;
    const double exact = of.n_likelihoods ? std::exp(of.sum_nll_exact / m) : nan;
    put_real(out, "perplexity", perplexity);
    put_real(out, "perplexity_unquantised", exact);
    put_real(out, "perplexity_delta", perplexity - exact);
    put_integer(out, "missing", int64_t(of.n_missing));
    out->put('}');
}

void put_line(JsonText *out, const char *label, uint64_t number) {
    put_words(out, label);
    out->put_unsigned(number);
    out->put('\n');
}

}  // namespace

void put_summary_record(JsonText *out, uint32_t run, const Traced &traced) {
    begin_record(out, "summary", run);
    put_key(out, "summary");
    put_nine(out, nine_of(traced));
    put_classes(out, *traced.anomalies);
    put_key(out, "attention");
    out->lit("{\"sink\":");
    out->put_unsigned(traced.attention->n_sink);
    put_integer(out, "uniform", int64_t(traced.attention->n_uniform));
    put_integer(out, "recency", int64_t(traced.attention->n_recency));
    put_integer(out, "collapse", int64_t(traced.attention->n_collapse));
    out->put('}');
    put_quantisation(out, *traced.quantisation);
    put_key(out, "kv");
    out->lit("{\"peak_memory_bytes\":");
    out->put_unsigned(traced.kv->n_bytes_peak);
    put_integer(out, "eviction_steps", int64_t(traced.kv->n_eviction_steps));
    out->put('}');
    put_integer(out, "logits_missing", int64_t(traced.lens->n_missing));
    out->lit("}\n");
}

void put_summary_text(JsonText *out, uint32_t run, const Traced &traced) {
    const Nine nine = nine_of(traced);
    put_words(out, "ModelTracer Summary, run ");
    out->put_unsigned(run);
    out->lit(":\n");
    put_line(out, "  Forward passes: ", nine.total_forwards);
    put_line(out, "  Anomalies: ", nine.anomalies_detected);
    put_line(out, "  Attention traces: ", nine.attention_traces);
    put_line(out, "  Logit traces: ", nine.logit_traces);
    put_line(out, "  KV cache steps: ", nine.kv_steps);
    put_line(out, "  KV evictions: ", nine.total_evictions);
    put_words(out, "  Avg hit rate: ");
    put_plain(out, std::floor(nine.avg_hit_rate * 1e4 + 0.5) / 100);
    out->lit("%\n");
    put_line(out, "  Quant warnings: ", nine.quant_warnings);
    put_line(out, "  Quant criticals: ", nine.quant_criticals);
    put_words(out, "  First anomaly: ");
    put_words(out, traced.anomalies->n_run ? traced.anomalies->first_of_run : "none");
    out->put('\n');
}

}  // namespace bitnet::modeltracer
