#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "tests/plugins/fixture.h"

namespace bitnet {
namespace {

using test::Env;
using test::Host;
using test::Recorder;

constexpr const char *kMatrix = MATRIX_DIRECTORY;

std::string matrix(const char *name) { return std::string(kMatrix) + "/lib" + name + ".so"; }

struct Refusal {
    const char *name;
    bitnet_status_t status;
    std::string text;
};

TEST(Loader, EveryFaultHasItsOwnText) {
    const Refusal refusals[] = {
        {"no_symbol", BITNET_E_PLUGIN,
         "plugin 'libno_symbol.so': '" + matrix("no_symbol").substr(0, 200) +
             "' does not export bitnet_trace_plugin_v1"},
        {"declines", BITNET_E_PLUGIN, "plugin 'libdeclines.so': declined: not on a Tuesday"},
        {"declines_silently", BITNET_E_PLUGIN, "plugin 'libdeclines_silently.so': declined without a reason"},
        {"wrong_major", BITNET_E_ABI,
         "plugin 'libwrong_major.so': built for plugin ABI 2.0, this host has 1.0 (the major must be equal)"},
        {"newer_fields", BITNET_E_ABI,
         "plugin 'libnewer_fields.so': built for plugin ABI 1.1, uses fields that this host (1.0) does not know"},
        {"short_struct", BITNET_E_ABI,
         "plugin 'libshort_struct.so': its table is 24 bytes, expected at least 56 and at most 4096"},
        {"huge_struct", BITNET_E_ABI,
         "plugin 'libhuge_struct.so': its table is 2147483647 bytes, expected at least 56 and at most 4096"},
        {"no_event", BITNET_E_PLUGIN, "plugin 'libno_event.so': its table has no event function"},
        {"open_fails", BITNET_E_PLUGIN, "plugin 'libopen_fails.so': open failed: no such disk second line"},
        {"open_fails_silently", BITNET_E_PLUGIN,
         "plugin 'libopen_fails_silently.so': open failed with status -3 and without a reason"},
    };
    Recorder good;
    Host host;
    trace_host_attach_sink(host.host, &good.table, &good, nullptr, host.error);
    uint64_t n = 0;
    for (const Refusal &refusal : refusals) {
        EXPECT_EQ(trace_host_load_plugin(host.host, matrix(refusal.name).c_str(), "", host.error), refusal.status);
        EXPECT_EQ(host.error, refusal.text);
        EXPECT_EQ(host.stats().n_failures, ++n);
        EXPECT_EQ(host.stats().last_failure, refusal.text.substr(0, 255));
        EXPECT_EQ(test::logged().back(), refusal.text);
    }
    EXPECT_EQ(host.stats().n_sinks, 1u);
    host.begin_run();
    EXPECT_EQ(good.seen.size(), 1u);
}

TEST(Loader, AcceptsWhatIsRight) {
    Host host;
    for (const char *name : {"good", "newer_minor", "no_optional"}) {
        EXPECT_EQ(trace_host_load_plugin(host.host, matrix(name).c_str(), nullptr, host.error), BITNET_OK)
            << host.error;
    }
    EXPECT_EQ(host.stats().n_sinks, 3u);
    std::vector<float> values(4);
    host.begin_run();
    host.tensor(BITNET_STAGE_LOGITS, -1, 0, values, 1);
    EXPECT_EQ(trace_host_end_run(host.host), BITNET_OK);
    EXPECT_EQ(host.stats().n_failures, 0u);
    trace_host_detach_all(host.host);
    EXPECT_EQ(test::logged(), (std::vector<std::string>{"sink 'matrix': closed", "sink 'matrix': closed"}));
}

TEST(Loader, FailuresInUse) {
    Recorder good;
    Host host;
    trace_host_load_plugin(host.host, matrix("event_fails").c_str(), "at=3", host.error);
    trace_host_load_plugin(host.host, matrix("event_fails_silently").c_str(), "", host.error);
    trace_host_load_plugin(host.host, matrix("flush_fails").c_str(), "", host.error);
    trace_host_attach_sink(host.host, &good.table, &good, nullptr, host.error);
    EXPECT_EQ(host.stats().n_sinks, 4u);
    host.begin_run();
    EXPECT_STREQ(host.stats().last_failure, "sink 'matrix': event 0 failed with status 7 and without a reason");
    std::vector<float> values(4);
    for (int i = 0; i < 5; ++i) host.tensor(BITNET_STAGE_LOGITS, -1, i, values, 1);
    EXPECT_STREQ(host.stats().last_failure, "sink 'matrix': event 3 failed: disk on fire");
    EXPECT_EQ(host.stats().n_failures, 2u);
    EXPECT_EQ(host.stats().n_sinks, 2u);
    EXPECT_EQ(trace_host_end_run(host.host), BITNET_E_PLUGIN);
    EXPECT_STREQ(host.stats().last_failure, "sink 'matrix': flush failed: cannot flush");
    EXPECT_EQ(trace_host_end_run(host.host), BITNET_OK);
    EXPECT_EQ(host.stats().n_sinks, 1u);
    EXPECT_EQ(good.tensors().size(), 5u);
}

TEST(Loader, FindsPluginsByName) {
    for (const char *name : {"null", "libnull.so", "null.so", "libnull"}) {
        Host host(LIBRARY_DIRECTORY);
        EXPECT_EQ(trace_host_load_plugin(host.host, name, "", host.error), BITNET_OK) << name << ": " << host.error;
    }
    {
        const Env path("BITNET_PLUGIN_PATH", std::string("/nonexistent::") + kMatrix);
        Host host;
        EXPECT_EQ(trace_host_load_plugin(host.host, "good", "", host.error), BITNET_OK) << host.error;
        EXPECT_EQ(trace_host_load_plugin(host.host, "missing", "", host.error), BITNET_E_PLUGIN);
        const std::string expected = "plugin 'missing': no libmissing.so in BITNET_PLUGIN_PATH '" +
                                     (std::string("/nonexistent::") + kMatrix).substr(0, 100) + "'";
        EXPECT_EQ(std::string(host.error).substr(0, expected.size()), expected);
    }
    Host host("/lib-of-nobody");
    EXPECT_EQ(trace_host_load_plugin(host.host, "missing", "", host.error), BITNET_E_PLUGIN);
    EXPECT_STREQ(host.error,
                 "plugin 'missing': no libmissing.so in BITNET_PLUGIN_PATH '' nor in '/lib-of-nobody/bitnet/plugins'");
    EXPECT_EQ(trace_host_load_plugin(host.host, "", "", host.error), BITNET_E_PLUGIN);
    EXPECT_STREQ(host.error, "plugin '': not a name, expected such as 'jsonl', 'libjsonl.so' or a path");
    EXPECT_EQ(trace_host_load_plugin(host.host, nullptr, nullptr, nullptr), BITNET_E_PLUGIN);
    EXPECT_EQ(trace_host_load_plugin(host.host, "/nonexistent/libx.so", "", host.error), BITNET_E_PLUGIN);
    EXPECT_EQ(std::string(host.error).substr(0, 62), "plugin 'libx.so': cannot be loaded: /nonexistent/libx.so: cann");
    const std::string long_path = "/" + std::string(5000, 'x');
    EXPECT_EQ(trace_host_load_plugin(host.host, long_path.c_str(), "", host.error), BITNET_E_PLUGIN);
    EXPECT_NE(strstr(host.error, "path is longer than 4095 bytes"), nullptr) << host.error;
    EXPECT_EQ(trace_host_load_plugin(host.host, long_path.c_str() + 1, "", host.error), BITNET_E_PLUGIN);
}

TEST(Loader, EnvironmentAttachesSeveral) {
    EXPECT_EQ(trace_host_environment_wants(), 0);
    const Env path("BITNET_PLUGIN_PATH", kMatrix);
    const Env plugins("BITNET_TRACE_PLUGIN", "good;event_fails:at=0;;declines;" + matrix("good") + ":x=a:b%;c;");
    EXPECT_EQ(trace_host_environment_wants(), 1);
    Host host;
    trace_host_attach_environment(host.host);
    EXPECT_EQ(host.stats().n_sinks, 3u);
    EXPECT_EQ(host.stats().n_failures, 1u);
    EXPECT_STREQ(host.stats().last_failure, "plugin 'declines': declined: not on a Tuesday");
    host.begin_run();
    EXPECT_EQ(host.stats().n_sinks, 2u);
    EXPECT_STREQ(host.stats().last_failure, "sink 'matrix': event 0 failed: disk on fire");
}

TEST(Loader, EnvironmentSelects) {
    const Env path("BITNET_PLUGIN_PATH", kMatrix);
    const Env plugins("BITNET_TRACE_PLUGIN", "good");
    {
        const Env select("BITNET_TRACE_SELECT", "3:attn_norm");
        Host host;
        trace_host_attach_environment(host.host);
        host.begin_run();
        EXPECT_EQ(trace_host_wants(host.host, BITNET_STAGE_ATTN_NORM, 3, 0, 1), 1);
        EXPECT_EQ(trace_host_wants(host.host, BITNET_STAGE_ATTN_NORM, 2, 0, 1), 0);
    }
    const Env select("BITNET_TRACE_SELECT", "nonsense");
    Host host;
    trace_host_attach_environment(host.host);
    EXPECT_EQ(host.stats().n_sinks, 0u);
    EXPECT_EQ(host.stats().n_failures, 1u);
    EXPECT_EQ(std::string(host.stats().last_failure).substr(0, 79),
              "BITNET_TRACE_SELECT: selection item 'nonsense': no stage is named 'nonsense'; s");
}

TEST(Loader, VerbosePrintsEveryStepAndNothingElseDoes) {
    const Env path("BITNET_PLUGIN_PATH", std::string("/nonexistent:") + kMatrix);
    testing::internal::CaptureStderr();
    {
        Host host;
        trace_host_load_plugin(host.host, "good", "k=v", host.error);
        trace_host_load_plugin(host.host, "declines", "", host.error);
    }
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
    const Env verbose("BITNET_TRACE_VERBOSE", "1");
    testing::internal::CaptureStderr();
    Host host;
    trace_host_load_plugin(host.host, "good", "k=v", host.error);
    trace_host_load_plugin(host.host, "declines", "", host.error);
    const std::string found = "'" + matrix("good") + "'", declines = "'" + matrix("declines") + "'";
    EXPECT_EQ(testing::internal::GetCapturedStderr(),
              "bitnet trace: plugin 'good', config 'k=v'\n"
              "bitnet trace: '/nonexistent/libgood.so': no such file\n"
              "bitnet trace: " +
                  found +
                  ": found\n"
                  "bitnet trace: " +
                  found +
                  ": loaded\n"
                  "bitnet trace: plugin 'good': offers a sink of ABI 1.0, 56 bytes\n"
                  "bitnet trace: plugin 'good': attached\n"
                  "bitnet trace: plugin 'declines', config ''\n"
                  "bitnet trace: '/nonexistent/libdeclines.so': no such file\n"
                  "bitnet trace: " +
                  declines +
                  ": found\n"
                  "bitnet trace: " +
                  declines +
                  ": loaded\n"
                  "bitnet trace: plugin 'declines': declined: not on a Tuesday\n");
}

TEST(Loader, TheTemplateCounts) {
    Host host(LIBRARY_DIRECTORY);
    ASSERT_EQ(trace_host_load_plugin(host.host, "null", "", host.error), BITNET_OK) << host.error;
    EXPECT_EQ(trace_host_load_plugin(host.host, "null", "x=1", host.error), BITNET_E_PLUGIN);
    EXPECT_STREQ(host.error, "plugin 'null': open failed: this plugin takes no configuration");
    std::vector<float> values(6);
    host.begin_run();
    host.tensor(BITNET_STAGE_LOGITS, -1, 0, values, 3);
    host.tensor(BITNET_STAGE_LOGITS, -1, 3, values, 2);
    trace_host_detach_all(host.host);
    EXPECT_EQ(test::logged().back(), "sink 'null': 2 tensor events, 5 rows");
}

}  // namespace
}  // namespace bitnet
