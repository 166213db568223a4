// bitnet completion: what a shell needs to complete commands and options, made from what the parser knows.
#include <memory>

#include <CLI/CLI.hpp>

#include "abi/cli/commands.h"
#include "abi/cli/options.h"
#include "abi/cli/terminal.h"

namespace bitnet {

namespace {

std::vector<const CLI::App *> shown_commands(const CLI::App &app) {
    std::vector<const CLI::App *> shown;
    for (const CLI::App *command : app.get_subcommands([](const CLI::App *) { return true; })) {
        if (!command->get_group().empty()) shown.push_back(command);
    }
    return shown;
}

std::vector<const CLI::Option *> shown_options(const CLI::App &command) {
    std::vector<const CLI::Option *> shown;
    for (const CLI::Option *option : command.get_options()) {
        if (!option->get_group().empty() && !option->get_positional()) shown.push_back(option);
    }
    return shown;
}

bool takes_value(const CLI::Option &option) { return option.get_items_expected_max() > 0; }

std::string escaped(const std::string &text, const std::string &special) {
    std::string out;
    for (const char c : text) {
        if (special.find(c) != std::string::npos) out += '\\';
        out += c;
    }
    return out;
}

std::string quoted(const std::string &text) {  // in single quotes
    std::string out = "'";
    for (const char c : text) out += c == '\'' ? "'\\''" : std::string(1, c);
    return out + "'";
}

// "--output -o" and so on, with `between`.
std::string spellings(const CLI::Option &option, const std::string &between) {
    std::string text;
    for (const std::string &name : option.get_lnames()) text += (text.empty() ? "" : between) + "--" + name;
    for (const std::string &name : option.get_snames()) text += (text.empty() ? "" : between) + "-" + name;
    return text;
}

std::string bash(const CLI::App &app) {
    std::string names, cases;
    for (const CLI::App *command : shown_commands(app)) {
        names += (names.empty() ? "" : " ") + command->get_name();
        std::string all, with_value;
        for (const CLI::Option *option : shown_options(*command)) {
            all += (all.empty() ? "" : " ") + spellings(*option, " ");
            if (takes_value(*option)) with_value += (with_value.empty() ? "" : "|") + spellings(*option, "|");
        }
        if (with_value.empty()) with_value = "-";
        cases += "        " + command->get_name() + ")\n            options='" + all +
                 "'\n            case \"$previous\" in " + with_value + ") return ;; esac\n            ;;\n";
    }
    // An empty COMPREPLY means files, by `-o default`: values are files more often than anything else.
    return "# bash completion of bitnet: bitnet completion bash > /etc/bash_completion.d/bitnet\n"
           "_bitnet() {\n"
           "    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} options\n"
           "    COMPREPLY=()\n"
           "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
           "        COMPREPLY=($(compgen -W '" +
           names +
           " --help --version' -- \"$word\"))\n"
           "        return\n"
           "    fi\n"
           "    case \"${COMP_WORDS[1]}\" in\n" +
           cases +
           "        *) return ;;\n"
           "    esac\n"
           "    case \"$word\" in -*) COMPREPLY=($(compgen -W \"$options\" -- \"$word\")) ;; esac\n"
           "}\n"
           "complete -o default -F _bitnet bitnet\n";
}

std::string zsh(const CLI::App &app) {
    std::string commands, cases;
    for (const CLI::App *command : shown_commands(app)) {
        commands += "        " + quoted(command->get_name() + ":" + escaped(command->get_description(), ":\\")) + "\n";
        cases += "        " + command->get_name() + ")\n            _arguments -s";
        for (const CLI::Option *option : shown_options(*command)) {
            const std::string text = "[" + escaped(option->get_description(), "[]\\") + "]";
            const std::string value =
                takes_value(*option) ? ":" + escaped(option->get_type_name(), ":\\") + ":_files" : "";
            std::string names = spellings(*option, ",");
            if (names.find(',') != std::string::npos) names = "{" + names + "}";  // for the shell to expand, unquoted
            cases += " \\\n                '*'" + names + quoted(text + value);
        }
        cases += " \\\n                '*:file:_files'\n            ;;\n";
    }
    return "#compdef bitnet\n"
           "# zsh completion of bitnet: bitnet completion zsh > /usr/share/zsh/vendor-completions/_bitnet\n"
           "_bitnet() {\n"
           "    local -a commands\n"
           "    commands=(\n" +
           commands +
           "    )\n"
           "    if (( CURRENT == 2 )); then\n"
           "        _describe command commands\n"
           "        return\n"
           "    fi\n"
           "    local command=$words[2]\n"
           "    shift words\n"
           "    (( CURRENT-- ))\n"
           "    case $command in\n" +
           cases +
           "    esac\n"
           "}\n"
           "_bitnet \"$@\"\n";
}

std::string fish(const CLI::App &app) {
    std::string text =
        "# fish completion of bitnet: bitnet completion fish > /usr/share/fish/vendor_completions.d/bitnet.fish\n";
    for (const CLI::App *command : shown_commands(app)) {
        const std::string name = command->get_name();
        text += "complete -c bitnet -n __fish_use_subcommand -f -a " + name + " -d " +
                quoted(escaped(command->get_description(), "\\")) + "\n";
        for (const CLI::Option *option : shown_options(*command)) {
            text += "complete -c bitnet -n '__fish_seen_subcommand_from " + name + "'";
            for (const std::string &l : option->get_lnames()) text += " -l " + l;
            for (const std::string &s : option->get_snames()) text += " -s " + s;
            text += std::string(takes_value(*option) ? " -r" : "") + " -d " +
                    quoted(escaped(option->get_description(), "\\")) + "\n";
        }
    }
    return text;
}

}  // namespace

void add_completion_command(CLI::App &app, int &exit_code) {
    CLI::App *command =
        app.add_subcommand("completion", "What bash, zsh or fish needs to complete commands and options");
    auto shell = std::make_shared<std::string>();
    command->add_option("shell", *shell, "bash, zsh or fish")->required()->check(one_of({"bash", "zsh", "fish"}));
    command->callback([&app, shell, &exit_code] {
        write_stdout(*shell == "bash" ? bash(app) : *shell == "zsh" ? zsh(app) : fish(app));
        exit_code = exit_good;
    });
}

}  // namespace bitnet
