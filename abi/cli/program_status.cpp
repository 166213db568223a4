#include "abi/cli/program_status.h"

#include <elf.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "abi/cli/terminal.h"
#include "bitnet_c.h"

namespace bitnet {

uint64_t ProcessStatus::number(const char *key) const {
    const auto found = values.find(key);
    return found == values.end() ? 0 : std::strtoull(found->second.c_str(), nullptr, 10);
}

std::string ProcessStatus::text(const char *key) const {
    const auto found = values.find(key);
    return found == values.end() ? "" : found->second;
}

std::vector<ProcessStatus> read_statuses(const std::string &folder) {
    std::vector<ProcessStatus> statuses;
    for (const auto &entry : std::filesystem::directory_iterator(folder)) {
        std::ifstream file(entry.path());
        ProcessStatus status;
        for (std::string line; std::getline(file, line);) {
            const size_t equal = line.find('=');
            if (equal == std::string::npos) continue;
            const std::string key = line.substr(0, equal), value = line.substr(equal + 1);
            if (key == "library") {
                status.libraries.push_back(value);
            } else {
                status.values[key] = value;
            }
        }
        if (!status.values.empty()) statuses.push_back(std::move(status));
    }
    return statuses;
}

std::vector<LogitsRow> read_logits(const std::string &folder) {
    std::vector<LogitsRow> rows;
    for (const auto &entry : std::filesystem::directory_iterator(folder)) {
        if (entry.path().extension() != ".logits") continue;
        std::ifstream file(entry.path());
        for (LogitsRow row; file >> row.run >> row.position >> row.hash;) rows.push_back(row);
    }
    std::sort(rows.begin(), rows.end());
    return rows;
}

std::string difference(const std::vector<LogitsRow> &alone, const std::vector<LogitsRow> &traced) {
    const auto [a, b] = std::mismatch(alone.begin(), alone.end(), traced.begin(), traced.end());
    if (a == alone.end() && b == traced.end()) return "";
    if (alone.size() != traced.size())
        return text_of("%zu rows of logits when they are read alone, %zu with all that was traced", alone.size(),
                       traced.size());
    return text_of("logits at position %llu have other bits when all is traced than when they are read alone",
                   static_cast<unsigned long long>(a->position));
}

std::string summary_of(const ProcessStatus &status) {
    const std::string engine = status.text("engine");
    const size_t from = engine.find('|'), to = engine.find('|', from + 1);
    std::string text =
        text_of("trace: %s (pid %s): %s steps, %s events", status.text("program").c_str(), status.text("pid").c_str(),
                with_commas(status.number("steps")).c_str(), with_commas(status.number("events")).c_str());
    if (status.number("runs") > 1) text += text_of(" in %s runs", with_commas(status.number("runs")).c_str());
    if (from != std::string::npos) text += ", " + engine.substr(from + 1, to - from - 1);
    if (status.number("warm_ups") > 0)
        text += text_of("; %s warm-ups left out", with_commas(status.number("warm_ups")).c_str());
    if (status.number("several_sequences") > 0)
        text += text_of("; %s batches of several sequences, or of positions with gaps, left out",
                        with_commas(status.number("several_sequences")).c_str());
    return text;
}

namespace {

// The file that is run for `program`, as execvp finds it; "" when there is none.
std::string resolved(const std::string &program) {
    if (program.find('/') != std::string::npos) return program;
    const char *path = std::getenv("PATH");
    std::string folders = path ? path : "/bin:/usr/bin";
    for (size_t from = 0; from <= folders.size();) {
        const size_t end = std::min(folders.find(':', from), folders.size());
        const std::string candidate = folders.substr(from, end - from) + "/" + program;
        struct stat found;
        if (stat(candidate.c_str(), &found) == 0 && S_ISREG(found.st_mode)) return candidate;
        from = end + 1;
    }
    return "";
}

// A property of the file that keeps the loader from preloading; "" when it has none.
std::string why_not_preloaded(const std::string &program, bool patch_static) {
    const std::string path = resolved(program);
    struct stat found;
    std::ifstream file(path, std::ios::binary);
    Elf64_Ehdr header;
    if (path.empty() || stat(path.c_str(), &found) != 0 || !file.read(reinterpret_cast<char *>(&header), sizeof header))
        return "";
    if (found.st_mode & (S_ISUID | S_ISGID)) return path + " is set-user-ID or set-group-ID: nothing is preloaded";
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return "";  // a script: its interpreter was preloaded
    if (header.e_ident[EI_CLASS] != ELFCLASS64) return path + " is no 64-bit program";
    for (int i = 0; i < header.e_phnum; i++) {
        Elf64_Phdr segment;
        file.seekg(static_cast<std::streamoff>(header.e_phoff + static_cast<uint64_t>(i) * header.e_phentsize));
        if (!file.read(reinterpret_cast<char *>(&segment), sizeof segment)) break;
        if (segment.p_type == PT_INTERP) return "";
    }
    return path + " is statically linked: nothing can be preloaded" +
           (patch_static ? ", so that its calls cannot be patched either (link it with bitnet_shim_linked.o)" : "");
}

std::string why_no_call(const ProcessStatus &status, HowReached how) {
    const std::string patched = status.text("static_program");
    if (status.libraries.empty()) {
        if (how.patch_static && !patched.empty()) return "no libllama or libggml was loaded, and " + patched;
        return "no libllama or libggml was loaded; a program that they are linked into needs --patch-static";
    }
    return status.libraries.front() + " was loaded, but none of its calls arrived: " +
           (how.deep ? "its copy of ggml is linked into it"
                     : "it was opened with RTLD_DEEPBIND (try --deep), or its copy of ggml is linked into it");
}

std::string why_not(const ProcessStatus &status, HowReached how) {
    const std::string who = text_of("%s (pid %s): ", status.text("program").c_str(), status.text("pid").c_str());
    const std::string engine = status.text("engine");
    const std::string why = engine.substr(engine.rfind('|') + 1);
    if (status.number("armed") == 0) return who + "BITNET_SHIM_PROGRAMS or the lack of a plugin leaves it out";
    if (status.number("failures") > 0) return who + status.text("last_failure");
    if (!engine.empty() && !why.empty()) return who + engine.substr(0, engine.find('|')) + ": " + why;
    if (status.number("graphs") == 0) return who + why_no_call(status, how);
    if (status.number("llama_graphs") == 0)
        return who + text_of("%s graphs, none of a language model", with_commas(status.number("graphs")).c_str());
    if (status.number("steps") > 0)
        return who + text_of("%s steps, but nothing in them was selected", with_commas(status.number("steps")).c_str());
    if (status.number("several_sequences") > 0)
        return who + text_of("all %s batches hold several sequences, or positions with gaps",
                             with_commas(status.number("several_sequences")).c_str());
    if (status.number("no_position") > 0) return who + "its graphs have no positions of tokens";
    if (status.number("warm_ups") > 0) return who + "warm-ups alone";
    return who + "no graph was computed";
}

}  // namespace

std::string why_nothing(const std::vector<ProcessStatus> &statuses, const std::string &program, HowReached how) {
    if (statuses.empty()) {
        const std::string file = why_not_preloaded(program, how.patch_static);
        if (!file.empty()) return file;
        return program + ": no process reported: it ended without its exit handlers before it met llama.cpp";
    }
    const ProcessStatus *best = &statuses.front();  // the one that came furthest
    const auto rank = [](const ProcessStatus &s) {
        return std::tuple(s.number("steps"), s.number("graphs"), s.libraries.size());
    };
    for (const ProcessStatus &status : statuses) {
        if (rank(status) > rank(*best)) best = &status;
    }
    return why_not(*best, how);
}

std::string advice_of(const ProcessStatus &status, bool wants_softmax) {
    if (status.number("flash_graphs") > 0 && wants_softmax)
        return "attn_scores and attn_scores_softmax are hidden by flash attention: --no-flash asks llama.cpp to do "
               "without";
    if (status.number("overwritten") > 0)
        return text_of("%s stages were left out, as later operations write over them: BITNET_SHIM_MODE=callback",
                       with_commas(status.number("overwritten")).c_str());
    if (status.number("failures") > 0) return status.text("last_failure");
    return "";
}

}  // namespace bitnet
