#!/bin/sh
# `make test`: all tests in the release build, the unit tests again under ASan+UBSan and those with threads under TSan; on
# x86-64 also an AArch64 build on emulated CPUs. The last lines are ctest's summaries.
set -eu
cd "$(dirname "$0")/.."
scripts/build.sh release
scripts/build.sh asan-ubsan
scripts/build.sh tsan core_test abi_busy_test test_sinks test_jsonl_writer test_matrix bitnet_shim_loader  # the tests labelled threads
cross=
[ "$(uname -m)" != x86_64 ] || cross=1
[ -z "$cross" ] || scripts/build.sh aarch64 bitnet core_test bitnet_shim_loader  # the tests labelled emulated
status=0
ctest --preset tsan --label-regex threads || status=1
[ -z "$cross" ] || ctest --preset aarch64 --label-regex emulated --no-tests=error --parallel 2 || status=1
ctest --preset asan-ubsan --label-regex 'unit|damage' --parallel 2 || status=1
ctest --preset release --parallel 2 || status=1
exit $status
