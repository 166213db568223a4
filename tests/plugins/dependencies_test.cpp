// What lives in foreign processes needs the C library alone.
#include <gtest/gtest.h>

#include <cstdio>
#include <sstream>
#include <string>
#include <vector>

namespace bitnet {
namespace {

std::vector<std::string> lines_of(const std::string &command) {
    std::string text;
    FILE *pipe = popen(command.c_str(), "r");
    if (!pipe) return {};
    char buffer[4096];
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) text.append(buffer, n);
    pclose(pipe);
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return lines;
}

std::string last_word(const std::string &line) { return line.substr(line.find_last_of(" \t") + 1); }

bool is_cxx_runtime(const std::string &symbol) {
    for (const char *prefix : {"_ZS", "_ZNS", "_ZNKS", "_Zn", "_Zd", "_ZT", "__cxa_", "__gxx_", "_Unwind"}) {
        if (symbol.rfind(prefix, 0) == 0 && symbol.rfind("__cxa_finalize", 0) != 0) return true;
    }
    return false;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // the sanitizer's runtime is a C++ library
#else
constexpr bool kSanitized = false;
#endif

constexpr const char *kPlugins[] = {"libcheck.so", "libjsonl.so",    "libmodeltracer.so", "libnpy.so",
                                    "libnull.so",  "libtimeline.so", "libtracedir.so"};

TEST(Dependencies, PluginsNeedTheCLibraryAlone) {
    if (kSanitized) GTEST_SKIP() << "sanitizers add their own libraries";
    for (const char *name : kPlugins) {
        const std::string path = std::string(PLUGIN_DIRECTORY) + "/" + name;
        bool needs_libc = false;
        for (const std::string &line : lines_of("readelf -d '" + path + "'")) {
            if (line.find("(NEEDED)") == std::string::npos) continue;
            const bool libc = line.find("[libc.so") != std::string::npos;
            needs_libc |= libc;
            // libm comes with the C library, and only this one computes entropies.
            const bool libm =
                line.find("[libm.so") != std::string::npos && path.find("modeltracer") != std::string::npos;
            EXPECT_TRUE(libc || libm) << name << ": " << line;
        }
        EXPECT_TRUE(needs_libc) << name;
        const std::vector<std::string> undefined = lines_of("nm -D -u '" + path + "'");
        EXPECT_GT(undefined.size(), 3u) << name;
        for (const std::string &line : undefined) EXPECT_FALSE(is_cxx_runtime(last_word(line))) << name << ": " << line;
    }
}

TEST(Dependencies, PluginsExportOneSymbol) {
    for (const char *name : kPlugins) {
        std::vector<std::string> exported;
        for (const std::string &line :
             lines_of(std::string("nm -D --defined-only '") + PLUGIN_DIRECTORY + "/" + name + "'")) {
            exported.push_back(last_word(line));
        }
        EXPECT_EQ(exported, (std::vector<std::string>{"bitnet_trace_plugin_v1"})) << name;
    }
}

TEST(Dependencies, TheHostIsFreeOfTheCxxRuntime) {
    if (kSanitized) GTEST_SKIP() << "sanitizers add their own symbols";
    const std::vector<std::string> undefined = lines_of(std::string("nm -u '") + TRACE_HOST_ARCHIVE + "'");
    EXPECT_GT(undefined.size(), 10u);
    for (const std::string &line : undefined) EXPECT_FALSE(is_cxx_runtime(last_word(line))) << line;
}

}  // namespace
}  // namespace bitnet
