// What goes wrong around the sinks that write folders: paths, processes, threads, disks.
#include <array>
#include <csignal>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "tests/plugins/fixture.h"
#include "tests/plugins/sink_harness.h"

namespace bitnet {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::Attachment;
using test::names_in;
using test::read_bytes;
using test::rows_of;

struct Kind {
    const char *plugin, *options;
    bool by_run;     // a folder for each run
    size_t n_about;  // files about a run
};

// The file of tensor `name` (a stage that no table has) in any folder below `dir`.
std::vector<fs::path> files_of(const fs::path &dir, const std::string &name) {
    std::vector<fs::path> found;
    for (const auto &entry : fs::recursive_directory_iterator(dir)) {
        if (entry.path().stem().string().find("-" + name) != std::string::npos) found.push_back(entry.path());
    }
    return found;
}

class FolderSinks : public test::FolderTest, public testing::WithParamInterface<Kind> {
protected:
    std::string plugin() const { return std::string(PLUGIN_DIRECTORY) + "/lib" + GetParam().plugin + ".so"; }
    std::string config(const fs::path &dir) const { return "dir=" + dir.string() + GetParam().options; }
    fs::path file_folder(const fs::path &dir, int run = 0) const {
        return GetParam().by_run ? dir / ("run-00000" + std::to_string(run)) : dir;
    }
    const std::vector<float> x = {1, 2, 3, 4};
    bitnet_status_t show(Attachment &sink, const char *name) { return sink.tensor(rows_of(0, name, 0, 0, x, 1)); }
    bitnet_status_t begin(Attachment &sink) {
        sink.begin_run();
        return sink.begin_step(0, {1});
    }
};

TEST_P(FolderSinks, NothingIsMadeBeforeThereIsAValue) {
    Attachment sink(plugin());
    ASSERT_EQ(sink.open(config(folder / "a/b/c")), BITNET_OK) << sink.last_log();
    begin(sink);
    sink.end_step(0, {1});
    sink.end_run();
    EXPECT_FALSE(fs::exists(folder / "a"));
    begin(sink);
    EXPECT_EQ(show(sink, "one"), BITNET_OK) << sink.last_log();
    EXPECT_EQ(files_of(folder / "a/b/c", "one").size(), 1u);
}

TEST_P(FolderSinks, AFolderThatCannotBeMade) {
    std::ofstream(folder / "file") << "x";
    const std::tuple<fs::path, fs::path, std::string> cases[] = {
        {folder / "file", folder / "file", "Not a directory"},
        {folder / "file/below", folder / "file", "Not a directory"},  // the part that is wrong
        {"/dev/full", "/dev/full", "Not a directory"},
        {"/proc/bitnet", "/proc/bitnet", "No such file or directory"},
    };
    for (const auto &[dir, wrong, error] : cases) {
        Attachment sink(plugin());
        ASSERT_EQ(sink.open(config(dir)), BITNET_OK);
        begin(sink);
        EXPECT_EQ(show(sink, "one"), BITNET_E_IO) << dir;
        EXPECT_EQ(sink.last_log(), "cannot make folder '" + wrong.string() + "': " + error);
    }
    EXPECT_EQ(read_bytes(folder / "file"), "x");
}

TEST_P(FolderSinks, AFolderWithoutPermission) {
    if (geteuid() == 0) {
        // Root may write anywhere: as somebody else, in a process of its own.
        fs::permissions(folder, fs::perms::owner_all | fs::perms::others_read | fs::perms::others_exec);
        const pid_t child = fork();
        if (child == 0) {
            if (setgid(65534) != 0 || setuid(65534) != 0) _exit(2);
            Attachment sink(plugin());
            const bool opened = sink.open(config(folder / "sub")) == BITNET_OK;
            begin(sink);
            const std::string expected = "cannot make folder '" + (folder / "sub").string() + "': Permission denied";
            _exit(opened && show(sink, "one") == BITNET_E_IO && sink.last_log() == expected ? 0 : 1);
        }
        int status = 0;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
        return;
    }
    fs::permissions(folder, fs::perms::owner_read | fs::perms::owner_exec);
    Attachment sink(plugin());
    ASSERT_EQ(sink.open(config(folder / "sub")), BITNET_OK);
    begin(sink);
    EXPECT_EQ(show(sink, "one"), BITNET_E_IO);
    EXPECT_EQ(sink.last_log(), "cannot make folder '" + (folder / "sub").string() + "': Permission denied");
}

TEST_P(FolderSinks, AFolderThatVanishes) {
    Attachment sink(plugin());
    ASSERT_EQ(sink.open(config(folder / "raw")), BITNET_OK);
    begin(sink);
    ASSERT_EQ(show(sink, "one"), BITNET_OK);
    fs::remove_all(folder / "raw");
    EXPECT_EQ(show(sink, "two"), BITNET_E_IO);
    const std::string text = sink.last_log();
    EXPECT_EQ(text.rfind("cannot write '" + file_folder(folder / "raw").string() + "/", 0), 0u) << text;
    EXPECT_NE(text.find("two"), std::string::npos) << text;
    EXPECT_NE(text.find("': No such file or directory"), std::string::npos) << text;
    sink.close();
    EXPECT_FALSE(fs::exists(folder / "raw"));
}

TEST_P(FolderSinks, AFolderRemovedBetweenRunsIsMadeAgain) {
    Attachment sink(plugin());
    ASSERT_EQ(sink.open(config(folder / "raw")), BITNET_OK);
    for (int run = 0; run < 2; ++run) {
        begin(sink);
        EXPECT_EQ(show(sink, "one"), BITNET_OK) << sink.last_log();
        sink.end_step(0, {1});
        EXPECT_EQ(sink.end_run(), BITNET_OK) << sink.last_log();
        EXPECT_EQ(files_of(folder / "raw", "one").size(), 1u);
        fs::remove_all(folder / "raw");
    }
}

// A file size limit stands for a full disk: no part of a file is left, and what was complete stays.
TEST_P(FolderSinks, AFullDiskLeavesWholeFilesOnly) {
    const pid_t child = fork();
    if (child == 0) {
        const rlimit limit = {4096, 4096};
        setrlimit(RLIMIT_FSIZE, &limit);  // SIGXFSZ ends a process, unless it is held back
        Attachment sink(plugin());
        bool ok = sink.open(config(folder / "raw")) == BITNET_OK;
        begin(sink);
        ok = ok && show(sink, "one") == BITNET_OK;
        const rlimit small = {100, 4096};
        setrlimit(RLIMIT_FSIZE, &small);
        ok = ok && show(sink, "two") == BITNET_E_IO && sink.last_log().find("': File too large") != std::string::npos;
        _exit(ok ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    EXPECT_EQ(files_of(folder / "raw", "one").size(), 1u);
    EXPECT_EQ(names_in(file_folder(folder / "raw")).size(), 1 + GetParam().n_about);  // no part either
}

TEST_P(FolderSinks, ARelativePathAfterChdir) {
    const pid_t child = fork();  // the working folder belongs to the whole process
    if (child == 0) {
        const fs::path other = folder / "other";
        fs::create_directory(other);
        bool ok = chdir(folder.c_str()) == 0;
        Attachment sink(plugin());
        ok = ok && sink.open(config("x/raw")) == BITNET_OK && chdir(other.c_str()) == 0;
        begin(sink);
        ok = ok && show(sink, "one") == BITNET_OK;
        _exit(ok && chdir("/") == 0 && show(sink, "two") == BITNET_OK ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    EXPECT_EQ(files_of(folder / "x/raw", "one").size(), 1u);
    EXPECT_EQ(files_of(folder / "x/raw", "two").size(), 1u);
    EXPECT_TRUE(fs::is_empty(folder / "other"));
}

TEST_P(FolderSinks, AForkedChildWritesNothing) {
    Attachment sink(plugin());
    ASSERT_EQ(sink.open(config(folder / "raw")), BITNET_OK);
    begin(sink);
    ASSERT_EQ(show(sink, "one"), BITNET_OK);
    const std::vector<std::string> before = names_in(file_folder(folder / "raw"));
    const pid_t child = fork();
    if (child == 0) {
        const bool refused = show(sink, "child") == BITNET_E_UNSUPPORTED;
        sink.close();
        _exit(refused ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    EXPECT_EQ(names_in(file_folder(folder / "raw")), before);
    EXPECT_EQ(show(sink, "parent"), BITNET_OK) << sink.last_log();
    EXPECT_EQ(files_of(folder / "raw", "parent").size(), 1u);
}

TEST_P(FolderSinks, AKilledProcessLeavesWholeFiles) {
    int ready[2];
    ASSERT_EQ(pipe(ready), 0);
    const pid_t child = fork();
    if (child == 0) {
        Attachment sink(plugin());
        sink.open(config(folder / "raw"));
        begin(sink);
        const std::vector<float> big(200000, 1.0f);
        for (int i = 0;; ++i) {
            sink.tensor(rows_of(0, ("n" + std::to_string(i)).c_str(), 0, 0, big, 1));
            if (i == 3 && write(ready[1], "x", 1) != 1) _exit(1);
        }
    }
    char byte;
    ASSERT_EQ(read(ready[0], &byte, 1), 1);
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ::close(ready[0]);
    ::close(ready[1]);
    size_t n_whole = 0;
    for (const std::string &name : names_in(file_folder(folder / "raw"))) {
        const fs::path path = file_folder(folder / "raw") / name;
        if (name[0] == '.' || name == "run.json") continue;
        ++n_whole;
        if (path.extension() == ".npy") {
            EXPECT_EQ(fs::file_size(path), 128u + 800000) << name;
        }
        if (path.extension() == ".trace") {
            EXPECT_NO_THROW(json::parse(read_bytes(path))) << name;
        }
    }
    EXPECT_GE(n_whole, 4u);
    if (GetParam().by_run) {
        EXPECT_EQ(json::parse(read_bytes(file_folder(folder / "raw") / "run.json"))["complete"], false);
    }
}

// Two contexts on two threads, several runs each, one folder: nothing is written twice.
TEST_P(FolderSinks, TwoContextsOnTwoThreads) {
    constexpr int kRuns = 4, kRows = 5;
    std::array<bitnet_status_t, 2> status = {};
    std::vector<std::thread> threads;
    for (int t = 0; t < 2; ++t) {
        threads.emplace_back([&, t] {
            Attachment sink(plugin());
            status[size_t(t)] = sink.open(config(folder / "raw"));
            for (int run = 0; run < kRuns; ++run) {
                begin(sink);
                for (int row = 0; row < kRows; ++row) {
                    const std::vector<float> values(8, float(100 * t + 10 * run + row));
                    const std::string name = "v" + std::to_string(100 * t + 10 * run + row) + "v";
                    if (!status[size_t(t)]) status[size_t(t)] = sink.tensor(rows_of(0, name.c_str(), 0, 0, values, 1));
                }
                sink.end_step(0, {1});
                sink.end_run();
            }
        });
    }
    for (std::thread &thread : threads) thread.join();
    EXPECT_EQ(status, (std::array<bitnet_status_t, 2>{}));
    for (int t = 0; t < 2; ++t) {
        for (int run = 0; run < kRuns; ++run) {
            for (int row = 0; row < kRows; ++row) {
                const int value = 100 * t + 10 * run + row;
                const std::vector<float> values(8, float(value));
                const auto files = files_of(folder / "raw", "v" + std::to_string(value) + "v");
                ASSERT_EQ(files.size(), 1u) << value;
                const std::string bytes = read_bytes(files[0]);
                if (files[0].extension() == ".npy") {
                    EXPECT_EQ(bytes.substr(bytes.size() - 32),
                              std::string(reinterpret_cast<const char *>(values.data()), 32));
                } else {
                    EXPECT_EQ(json::parse(bytes)["blake3"], test::blake3_hex(values.data(), 32));
                }
            }
        }
    }
    if (GetParam().by_run) {
        EXPECT_EQ(names_in(folder / "raw").size(), size_t(2 * kRuns));
    }
}

// A later process begins where an earlier one ended.
TEST_P(FolderSinks, AnotherProcessReplacesNothing) {
    for (int i = 0; i < 3; ++i) {
        const pid_t child = fork();
        if (child == 0) {
            Attachment sink(plugin());
            bool ok = sink.open(config(folder / "raw")) == BITNET_OK;
            begin(sink);
            ok = ok && show(sink, "one") == BITNET_OK;
            _exit(ok ? 0 : 1);
        }
        int status = 0;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    }
    EXPECT_EQ(files_of(folder / "raw", "one").size(), 3u);
}

// Through the host the failure is told, and the evaluation goes on.
TEST_P(FolderSinks, TheHostTellsTheFailure) {
    test::Host host;
    ASSERT_EQ(trace_host_load_plugin(host.host, plugin().c_str(), config("/dev/full/x").c_str(), host.error),
              BITNET_OK);
    std::vector<float> values = {1, 2};
    const int32_t tokens[] = {1};
    host.begin_run({1});
    trace_host_begin_step(host.host, 0, tokens, 1);
    host.tensor(BITNET_STAGE_ATTN_NORM, 0, 0, values, 1);
    trace_host_end_step(host.host, BITNET_OK);
    EXPECT_EQ(host.stats().n_failures, 1u);
    EXPECT_EQ(host.stats().last_failure, std::string("sink '") + GetParam().plugin +
                                             "': event 2 failed: cannot make folder '/dev/full': Not a directory");
}

INSTANTIATE_TEST_SUITE_P(Sinks, FolderSinks,
                         testing::Values(Kind{"npy", ",raw=all", true, 1}, Kind{"tracedir", "", false, 0}),
                         [](const auto &test) { return std::string(test.param.plugin); });

}  // namespace
}  // namespace bitnet
