#!/bin/sh
# `make test`: all tests in the release build, the unit tests again under ASan+UBSan and those with threads under TSan. The
# last lines are ctest's summaries.
set -eu
cd "$(dirname "$0")/.."
scripts/build.sh release
scripts/build.sh asan-ubsan
scripts/build.sh tsan core_test abi_busy_test  # the tests labelled threads
status=0
ctest --preset tsan --label-regex threads || status=1
ctest --preset asan-ubsan --label-regex 'unit|damage' || status=1
ctest --preset release || status=1
exit $status
