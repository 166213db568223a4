#!/bin/sh
# Installs the project into a new prefix, builds the plugin templates there with nothing but the installed header, by
# command line and with CMake, and loads them by path and by name into a program that was built the same way.
# Usage: templates_test.sh BUILD_DIR SOURCE_DIR CMAKE CC CXX MODEL
set -eu
build=$1 source=$2 cmake=$3 cc=$4 cxx=$5 model=$(realpath "$6")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix="$work/the prefix"

"$cmake" --install "$build" --prefix "$prefix" >/dev/null
include=$(dirname "$(find "$prefix" -name bitnet_c.h)")
library=$(dirname "$(find "$prefix" -name 'libbitnet.so')")
[ "$(ls "$include" | tr '\n' ' ')" = "bitnet_c.h bitnet_cpp.h " ] || {
    echo "installed headers: $(ls "$include"), expected bitnet_c.h and bitnet_cpp.h"
    exit 1
}

mkdir "$work/mine"
cp -r "$source/plugins/null.c" "$source/plugins/template" "$work/mine"
cd "$work/mine"
strict="-Wall -Wextra -Wpedantic -Werror"
# shellcheck disable=SC2086  # a list of words
{
    $cc $strict -shared -fPIC -I"$include" null.c -o libmynull.so
    $cxx $strict -std=c++17 -shared -fPIC -I"$include" template/absmax.cpp -o libabsmax.so
    $cc $strict -I"$include" "$source/tests/plugins/template_client.c" -L"$library" -Wl,-rpath,"$library" -lbitnet \
        -o client
}
"$cmake" -S template -B made -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx" >/dev/null
"$cmake" --build made >/dev/null

# expect TEXT PLUGINS: the client's output has a line that matches TEXT when BITNET_TRACE_PLUGIN is PLUGINS.
expect() {
    output=$(BITNET_TRACE_PLUGIN="$2" ./client "$model")
    printf '%s\n' "$output" | grep -q "$1" || {
        echo "BITNET_TRACE_PLUGIN='$2': no line like '$1' in: $output"
        exit 1
    }
}
# 4 rows each of 18 stages in 3 layers and of 3 stages of no layer; attn_scores_softmax, whose rows grow, comes row
# by row.
counted="^3 sink 'null': 66 tensor events, 228 rows\$"
largest="^3 sink 'absmax': ffn_out: [0-9.]* at position [0-3], layer [0-2], of 12 rows\$"
expect "$counted" ./libmynull.so
expect "$largest" ./libabsmax.so:stage=ffn_out
expect "$counted" ./made/libnull.so
expect "$largest" "$work/mine/made/libabsmax.so:stage=ffn_out"
export BITNET_PLUGIN_PATH="/no/such/folder:$work/mine"
expect "$counted" "mynull;absmax"
expect "$largest" "mynull;absmax:stage=ffn_out"
expect "^1 plugin 'absmax': open failed: unknown configuration, expected stage=NAME\$" absmax:colour=blue
unset BITNET_PLUGIN_PATH
expect "$counted" null # the one that was installed
expect "^1 plugin 'mynull': no libmynull.so in BITNET_PLUGIN_PATH '' nor in " mynull
echo "6 builds, 9 loads"
