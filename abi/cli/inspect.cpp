// bitnet inspect: what a model file says, and how it will be run.
#include <algorithm>
#include <cstdio>
#include <memory>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "abi/cli/commands.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet {

namespace {

constexpr uint64_t array_items_shown = 8;
constexpr size_t list_line_bytes = 92;
constexpr size_t value_bytes_shown = 100;  // of a key's value in the table

struct InspectOptions {
    ModelOptions model;
    bool keys = false;
    bool tensors = false;
    bool json = false;
};

struct TypeTotal {
    std::string type;
    uint64_t n_tensors = 0;
    uint64_t n_elements = 0;
    uint64_t n_bytes = 0;
};

bitnet_tensor_info_t tensor_at(const bitnet_model_t *model, size_t index) {
    bitnet_tensor_info_t info = {};
    info.struct_size = sizeof(info);
    check(bitnet_model_tensor(model, index, &info));
    return info;
}

uint64_t element_count(const bitnet_tensor_info_t &tensor) {
    uint64_t n = 1;
    for (uint32_t i = 0; i < tensor.n_dims; i++) n *= tensor.dims[i];
    return n;
}

// In order of first appearance.
std::vector<TypeTotal> totals_by_type(const bitnet_model_t *model) {
    std::vector<TypeTotal> totals;
    for (size_t i = 0; i < bitnet_model_tensor_count(model); i++) {
        const bitnet_tensor_info_t tensor = tensor_at(model, i);
        auto total =
            std::find_if(totals.begin(), totals.end(), [&](const TypeTotal &t) { return t.type == tensor.type_name; });
        if (total == totals.end()) total = totals.insert(totals.end(), TypeTotal{tensor.type_name});
        total->n_tensors++;
        total->n_elements += element_count(tensor);
        total->n_bytes += tensor.n_bytes;
    }
    return totals;
}

std::string key_text(const bitnet_model_t *model, size_t index) {
    size_t n = 0;
    check(bitnet_model_key_text(model, index, array_items_shown, nullptr, &n));
    std::string text(n, '\0');
    check(bitnet_model_key_text(model, index, array_items_shown, text.data(), &n));
    text.resize(n - 1);
    return text;
}

// Text value of a string key, "" when there is none.
std::string key_named(const bitnet_model_t *model, const std::string &name) {
    for (size_t i = 0; i < bitnet_model_key_count(model); i++) {
        if (name == bitnet_model_key_name(model, i)) return key_text(model, i);
    }
    return "";
}

std::string role_text(const bitnet_model_t *model, int32_t role) {
    const int32_t token = bitnet_token_special(model, role);
    return token < 0 ? "none" : text_of("%d %s", token, printable(bitnet_token_text(model, token)).c_str());
}

std::string isa_list() {
    std::string list;
    for (int32_t i = 0; i < bitnet_isa_count(); i++) {
        if (bitnet_isa_usable(i)) list += (list.empty() ? "" : " ") + std::string(bitnet_isa_name(i));
    }
    return list;
}

std::string row(const char *name, const std::string &value) { return text_of("  %-11s %s\n", name, value.c_str()); }

// A list between commas, broken behind them into the value column.
std::string wrapped(const std::string &list) {
    std::string out;
    size_t line_bytes = 0;
    for (size_t at = 0; at < list.size();) {
        const size_t end = std::min(list.find(',', at), list.size() - 1) + 1;
        if (line_bytes > 0 && line_bytes + end - at > list_line_bytes) {
            out += text_of("\n  %-11s ", "");
            line_bytes = 0;
        }
        out += list.substr(at, end - at);
        line_bytes += end - at;
        at = end;
    }
    return out;
}

std::string summary(const bitnet_model_t *model) {
    const bitnet_model_info_t info = model_info(model);
    const std::string name = printable(key_named(model, "general.name"));
    std::string out = bold(printable(bitnet_model_path(model))) + "\n";
    out += row("model", std::string(bitnet_model_architecture(model)) + (name.empty() ? "" : ", " + name));
    out += row("shape", text_of("%d layers, n_embd %d, n_ff %d, %d heads of %d over %d KV heads", info.n_layer,
                                info.n_embd, info.n_ff, info.n_head, info.head_dim, info.n_head_kv));
    out += row("context", text_of("%d positions, RoPE over %d of %d dimensions, theta %.9g", info.n_ctx_train,
                                  info.n_rot, info.head_dim, info.rope_theta));
    out += row("vocabulary",
               text_of("%d tokens, head %s", info.n_vocab, info.head_tied ? "tied to the embedding" : "of its own"));
    out += row("specials",
               text_of("BOS %s%s, EOS %s, EOT %s", role_text(model, BITNET_SPECIAL_BOS).c_str(),
                       bitnet_token_wants_bos(model) ? " (wanted)" : "", role_text(model, BITNET_SPECIAL_EOS).c_str(),
                       role_text(model, BITNET_SPECIAL_EOT).c_str()));
    out += row("parameters",
               text_of("%s in %s bytes, %.3f bytes each", with_commas(info.n_params).c_str(),
                       with_commas(info.n_bytes).c_str(),
                       static_cast<double>(info.n_bytes) / static_cast<double>(std::max<uint64_t>(info.n_params, 1))));
    out += row("semantics", wrapped(bitnet_model_semantics(model)));
    out += row("isa", text_of("%s (usable here: %s)", bitnet_model_isa(model), isa_list().c_str()));
    out += row("blake3", model_hash(model));
    return out;
}

std::string warning_list(const bitnet_model_t *model) {
    const size_t n = bitnet_model_warning_count(model);
    if (n == 0) return "";
    std::string out = "\n" + bold(n == 1 ? "1 thing to know" : text_of("%zu things to know", n)) + "\n";
    for (size_t i = 0; i < n; i++) out += "  " + yellow("!") + " " + printable(bitnet_model_warning(model, i)) + "\n";
    return out;
}

std::string type_table(const bitnet_model_t *model) {
    std::string out =
        "\n" + bold(text_of("%-8s %8s %16s %16s %12s", "type", "tensors", "elements", "bytes", "bits/element")) + "\n";
    for (const TypeTotal &total : totals_by_type(model)) {
        out += text_of("%-8s %8s %16s %16s %12.2f\n", total.type.c_str(), with_commas(total.n_tensors).c_str(),
                       with_commas(total.n_elements).c_str(), with_commas(total.n_bytes).c_str(),
                       8.0 * static_cast<double>(total.n_bytes) /
                           static_cast<double>(std::max<uint64_t>(total.n_elements, 1)));
    }
    return out;
}

// At most value_bytes_shown bytes, cut between characters.
std::string shortened(std::string text) {
    if (text.size() <= value_bytes_shown) return text;
    size_t end = value_bytes_shown;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) end--;
    text.resize(end);
    return text + "...";
}

std::string key_table(const bitnet_model_t *model) {
    const size_t n = bitnet_model_key_count(model);
    int width = 4;
    for (size_t i = 0; i < n; i++) {
        width = std::max(width, static_cast<int>(printable(bitnet_model_key_name(model, i)).size()));
    }
    std::string out = "\n" + bold(text_of("%-*s  %-10s %9s  %s", width, "key", "type", "items", "value")) + "\n";
    for (size_t i = 0; i < n; i++) {
        out += text_of("%-*s  %-10s %9s  %s\n", width, printable(bitnet_model_key_name(model, i)).c_str(),
                       bitnet_model_key_type(model, i), with_commas(bitnet_model_key_length(model, i)).c_str(),
                       shortened(printable(key_text(model, i))).c_str());
    }
    return out;
}

std::string shape_text(const bitnet_tensor_info_t &tensor) {
    std::string shape;
    for (uint32_t i = 0; i < tensor.n_dims; i++) shape += (i == 0 ? "" : " x ") + std::to_string(tensor.dims[i]);
    return shape;
}

std::string tensor_table(const bitnet_model_t *model) {
    std::string out =
        "\n" + bold(text_of("%-32s %-6s %-18s %14s %14s", "tensor", "type", "shape", "offset", "bytes")) + "\n";
    for (size_t i = 0; i < bitnet_model_tensor_count(model); i++) {
        const bitnet_tensor_info_t tensor = tensor_at(model, i);
        out += text_of("%-32s %-6s %-18s %14s %14s\n", printable(tensor.name).c_str(), tensor.type_name,
                       shape_text(tensor).c_str(), with_commas(tensor.file_offset).c_str(),
                       with_commas(tensor.n_bytes).c_str());
    }
    return out;
}

nlohmann::ordered_json json_shape(const bitnet_model_t *model) {
    const bitnet_model_info_t info = model_info(model);
    return {{"n_layer", info.n_layer},       {"n_embd", info.n_embd},           {"n_ff", info.n_ff},
            {"n_head", info.n_head},         {"n_head_kv", info.n_head_kv},     {"head_dim", info.head_dim},
            {"n_vocab", info.n_vocab},       {"n_ctx_train", info.n_ctx_train}, {"n_rot", info.n_rot},
            {"rope_theta", info.rope_theta}, {"rms_eps", info.rms_eps},         {"head_tied", info.head_tied != 0}};
}

std::string json_report(const bitnet_model_t *model) {
    const bitnet_model_info_t info = model_info(model);
    nlohmann::ordered_json out;
    out["model"] = bitnet_model_path(model);
    out["model_hash"] = model_hash(model);
    out["architecture"] = bitnet_model_architecture(model);
    out["hyperparameters"] = json_shape(model);
    out["semantics"] = bitnet_model_semantics(model);
    out["isa"] = bitnet_model_isa(model);
    out["n_params"] = info.n_params;
    out["n_bytes"] = info.n_bytes;
    out["bos"] = bitnet_token_special(model, BITNET_SPECIAL_BOS);
    out["eos"] = bitnet_token_special(model, BITNET_SPECIAL_EOS);
    out["eot"] = bitnet_token_special(model, BITNET_SPECIAL_EOT);
    out["wants_bos"] = bitnet_token_wants_bos(model) != 0;
    out["warnings"] = nlohmann::ordered_json::array();
    for (size_t i = 0; i < bitnet_model_warning_count(model); i++)
        out["warnings"].push_back(bitnet_model_warning(model, i));
    out["keys"] = nlohmann::ordered_json::array();
    for (size_t i = 0; i < bitnet_model_key_count(model); i++) {
        out["keys"].push_back({{"name", bitnet_model_key_name(model, i)},
                               {"type", bitnet_model_key_type(model, i)},
                               {"length", bitnet_model_key_length(model, i)},
                               {"text", key_text(model, i)}});
    }
    out["tensors"] = nlohmann::ordered_json::array();
    for (size_t i = 0; i < bitnet_model_tensor_count(model); i++) {
        const bitnet_tensor_info_t tensor = tensor_at(model, i);
        out["tensors"].push_back({{"name", tensor.name},
                                  {"type", tensor.type_name},
                                  {"dims", std::vector<uint64_t>(tensor.dims, tensor.dims + tensor.n_dims)},
                                  {"offset", tensor.file_offset},
                                  {"bytes", tensor.n_bytes}});
    }
    return out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

int inspect(const InspectOptions &options) {
    const ModelHandle model = load_model(options.model);
    if (options.json) {
        write_stdout(json_report(model.get()));
    } else {
        write_stdout(summary(model.get()) + warning_list(model.get()) + type_table(model.get()));
        if (options.keys) write_stdout(key_table(model.get()));
        if (options.tensors) write_stdout(tensor_table(model.get()));
    }
    flush_stdout();
    return exit_good;
}

}  // namespace

void add_inspect_command(CLI::App &app, int &exit_code) {
    auto options = std::make_shared<InspectOptions>();
    CLI::App *command =
        app.add_subcommand("inspect", "What a model file holds, what is unusual in it, how it will be run");
    options->model.add_to(*command);
    command->add_flag("--keys", options->keys, "Also every key of the file; of arrays the first items");
    command->add_flag("--tensors", options->tensors,
                      "Also every tensor: type, shape (contiguous dimension first), place");
    command->add_flag("--json", options->json, "One JSON object with all of it");
    command->callback([options, &exit_code] { exit_code = inspect(*options); });
}

}  // namespace bitnet
