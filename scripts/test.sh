#!/bin/sh
# `make test`: all tests in the release build, the unit tests again under ASan+UBSan and those with threads under TSan. The
# last lines are ctest's summaries.
set -eu
cd "$(dirname "$0")/.."
for preset in release asan-ubsan tsan; do scripts/build.sh "$preset"; done
status=0
ctest --preset tsan --label-regex threads || status=1
ctest --preset asan-ubsan --label-regex 'unit|damage' || status=1
ctest --preset release || status=1
exit $status
