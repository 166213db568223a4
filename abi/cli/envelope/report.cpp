#include "abi/cli/envelope/report.h"

#include <algorithm>

#include "abi/cli/terminal.h"

namespace bitnet::envelope {

namespace {

constexpr size_t layers_shown = 12;

double reach_of(const ClassReach &reach, int layer, const std::string &stage) {
    for (const StageReach &s : reach.stages)
        if (s.layer == layer && s.stage == stage) return s.relative;
    return 0;
}

std::string class_line(const Judge &judge, size_t index) {
    const ClassReach &reach = judge.envelope().classes[index];
    LogitsReach most;
    size_t n_changed = 0;
    for (const LogitsReach &l : reach.logits) {
        most.relative = std::max(most.relative, l.relative);
        most.cosine_distance = std::max(most.cosine_distance, l.cosine_distance);
        most.kl = std::max(most.kl, l.kl);
        most.max_abs = std::max(most.max_abs, l.max_abs);
        n_changed += l.top1_equal ? 0 : 1;
    }
    return text_of("  %-9s %5zu %10.2e %10.2e %10.2e %10.2e %6zu  %s\n", reach.name.c_str(), reach.variations.size(),
                   most.relative, most.cosine_distance, most.kl, most.max_abs, n_changed, reach.text.c_str());
}

// The growth over the layers: layer_out, and what of the layer is farthest off. Of many layers the outer ones.
std::string layer_table(const Envelope &envelope) {
    int n_layers = 0;
    for (const StageReach &s : envelope.classes.front().stages) n_layers = std::max(n_layers, s.layer + 1);
    std::string text = text_of("\n  %-9s", "layer_out");
    for (const ClassReach &reach : envelope.classes) text += text_of(" %10s", reach.name.c_str());
    text += "\n";
    for (int layer = 0; layer < n_layers; layer++) {
        const bool skip = size_t(n_layers) > layers_shown && layer >= int(layers_shown / 2) &&
                          layer < n_layers - int(layers_shown / 2);
        if (skip) {
            if (layer == int(layers_shown / 2)) text += "  ...\n";
            continue;
        }
        text += text_of("  %-9d", layer);
        for (const ClassReach &reach : envelope.classes)
            text += text_of(" %10.2e", reach_of(reach, layer, "layer_out"));
        text += "\n";
    }
    return text;
}

}  // namespace

std::string render_text(const Obtained &obtained) {
    const Judge judge(obtained.envelope);
    const Subject &subject = obtained.envelope.subject;
    std::string text =
        "model    " + printable(obtained.envelope.model_path) + ", " + printable(subject.semantics) + "\n";
    text += text_of("prompt   %zu tokens, %d seeds; %zu stages, largest distances over all positions\n",
                    subject.tokens.size(), subject.n_seeds, obtained.envelope.classes.front().stages.size());
    text += "from     " + (obtained.path.empty() ? std::string("measured now") : printable(obtained.path)) + "\n\n";
    text += text_of("  %-9s %5s %10s %10s %10s %10s %6s\n", "logits", "runs", "rel. L2", "1 - cos", "KL", "max abs",
                    "top-1");
    for (size_t i = 0; i < judge.n_classes(); i++) text += class_line(judge, i);
    text += layer_table(obtained.envelope);
    text += text_of("\nInside a class is what is at most %g times as far away, or as far as a smaller class allows.\n",
                    margin);
    return text;
}

}  // namespace bitnet::envelope
