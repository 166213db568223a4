// bitnet tokenize: text to token ids and back.
#include <memory>
#include <optional>

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "abi/cli/commands.h"
#include "abi/cli/prompt.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet {

namespace {

struct TokenizeOptions {
    TextOptions source;
    ModelOptions model;
    std::optional<std::string> decode;
    bool no_bos = false;
    bool parse_special = false;
    bool pieces = false;
    bool json = false;
};

std::string json_report(const bitnet_model_t *model, const std::string &text, const std::vector<int32_t> &tokens) {
    nlohmann::ordered_json out;
    out["text"] = text;
    out["n_bytes"] = text.size();
    out["n_tokens"] = tokens.size();
    out["tokens"] = tokens;
    out["pieces"] = nlohmann::ordered_json::array();
    for (const int32_t token : tokens) out["pieces"].push_back(detokenize(model, {token}, BITNET_DETOKENIZE_SPECIAL));
    return out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string piece_lines(const bitnet_model_t *model, const std::vector<int32_t> &tokens) {
    std::string lines;
    for (const int32_t token : tokens) {
        const std::string piece = printable(detokenize(model, {token}, BITNET_DETOKENIZE_SPECIAL));
        lines += text_of("%6d  \"%s\"\n", token, piece.c_str());
    }
    return lines;
}

// The ids given to --decode, or those of the text.
int decode(const TokenizeOptions &options) {
    if (options.source.given()) throw CommandError("--decode stands in place of -p, -f and -");
    const std::string ids = *options.decode == "-" ? read_file("-") : *options.decode;
    const ModelHandle model = load_model(options.model);
    const std::vector<int32_t> tokens = parse_token_ids("--decode", ids, model_info(model.get()).n_vocab);
    const uint32_t flags = options.parse_special ? BITNET_DETOKENIZE_SPECIAL : 0;
    const std::string text = detokenize(model.get(), tokens, flags);
    if (options.json) {
        write_stdout(json_report(model.get(), text, tokens));
    } else if (options.pieces) {
        write_stdout(piece_lines(model.get(), tokens));
    } else {
        // Exact bytes for a file or a pipe; a terminal gets its line end.
        write_stdout(isatty(STDOUT_FILENO) ? text + "\n" : text);
    }
    return exit_good;
}

int tokenize_text(const TokenizeOptions &options) {
    const std::string text = options.source.read(", --decode IDS");
    const ModelHandle model = load_model(options.model);
    const bool bos = bitnet_token_wants_bos(model.get()) && !options.no_bos;
    const std::vector<int32_t> tokens =
        tokenize(model.get(), text,
                 (bos ? BITNET_TOKENIZE_ADD_BOS : 0) | (options.parse_special ? BITNET_TOKENIZE_PARSE_SPECIAL : 0));
    write_stdout(options.json     ? json_report(model.get(), text, tokens)
                 : options.pieces ? piece_lines(model.get(), tokens)
                                  : join_ids(tokens, " ") + "\n");
    return exit_good;
}

}  // namespace

void add_tokenize_command(CLI::App &app, int &exit_code) {
    auto options = std::make_shared<TokenizeOptions>();
    CLI::App *command = app.add_subcommand("tokenize", "Token ids of a text on one line, or the text of token ids");
    options->source.add_to(*command);
    command
        ->add_option("--decode", options->decode,
                     "The exact bytes of these ids, \"1,2,3\" or \"1 2 3\"; '-': ids on stdin")
        ->type_name("IDS");
    options->model.add_path_to(*command);
    command->add_flag("--no-bos", options->no_bos, "Do not begin with the BOS token, even when the model asks for it");
    command->add_flag("--parse-special", options->parse_special,
                      "Control tokens are spelled in the text, <|eot_id|>; otherwise plain text, and not decoded");
    command->add_flag("--pieces", options->pieces, "One line for each token: its id and its text");
    command->add_flag("--json", options->json, "One JSON object");
    command->callback([options, &exit_code] {
        exit_code = options->decode ? decode(*options) : tokenize_text(*options);
        flush_stdout();
    });
}

}  // namespace bitnet
