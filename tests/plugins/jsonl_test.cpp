#include <gtest/gtest.h>

#include <blake3.h>
#include <clocale>
#include <cmath>
#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "plugins/host/services.h"
#include "tests/plugins/fixture.h"

namespace bitnet {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::Env;
using test::Host;

const std::string kPlugin = std::string(PLUGIN_DIRECTORY) + "/libjsonl.so";

class Jsonl : public testing::Test {
protected:
    void SetUp() override {
        char name[] = "/tmp/bitnet-jsonl-XXXXXX";
        ASSERT_NE(mkdtemp(name), nullptr);
        folder = name;
    }
    void TearDown() override { fs::remove_all(folder); }

    bitnet_status_t load(Host &host, const std::string &config) {
        return trace_host_load_plugin(host.host, kPlugin.c_str(), config.c_str(), host.error);
    }

    std::vector<json> read(const fs::path &path) {
        std::ifstream file(path);
        EXPECT_TRUE(file) << path;
        std::vector<json> records;
        for (std::string line; std::getline(file, line);) {
            json record = json::parse(line, nullptr, false);
            EXPECT_FALSE(record.is_discarded()) << line;
            records.push_back(std::move(record));
        }
        return records;
    }

    static void run_once(Host &host, std::vector<float> values, uint32_t n_rows) {
        const int32_t tokens[] = {1, 2};
        host.begin_run();
        trace_host_begin_step(host.host, 0, tokens, 2);
        host.tensor(BITNET_STAGE_ATTN_NORM, 3, 0, values, n_rows);
        trace_host_end_step(host.host, BITNET_OK);
        trace_host_end_run(host.host);
    }

    fs::path folder;
};

std::vector<std::string> keys(const std::string &line) {
    std::vector<std::string> out;
    const nlohmann::ordered_json object = nlohmann::ordered_json::parse(line);
    for (const auto &[key, value] : object.items()) out.push_back(key);
    return out;
}

std::vector<std::string> lines_of(const fs::path &path) {
    std::ifstream file(path);
    std::vector<std::string> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    return lines;
}

std::string hex(const uint8_t *bytes, size_t n) {
    std::string out;
    char digits[3];
    for (size_t i = 0; i < n; ++i) {
        snprintf(digits, sizeof digits, "%02x", bytes[i]);
        out += digits;
    }
    return out;
}

std::vector<float> decode_sketch(const std::string &text) {
    std::string bytes;
    uint32_t bits = 0;
    int n_bits = 0;
    const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (char c : text) {
        const size_t digit = digits.find(c);
        if (digit == std::string::npos) break;
        bits = bits << 6 | uint32_t(digit);
        n_bits += 6;
        if (n_bits >= 8) bytes += char(bits >> (n_bits -= 8) & 255);
    }
    std::vector<float> out(bytes.size() / 4);
    memcpy(out.data(), bytes.data(), out.size() * 4);
    return out;
}

TEST_F(Jsonl, WholeRun) {
    const fs::path path = folder / "a.jsonl";
    std::vector<float> values(2 * 300);
    for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(float(i)) * float(i % 7);
    {
        Host host;
        ASSERT_EQ(load(host, "path=" + path.string()), BITNET_OK) << host.error;
        EXPECT_FALSE(fs::exists(path));  // not before there is something to say
        trace_host_set_prompt(host.host, "2+2=", 4);
        run_once(host, values, 2);
    }
    const std::vector<json> records = read(path);
    ASSERT_EQ(records.size(), 5u);
    const std::vector<std::string> lines = lines_of(path);
    EXPECT_EQ(keys(lines[0]), (std::vector<std::string>{"record",          "schema",     "run",        "engine",
                                                        "engine_version",  "model_path", "model_hash", "architecture",
                                                        "hyperparameters", "semantics",  "isa",        "kv_type",
                                                        "threads",         "batch",      "selection",  "tokens",
                                                        "prompt",          "time",       "host",       "pid"}));
    EXPECT_EQ(keys(lines[1]), (std::vector<std::string>{"record", "run", "event", "seq", "n", "tokens"}));
    EXPECT_EQ(keys(lines[2]), (std::vector<std::string>{
                                  "record", "run",   "event",        "name",   "seq",      "layer", "stage", "row",
                                  "shape",  "dtype", "num_elements", "blake3", "multiset", "rms",   "mean",  "std",
                                  "min",    "max",   "absmax",       "l2",     "nan",      "inf",   "zeros", "argmin",
                                  "argmax", "top",   "sketch",       "kernel", "ns"}));
    EXPECT_EQ(keys(lines[4]),
              (std::vector<std::string>{"record", "run", "events", "records", "tokens", "overridden", "time"}));
    const json &run = records[0];
    EXPECT_EQ(run["record"], "run");
    EXPECT_EQ(run["schema"], 1);
    EXPECT_EQ(run["engine"], "test-engine");
    EXPECT_EQ(run["model_path"], "/models/tiny.gguf");
    EXPECT_EQ(run["hyperparameters"],
              json::parse(R"({"n_layer":4,"eps":1e-05,"name":"abc","bad":"01","neg":-350,"dot":"1.","empty":""})"));
    EXPECT_EQ(run["semantics"], json::parse(R"({"activation":"relu2","eps":"1e-05"})"));
    EXPECT_EQ(run["threads"], 3);
    EXPECT_EQ(run["batch"], 256);
    EXPECT_EQ(run["selection"], "");
    EXPECT_EQ(run["tokens"], json::parse("[1,2]"));
    EXPECT_EQ(run["prompt"], "2+2=");
    EXPECT_EQ(run["pid"], getpid());
    EXPECT_EQ(run["time"].get<std::string>().size(), strlen("2026-01-31T12:00:00.123Z"));
    EXPECT_EQ(records[1], json::parse(R"({"record":"step","run":0,"event":1,"seq":0,"n":2,"tokens":[1,2]})"));
    EXPECT_EQ(records[4]["record"], "run_end");
    EXPECT_EQ(records[4]["events"], 1);
    EXPECT_EQ(records[4]["records"], 2);
    EXPECT_EQ(records[4]["tokens"], 2);
    EXPECT_EQ(records[4]["overridden"], false);
    for (int row = 0; row < 2; ++row) {
        const json &r = records[2 + size_t(row)];
        const float *data = values.data() + 300 * row;
        EXPECT_EQ(r["name"], "t" + std::to_string(row) + "/blk3/attn_norm");
        EXPECT_EQ(r["event"], 2);
        EXPECT_EQ(r["seq"], row);
        EXPECT_EQ(r["row"], row);
        EXPECT_EQ(r["layer"], 3);
        EXPECT_EQ(r["stage"], "attn_norm");
        EXPECT_EQ(r["shape"], json::parse("[300]"));
        EXPECT_EQ(r["dtype"], "F32");
        EXPECT_EQ(r["num_elements"], 300);
        EXPECT_EQ(r["kernel"], "test.kernel");
        EXPECT_GT(r["ns"].get<int64_t>(), 0);
        uint8_t digest[32];
        blake3_hasher hasher;
        blake3_hasher_init(&hasher);
        blake3_hasher_update(&hasher, data, 1200);
        blake3_hasher_finalize(&hasher, digest, 32);
        EXPECT_EQ(r["blake3"], hex(digest, 32));
        const Row as_row = {data, 300, BITNET_DTYPE_F32};
        char multiset[17];
        snprintf(multiset, sizeof multiset, "%016llx", static_cast<unsigned long long>(row_multiset(as_row)));
        EXPECT_EQ(r["multiset"], multiset);
        bitnet_stats_t stats;
        row_stats(as_row, &stats);
        EXPECT_NEAR(r["rms"], stats.rms, 1e-8 * stats.rms);
        EXPECT_NEAR(r["mean"], stats.mean, 1e-8 * stats.rms);
        EXPECT_NEAR(r["std"], stats.std, 1e-8 * stats.rms);
        EXPECT_NEAR(r["l2"], stats.l2, 1e-8 * stats.l2);
        EXPECT_EQ(r["min"].get<float>(), stats.min);
        EXPECT_EQ(r["max"].get<float>(), stats.max);
        EXPECT_EQ(r["absmax"].get<float>(), stats.absmax);
        EXPECT_EQ(r["zeros"], stats.n_zero);
        EXPECT_EQ(r["argmin"], stats.min_index);
        EXPECT_EQ(r["argmax"], stats.max_index);
        ASSERT_EQ(r["top"].size(), 8u);
        for (size_t i = 0; i < 8; ++i) {
            EXPECT_EQ(r["top"][i][0], stats.top_index[i]);
            EXPECT_EQ(r["top"][i][1].get<float>(), stats.top_value[i]);
        }
        float sketch[64];
        row_sketch(as_row, sketch);
        EXPECT_EQ(decode_sketch(r["sketch"]), std::vector<float>(sketch, sketch + 64));
    }
}

TEST_F(Jsonl, HashEqualsB3sum) {
    if (system("command -v b3sum >/dev/null 2>&1") != 0) GTEST_SKIP() << "b3sum is not installed";
    const fs::path path = folder / "a.jsonl", raw = folder / "raw";
    const std::vector<float> values = {1.5f, -2, 0, 1e-41f, 3e38f};
    std::ofstream(raw, std::ios::binary).write(reinterpret_cast<const char *>(values.data()), long(values.size() * 4));
    {
        Host host;
        load(host, "path=" + path.string());
        run_once(host, values, 1);
    }
    FILE *pipe = popen(("b3sum --no-names '" + raw.string() + "'").c_str(), "r");
    ASSERT_NE(pipe, nullptr);
    char line[80] = "";
    ASSERT_NE(fgets(line, sizeof line, pipe), nullptr);
    pclose(pipe);
    EXPECT_EQ(read(path)[2]["blake3"].get<std::string>() + "\n", line);
}

TEST_F(Jsonl, NonFiniteValuesAreStrings) {
    const fs::path path = folder / "a.jsonl";
    const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
    {
        Host host;
        load(host, "path=" + path.string());
        run_once(host, {nan, inf, -inf, 2, nan, 0, nan, nan, nan, nan, nan, nan}, 2);
    }
    const std::vector<json> records = read(path);
    ASSERT_EQ(records.size(), 5u);
    EXPECT_EQ(records[2]["nan"], 2);
    EXPECT_EQ(records[2]["inf"], 2);
    EXPECT_EQ(records[2]["zeros"], 1);
    EXPECT_EQ(records[2]["max"], 2);
    EXPECT_EQ(records[2]["top"], json::parse(R"([[1,"Infinity"],[2,"-Infinity"],[3,2],[5,0]])"));
    EXPECT_EQ(records[2]["nonfinite"], 0);
    EXPECT_EQ(records[3]["nonfinite"], 0);
    EXPECT_EQ(records[3]["nan"], 6);
    EXPECT_EQ(records[3]["rms"], 0);
    EXPECT_EQ(records[3]["top"], json::array());
}

TEST_F(Jsonl, AnyPromptIsStrictJson) {
    const fs::path path = folder / "a.jsonl";
    const std::string prompt = std::string("q\" b\\ \n\t\x01\x7f ", 11) + '\0' +
                               "\xc3\xa9\xf0\x9f\x98\x80 \xff\xc3(\xed\xa0\x80\xc0\xaf\xf4\x90\x80\x80\xe2\x82";
    std::string all;
    for (int i = 0; i < 65536; ++i) all += char(i >> 8), all += char(i);
    {
        Host host;
        load(host, "path=" + path.string());
        trace_host_set_prompt(host.host, prompt.data(), prompt.size());
        host.begin_run();
        trace_host_set_prompt(host.host, all.data(), all.size());
        host.begin_run();
    }
    const std::vector<json> records = read(path);  // nlohmann refuses bad UTF-8
    ASSERT_EQ(records.size(), 4u);
    const std::string bad = "\xef\xbf\xbd";
    std::string expected =
        std::string("q\" b\\ \n\t\x01\x7f ", 11) + '\0' + "\xc3\xa9\xf0\x9f\x98\x80 " + bad + bad + "(";
    for (int i = 0; i < 3 + 2 + 4 + 2; ++i) expected += bad;
    EXPECT_EQ(records[0]["prompt"], expected);
    EXPECT_GT(records[2]["prompt"].get<std::string>().size(), 100000u);
}

TEST_F(Jsonl, NoTokensNoPromptNoLayer) {
    const fs::path path = folder / "a.jsonl";
    {
        Host host;
        load(host, "path=" + path.string());
        trace_host_select(host.host, "!attn_norm", host.error);
        TraceRun run = {};
        trace_host_begin_run(host.host, &run);
        trace_host_begin_step(host.host, 7, nullptr, 1);
        std::vector<float> values(4);
        host.tensor(BITNET_STAGE_LOGITS, -1, 7, values, 1);
        host.tensor(BITNET_STAGE_ATTN_NORM, 1, 7, values, 1);
    }
    const std::vector<json> records = read(path);
    ASSERT_EQ(records.size(), 4u);
    EXPECT_EQ(records[0]["tokens"], nullptr);
    EXPECT_EQ(records[0]["prompt"], nullptr);
    EXPECT_EQ(records[0]["hyperparameters"], json::object());
    EXPECT_EQ(records[0]["selection"], "!attn_norm");
    EXPECT_EQ(records[1]["tokens"], nullptr);
    EXPECT_EQ(records[1]["n"], 1);
    EXPECT_EQ(records[2]["name"], "t7/logits");
    EXPECT_EQ(records[2]["layer"], -1);
}

TEST_F(Jsonl, ContextsOfOneProcessDoNotShareAFile) {
    const std::string config = "path=" + (folder / "a.b.jsonl").string();
    {
        Host first, second, third;
        for (Host *host : {&first, &second, &third}) ASSERT_EQ(load(*host, config), BITNET_OK) << host->error;
        for (Host *host : {&third, &first, &second}) run_once(*host, {1, 2}, 1);
    }
    for (const char *name : {"a.b.jsonl", "a.b-1.jsonl", "a.b-2.jsonl"})
        EXPECT_EQ(read(folder / name).size(), 4u) << name;
    // Once they are closed, a named path is free again and its file is replaced.
    {
        Host host;
        load(host, config);
        host.begin_run();
    }
    EXPECT_EQ(read(folder / "a.b.jsonl").size(), 2u);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator()), 3);
}

TEST_F(Jsonl, DefaultPathsAreNeverReplacedByTheSameProcess) {
    const Env dir("BITNET_TRACE_DIR", folder.string());
    for (int i = 0; i < 3; ++i) {
        Host host;
        ASSERT_EQ(load(host, ""), BITNET_OK) << host.error;
        if (i != 1) host.begin_run();
    }
    const std::string stem = "bitnet-" + std::to_string(getpid());
    EXPECT_EQ(read(folder / (stem + ".jsonl")).size(), 2u);
    EXPECT_EQ(read(folder / (stem + "-1.jsonl")).size(), 2u);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator()), 2);
}

TEST_F(Jsonl, PathEscapes) {
    {
        Host host;
        ASSERT_EQ(load(host, "path=" + (folder / "x%,y%%z%;-%p").string()), BITNET_OK) << host.error;
        host.begin_run();
    }
    EXPECT_TRUE(fs::exists(folder / ("x,y%z;-" + std::to_string(getpid()))));
}

TEST_F(Jsonl, ARunThatMayBeOverriddenSaysSo) {
    const bitnet_trace_sink_t asks = {sizeof asks,
                                      BITNET_ABI_VERSION,
                                      "asks",
                                      1u << BITNET_EVENT_RUN_BEGIN,
                                      [](void **, const bitnet_trace_host_t *host, const char *) {
                                          return host->get_extension(host, BITNET_EXT_OVERRIDE) ? BITNET_OK
                                                                                                : BITNET_E_INTERNAL;
                                      },
                                      [](void *, const bitnet_event_t *) { return BITNET_OK; },
                                      nullptr,
                                      nullptr};
    for (const bool may : {false, true}) {
        const fs::path path = folder / (may ? "may.jsonl" : "may_not.jsonl");
        {
            Host host;
            ASSERT_EQ(load(host, "path=" + path.string()), BITNET_OK) << host.error;
            if (may) {
                ASSERT_EQ(trace_host_attach_sink(host.host, &asks, nullptr, nullptr, host.error), BITNET_OK);
            }
            host.begin_run();
            trace_host_end_run(host.host);
        }
        const json run = read(path).at(0);
        EXPECT_EQ(run.value("overridable", false), may);
        EXPECT_EQ(run.contains("overridable"), may);
    }
}

TEST_F(Jsonl, BadConfigurationIsDeclined) {
    const std::pair<const char *, const char *> cases[] = {
        {"file=x", "unknown configuration 'file=x', expected path=FILE with %p for the process id (%, is a comma), "
                   "queue=MB, level=1 to 19 (zstd)"},
        {"path=a,b=c", "unknown configuration 'b=c', expected path=FILE with %p for the process id (%, is a comma), "
                       "queue=MB, level=1 to 19 (zstd)"},
        {"path", "unknown configuration 'path', expected path=FILE with %p for the process id (%, is a comma), "
                 "queue=MB, level=1 to 19 (zstd)"},
        {"path=a,queue=0", "configuration 'queue=0', expected queue=1 to 4096, in MB"},
        {"queue=1x", "configuration 'queue=1x', expected queue=1 to 4096, in MB"},
        {"queue=99999999999", "configuration 'queue=99999999999', expected queue=1 to 4096, in MB"},
        {"path=a.zst,level=20", "configuration 'level=20', expected level=1 to 19"},
        {"path=a.jsonl,level=3", "configuration 'level=3', expected no level, or a path that ends in .zst"},
        {"path=", "path is empty"},
        {"path=a%q", "path 'a%q': unknown '%q', expected %p, %%, %, or %;"},
        {"path=a%", "path 'a%': unknown '%', expected %p, %%, %, or %;"},
    };
    Host host;
    for (const auto &[config, text] : cases) {
        EXPECT_EQ(load(host, config), BITNET_E_PLUGIN) << config;
        EXPECT_EQ(host.error, std::string("plugin 'libjsonl.so': open failed: ") + text);
    }
    EXPECT_EQ(load(host, "path=" + std::string(5000, 'x')), BITNET_E_PLUGIN);
    EXPECT_STREQ(host.error, "plugin 'libjsonl.so': open failed: path is too long");
}

TEST_F(Jsonl, UnwritablePath) {
    Host host;
    load(host, "path=/nonexistent/a.jsonl");
    run_once(host, {1, 2}, 1);
    EXPECT_EQ(host.stats().n_sinks, 0u);
    EXPECT_STREQ(host.stats().last_failure,
                 "sink 'jsonl': event 3 failed: cannot open '/nonexistent/a.jsonl': No such file or directory");
}

TEST_F(Jsonl, FullDevice) {
    Host host;
    load(host, "path=/dev/full");
    run_once(host, {1, 2}, 1);
    const std::string failure = host.stats().last_failure;  // at an event or the flush, whichever comes first
    EXPECT_NE(failure.find("failed: cannot write to '/dev/full': No space left on device"), std::string::npos)
        << failure;
    EXPECT_EQ(host.stats().n_sinks, 0u);
}

// A file size limit cuts a write in the middle of a line.
TEST_F(Jsonl, ACutWriteLeavesWholeLines) {
    const fs::path path = folder / "a.jsonl";
    const pid_t child = fork();
    if (child == 0) {
        const rlimit limit = {5000, 5000};  // its signal would end the process
        setrlimit(RLIMIT_FSIZE, &limit);
        Host host;
        load(host, "path=" + path.string());
        for (int i = 0; i < 10; ++i) run_once(host, {1, 2, 3, 4}, 4);
        sigset_t pending;
        sigpending(&pending);
        if (sigismember(&pending, SIGXFSZ)) _exit(2);
        const std::string expected = "cannot write to '" + path.string() + "': File too large";
        _exit(host.stats().n_failures == 1 && strstr(host.stats().last_failure, expected.c_str()) ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    const std::vector<json> records = read(path);
    EXPECT_GT(records.size(), 3u);
    std::ifstream file(path, std::ios::ate);
    EXPECT_GT(file.tellg(), 2500);
    EXPECT_LT(file.tellg(), 5000);
    file.seekg(-1, std::ios::end);
    EXPECT_EQ(file.get(), '\n');
}

TEST_F(Jsonl, ABrokenPipeIsAFailureNotASignal) {
    const fs::path path = folder / "pipe";
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    const int reader = open(path.c_str(), O_RDONLY | O_NONBLOCK);
    Host host;
    load(host, "path=" + path.string());
    run_once(host, {1, 2}, 1);
    EXPECT_EQ(host.stats().n_failures, 0u);
    close(reader);
    run_once(host, {1, 2}, 1);
    EXPECT_EQ(host.stats().n_failures, 1u);
    EXPECT_NE(strstr(host.stats().last_failure, "Broken pipe"), nullptr) << host.stats().last_failure;
    sigset_t pending;
    sigpending(&pending);
    EXPECT_FALSE(sigismember(&pending, SIGPIPE));
}

TEST_F(Jsonl, AForkedChildDoesNotWriteIntoItsParentsTrace) {
    const fs::path path = folder / "a.jsonl";
    {
        Host host;
        load(host, "path=" + path.string());
        host.begin_run();
        std::vector<float> values(4);
        host.tensor(BITNET_STAGE_LOGITS, -1, 0, values, 1);
        const pid_t child = fork();
        if (child == 0) {
            host.tensor(BITNET_STAGE_LOGITS, -1, 1, values, 1);
            trace_host_end_run(host.host);  // a step's rows are not looked at one by one
            const bool told = strstr(host.stats().last_failure, "forked") != nullptr;
            trace_host_detach_all(host.host);
            _exit(told ? 0 : 1);
        }
        int status = 0;
        waitpid(child, &status, 0);
        EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        EXPECT_EQ(host.stats().n_failures, 0u);
    }
    EXPECT_EQ(read(path).size(), 3u);
}

// Soon after its end, without a flush.
TEST_F(Jsonl, EveryStepIsOnDiskWhenItEnds) {
    const fs::path path = folder / "a.jsonl";
    Host host;
    load(host, "path=" + path.string());
    host.begin_run();
    for (int step = 0; step < 3; ++step) {
        trace_host_begin_step(host.host, step, nullptr, 1);
        std::vector<float> values(4);
        host.tensor(BITNET_STAGE_LOGITS, -1, step, values, 1);
        trace_host_end_step(host.host, BITNET_OK);
        for (int i = 0; i < 2000 && lines_of(path).size() < 3u + 2u * unsigned(step); ++i) usleep(5000);
        EXPECT_EQ(read(path).size(), 3u + 2u * unsigned(step));
    }
}

// Rows beyond the buffer; also a second run in the same file.
TEST_F(Jsonl, ManyRows) {
    const fs::path path = folder / "a.jsonl";
    {
        Host host;
        load(host, "path=" + path.string());
        for (int run = 0; run < 2; ++run) run_once(host, std::vector<float>(600), 300);
    }
    const std::vector<json> records = read(path);
    ASSERT_EQ(records.size(), 2u * 303u);
    EXPECT_EQ(records[301]["seq"], 299);
    EXPECT_EQ(records[303]["run"], 1);
    EXPECT_EQ(records[605]["records"], 300);
}

TEST_F(Jsonl, ACommaLocaleChangesNothing) {
    const char *found = nullptr;
    for (const char *name : {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE"}) {
        if (!found) found = setlocale(LC_ALL, name);
    }
    // Where none is installed, one is made: localedef writes it into the test's folder.
    if (!found &&
        system(("localedef -i de_DE -f UTF-8 '" + (folder / "de_DE.UTF-8").string() + "' >/dev/null 2>&1").c_str()) ==
            0) {
        const Env path("LOCPATH", folder.string());
        found = setlocale(LC_ALL, "de_DE.UTF-8");
    }
    if (!found) GTEST_SKIP() << "no locale with a decimal comma, and localedef cannot make one";
    char probe[16];
    snprintf(probe, sizeof probe, "%.1f", 1.5);
    EXPECT_STREQ(probe, "1,5");
    const fs::path path = folder / "a.jsonl";
    {
        Host host;
        load(host, "path=" + path.string());
        run_once(host, {1.5f, -2.25f}, 1);
    }
    snprintf(probe, sizeof probe, "%.1f", 1.5);
    EXPECT_STREQ(probe, "1,5");  // and the process keeps its own
    setlocale(LC_ALL, "C");
    EXPECT_EQ(read(path)[2]["top"], json::parse("[[1,-2.25],[0,1.5]]"));
}

}  // namespace
}  // namespace bitnet
