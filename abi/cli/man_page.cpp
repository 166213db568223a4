// bitnet man: the manual page, made from what the parser knows, so that it cannot be out of date.
#include <CLI/CLI.hpp>

#include "abi/cli/commands.h"
#include "abi/cli/environment.h"
#include "abi/cli/terminal.h"
#include "bitnet_c.h"

namespace bitnet {

namespace {

// Text for roff: a backslash would begin an escape, a '.' or "'" at the beginning of a line a request, and '-' alone
// would become a hyphen, which nobody can paste into a shell.
std::string roff(const std::string &text) {
    std::string out;
    for (const char c : text) {
        if (c == '\\')
            out += "\\e";
        else if (c == '-')
            out += "\\-";
        else if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n'))
            out += std::string("\\&") + c;
        else
            out += c;
    }
    return out;
}

// The argument of a request: quotes are doubled.
std::string roff_quoted(const std::string &text) {
    std::string out = "\"";
    for (const char c : roff(text)) out += c == '"' ? "\"\"" : std::string(1, c);
    return out + "\"";
}

std::string tagged(const std::string &tag, const std::string &text) {
    return ".TP\n.B " + roff_quoted(tag) + "\n" + roff(text) + "\n";
}

std::string value_name(const CLI::Option &option) {
    return option.get_option_text().empty() ? option.get_type_name() : option.get_option_text();
}

std::string option_text(const CLI::Option &option) {
    std::string tag = option.get_positional() ? option.get_name(true) : option.get_name(false, true);
    for (size_t at = tag.find(','); at != std::string::npos; at = tag.find(',', at + 2)) tag.insert(at + 1, " ");
    if (!option.get_positional() && option.get_items_expected_max() > 0) tag += " " + value_name(option);
    return tagged(tag, option.get_description());
}

std::string command_text(const CLI::App &command) {
    std::string text = ".SS " + roff_quoted("bitnet " + command.get_name()) + "\n" + roff(command.get_description()) + "\n";
    for (const CLI::Option *option : command.get_options()) {
        if (option->get_group().empty() || option->check_lname("help")) continue;
        text += option_text(*option);
    }
    return text;
}

std::string man_page(const CLI::App &app) {
    std::string text =
        ".TH BITNET 1 \"\" " + roff_quoted("bitnet-c " + std::string(bitnet_version())) + " \"User Commands\"\n";
    text += ".SH NAME\nbitnet \\- the reference engine for BitNet b1.58 models\n"
            ".SH SYNOPSIS\n.B bitnet\n.I command\n.RI [ options ]\n"
            ".SH DESCRIPTION\nRuns ternary language models with the same bits on every machine, records the tensors of "
            "every "
            "layer of this engine or of an unmodified llama.cpp program, and says where, and why, another engine "
            "leaves it.\n"
            ".SH COMMANDS\n";
    for (const CLI::App *command : app.get_subcommands([](const CLI::App *) { return true; })) {
        if (!command->get_group().empty()) text += command_text(*command);
    }
    text += ".SH EXIT STATUS\n" + tagged("0", "Good; the sides match.") + tagged("1", "A divergence.") +
            tagged("2", "An error; the comparison is none.");
    text += ".SH ENVIRONMENT\n";
    for (const EnvironmentVariable &variable : environment_variables) text += tagged(variable.name, variable.text);
    text += ".SH EXAMPLES\n.nf\n"
            "bitnet run \\-p \"What is 2+2?\"\n"
            "bitnet trace \\-p \"2+2=\" \\-o a.jsonl\n"
            "bitnet trace \\-p \"2+2=\" \\-o b.jsonl \\-\\-as activation=silu\n"
            "bitnet diff a.jsonl b.jsonl\n"
            "bitnet trace \\-\\- llama\\-cli \\-m model.gguf \\-p \"2+2=\"\n"
            ".fi\n"
            ".SH FILES\n" +
            tagged("LIBDIR/bitnet/plugins", "Trace plugins: LIBDIR is the folder of libbitnet.so.1.");
    return text;
}

}  // namespace

void add_man_command(CLI::App &app, int &exit_code) {
    CLI::App *command = app.add_subcommand("man", "The manual page, for man -l -");
    command->callback([&app, &exit_code] {
        write_stdout(man_page(app));
        exit_code = exit_good;
    });
}

}  // namespace bitnet
