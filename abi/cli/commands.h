// The commands of the program: each adds itself to the parser. What runs it stores the process's exit code.
#pragma once

namespace CLI {
class App;
}

namespace bitnet {

// Of every command. Errors are one line "bitnet: ..." on stderr.
inline constexpr int exit_good = 0;
inline constexpr int exit_divergence = 1;
inline constexpr int exit_error = 2;

void add_run_command(CLI::App &app, int &exit_code);
void add_trace_command(CLI::App &app, int &exit_code);
void add_diff_command(CLI::App &app, int &exit_code);
void add_explain_command(CLI::App &app, int &exit_code);
void add_certify_command(CLI::App &app, int &exit_code);
void add_crossval_command(CLI::App &app, int &exit_code);
void add_envelope_command(CLI::App &app, int &exit_code);
void add_tokenize_command(CLI::App &app, int &exit_code);
void add_inspect_command(CLI::App &app, int &exit_code);
void add_make_model_command(CLI::App &app, int &exit_code);
void add_report_command(CLI::App &app, int &exit_code);
void add_recheck_command(CLI::App &app, int &exit_code);
void add_bench_command(CLI::App &app, int &exit_code);
void add_completion_command(CLI::App &app, int &exit_code);
void add_man_command(CLI::App &app, int &exit_code);

}  // namespace bitnet
