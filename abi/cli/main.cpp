// The program `bitnet`: everything it does goes through the public header.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "abi/cli/commands.h"
#include "abi/cli/environment.h"
#include "abi/cli/terminal.h"
#include "bitnet_c.h"

namespace {

std::string footer() {
    constexpr size_t column = 24;  // of the texts; a longer name has a line of its own
    std::string text =
        "Exit codes: 0 good, 1 divergence, 2 error. JSON goes to stdout alone, everything said to stderr.\n"
        "\n"
        "Environment:";
    for (const bitnet::EnvironmentVariable &variable : bitnet::environment_variables) {
        std::string line = std::string("\n  ") + variable.name;
        if (line.size() - 1 + 2 > column)
            line += '\n' + std::string(column, ' ');
        else
            line.resize(column + 1, ' ');
        text += line + variable.text;
    }
    return text;
}

std::string version_text() {
    std::string text = bitnet::text_of("bitnet %s (ABI %u.%u)\ninstruction sets:", bitnet_version(),
                                       bitnet_abi_version() >> 16, bitnet_abi_version() & 0xFFFF);
    for (int32_t i = 0; i < bitnet_isa_count(); i++) {
        text += std::string(" ") + bitnet_isa_name(i) + (bitnet_isa_usable(i) ? "" : " (not on this CPU)");
    }
    return text;
}

// Name of the command that was being parsed, for messages.
std::string command_prefix(const CLI::App &app) {
    const std::vector<CLI::App *> chosen = app.get_subcommands();
    return chosen.empty() ? "" : chosen.back()->get_name() + ": ";
}

void check_command_name(const CLI::App &app, int argc, char **argv) {
    std::string names;
    const auto commands = app.get_subcommands([](const CLI::App *) { return true; });
    for (const CLI::App *command : commands) names += (names.empty() ? "" : ", ") + command->get_name();
    if (argc < 2) throw bitnet::CommandError("no command: expected one of " + names + " (bitnet --help says more)");
    const std::string name = argv[1];
    const bool known = std::any_of(commands.begin(), commands.end(), [&](auto *c) { return c->get_name() == name; });
    if (!known && name != "-h" && name != "--help" && name != "--version") {
        throw bitnet::CommandError("unknown command '" + name + "': expected one of " + names);
    }
}

// "--prompt=" alone: the parser would take the next argument for its value.
void check_empty_values(const CLI::App &app, int argc, char **argv) {
    if (argv[1][0] == '-') return;  // --help or --version: no command whose options could be asked
    for (int i = 2; i < argc; i++) {
        const std::string argument = argv[i];
        if (!argument.starts_with("--") || !argument.ends_with('=')) continue;
        const std::string option = argument.substr(0, argument.size() - 1);
        if (app.get_subcommand(argv[1])->get_option_no_throw(option) != nullptr) {
            throw bitnet::CommandError(argument + ": an empty value is its own argument: " + option + " ''");
        }
    }
}

int parse_and_run(CLI::App &app, int argc, char **argv, const int &exit_code) {
    try {
        check_command_name(app, argc, argv);
        check_empty_values(app, argc, argv);
        app.parse(argc, argv);
        bitnet::flush_stdout();
        return exit_code;
    } catch (const CLI::CallForHelp &) {
        const std::vector<CLI::App *> chosen = app.get_subcommands();
        bitnet::write_stdout(chosen.empty() ? app.help() : chosen.back()->help("bitnet"));
    } catch (const CLI::CallForVersion &version) {
        bitnet::write_stdout(std::string(version.what()) + "\n");
    }
    bitnet::flush_stdout();
    return bitnet::exit_good;
}

}  // namespace

int main(int argc, char **argv) {
    CLI::App app("bitnet: the reference engine for BitNet b1.58 models, and what tells two engines apart.", "bitnet");
    int exit_code = bitnet::exit_good;
    try {
        app.set_version_flag("--version", version_text());
        app.require_subcommand(1);
        bitnet::add_run_command(app, exit_code);
        bitnet::add_trace_command(app, exit_code);
        bitnet::add_diff_command(app, exit_code);
        bitnet::add_explain_command(app, exit_code);
        bitnet::add_report_command(app, exit_code);
        bitnet::add_recheck_command(app, exit_code);
        bitnet::add_certify_command(app, exit_code);
        bitnet::add_crossval_command(app, exit_code);
        bitnet::add_envelope_command(app, exit_code);
        bitnet::add_tokenize_command(app, exit_code);
        bitnet::add_inspect_command(app, exit_code);
        bitnet::add_make_model_command(app, exit_code);
        bitnet::add_bench_command(app, exit_code);
        bitnet::add_completion_command(app, exit_code);
        bitnet::add_man_command(app, exit_code);
        app.footer(footer());  // after the commands, which would inherit it
        return parse_and_run(app, argc, argv, exit_code);
    } catch (const CLI::ParseError &error) {
        bitnet::print_error(command_prefix(app) + error.what());
    } catch (const bitnet::CommandError &error) {
        bitnet::print_error(error.what());
    } catch (const std::bad_alloc &) {
        bitnet::print_error("out of memory");
    } catch (const std::exception &error) {
        bitnet::print_error(error.what());
    }
    return bitnet::exit_error;
}
