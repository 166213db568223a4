// A folder of our own in TMPDIR, gone with this object.
#pragma once

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>

#include "abi/cli/terminal.h"

namespace bitnet {

class TemporaryFolder {
public:
    // Throws CommandError. `name`: of what it is for, in the folder's name.
    explicit TemporaryFolder(const std::string &name) {
        const char *parent = std::getenv("TMPDIR");
        path_ = std::string(parent && *parent ? parent : "/tmp") + "/bitnet-" + name + "-XXXXXX";
        if (!mkdtemp(path_.data())) throw CommandError(text_of("%s: %s", path_.c_str(), std::strerror(errno)));
    }
    ~TemporaryFolder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TemporaryFolder(const TemporaryFolder &) = delete;
    TemporaryFolder &operator=(const TemporaryFolder &) = delete;
    const std::string &path() const { return path_; }

private:
    std::string path_;
};

}  // namespace bitnet
