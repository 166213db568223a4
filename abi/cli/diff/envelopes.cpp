#include "abi/cli/diff/envelopes.h"

#include "abi/cli/demo_model.h"
#include "abi/cli/diff/text.h"
#include "abi/cli/envelope/classes.h"
#include "abi/cli/terminal.h"

#include <algorithm>
#include <map>

namespace bitnet::diff {

namespace {

std::string joined(const TextPairs &pairs) {
    std::string text;
    for (const auto &[key, value] : pairs) text += (text.empty() ? "" : ",") + key + "=" + value;
    return text;
}

// The side that an envelope is around: A where it can be.
const Run &own_run(const Run &a, const Run &b) {
    for (const Run *run : {&a, &b}) {
        if (run->engine == envelope::engine_name && run->engine_version == bitnet_version()) return *run;
    }
    throw CommandError(format_text("--envelope: the traces are of %s %s and %s %s: one of them must be of %s %s, whose "
                                   "legal variations an envelope holds",
                                   printable(a.engine, 24).c_str(), printable(a.engine_version, 16).c_str(),
                                   printable(b.engine, 24).c_str(), printable(b.engine_version, 16).c_str(),
                                   envelope::engine_name, bitnet_version()));
}

envelope::Subject subject_of(const Run &run) {
    envelope::Subject subject;
    subject.engine_version = run.engine_version;
    subject.model_hash = run.model_hash;
    subject.semantics = envelope::with_kv(joined(run.semantics), run.kv_type);
    subject.tokens = run.ids();
    subject.n_seeds = envelope::default_seeds(subject.tokens.size());
    if (subject.model_hash.empty() || subject.semantics.empty() || subject.tokens.empty())
        throw CommandError("--envelope: the trace does not know its model's hash, semantics and all token ids");
    return subject;
}

}  // namespace

Envelopes envelopes_for(const Trace &a, const Trace &b, const envelope::EnvelopeOptions &options,
                        const std::string &model_path) {
    Envelopes envelopes;
    std::map<std::vector<int32_t>, size_t> known;  // by tokens: runs often repeat a prompt
    for (size_t i = 0; i < std::min(a.runs.size(), b.runs.size()); ++i) {
        const Run &run = own_run(a.runs[i], b.runs[i]);
        const envelope::Subject subject = subject_of(run);
        envelope::Engine engine;
        engine.model_path = model_path.empty() ? run.model_path : model_path;
        if (engine.model_path == demo_model_name) engine.model_path.clear();
        const auto [at, is_new] = known.try_emplace(subject.tokens, i);
        const bool same = !is_new && envelopes[at->second]->envelope().subject.semantics == subject.semantics &&
                          envelopes[at->second]->envelope().subject.model_hash == subject.model_hash;
        envelopes.push_back(same ? envelopes[at->second]
                                 : std::make_shared<const envelope::Judge>(obtain(options, subject, engine).envelope));
    }
    return envelopes;
}

}  // namespace bitnet::diff
