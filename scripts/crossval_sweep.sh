#!/bin/sh
# Cross-validates models x prompts x token counts against another engine: one `bitnet crossval` for each cell, with nothing of
# the environment in it. May be killed at any time and started again: finished cells are not run again, failed ones are.
# Writes OUT/summary.md, OUT/summary.json and OUT/cells/*.json.
#
#   crossval_sweep.sh -o OUT -m MODEL [-m MODEL]... --prompts FILE --against SPEC [--tokens 0,4,16] [-j JOBS]
#                     [--snakemake "ARGUMENTS"] [-- OPTIONS OF BITNET CROSSVAL]
#
# SPEC as of bitnet crossval; {model}, {prompt} and {tokens} in it are the model's name without folder and suffix, the prompt's
# number and the number of tokens to decode. --snakemake runs the cells with Snakemake in place of JOBS processes here:
#   --snakemake "--cores 4"   --snakemake "--profile scripts/sweep/slurm"
# BITNET: the program, default build/release/bin/bitnet. SNAKEMAKE: default build/deps/sweep/bin/snakemake, else snakemake.
# Exit codes: 0 every cell matches, 1 some diverge, 2 some failed or are missing (errors win).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
sweep="$root/scripts/sweep/sweep.py"
stop() { echo "crossval_sweep: $1" >&2; exit 2; }
python=$(command -v python3) || stop "no python3"
bitnet=${BITNET:-$root/build/release/bin/bitnet}

out='' prompts='' against='' tokens=0 jobs=1 snakemake=''
models=$(mktemp) || stop "no temporary file"
trap 'rm -f "$models"' EXIT
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d'; exit 0 ;;
        --) shift; break ;;
        -o | -m | --prompts | --against | --tokens | -j | --snakemake)
            [ $# -gt 1 ] || stop "$1: a value is missing"
            case $1 in
                -o) out=$2 ;;
                -m) printf '%s\n' "$2" >>"$models" ;;
                --prompts) prompts=$2 ;;
                --against) against=$2 ;;
                --tokens) tokens=$2 ;;
                -j) jobs=$2 ;;
                --snakemake) snakemake=$2 ;;
            esac
            shift 2 ;;
        *) stop "found '$1', expected an option (--help lists them)" ;;
    esac
done
[ -n "$out" ] || stop "-o OUT is missing"
[ -s "$models" ] || stop "-m MODEL is missing"
[ -n "$prompts" ] || stop "--prompts FILE is missing"
[ -n "$against" ] || stop "--against SPEC is missing"
case $jobs in '' | *[!0-9]* | 0) stop "-j: found '$jobs', expected a number from 1" ;; esac

# The crossval options stay behind the models that are put in front of them.
set -- -- "$@"
while IFS= read -r model; do set -- --model "$model" "$@"; done <<END
$(tac "$models")
END
"$python" "$sweep" init "$out" --bitnet "$bitnet" --prompts "$prompts" --tokens "$tokens" --against "$against" "$@" || exit 2

# One sweep in a folder at a time. The kernel lets go of this lock when the last process of a killed sweep is gone; Snakemake's
# own lock and its list of unfinished cells outlive a kill -9, and a cell's file is whole or not there.
exec 9<"$out"
flock -n 9 || stop "$out: another sweep is running in it"

"$python" "$sweep" pending "$out" >"$out/pending" || exit 2
[ ! -s "$out/pending" ] || rm -f "$out/summary.json" "$out/summary.md"
echo "crossval_sweep: $(wc -l <"$out/pending") cells to run" >&2
if [ -n "$snakemake" ]; then
    program=${SNAKEMAKE:-$root/build/deps/sweep/bin/snakemake}
    [ -x "$program" ] || program=$(command -v snakemake) || stop "no snakemake: scripts/setup.sh tests installs it"
    # shellcheck disable=SC2086  # a list of words
    "$program" --snakefile "$root/scripts/sweep/Snakefile" --directory "$out" --config "out=$(cd "$out" && pwd)" --nolock \
        --rerun-incomplete $snakemake >&2 ||
        echo "crossval_sweep: snakemake ended with $?" >&2
else
    # A cell that cannot leave a result is missing in the summary: that is the error.
    xargs -r -P "$jobs" -n 1 "$python" "$sweep" cell "$out" <"$out/pending" || true
    "$python" "$sweep" summary "$out" || exit 2
fi
rm -f "$out/pending"
[ -f "$out/summary.json" ] || "$python" "$sweep" summary "$out" || exit 2
"$python" "$sweep" verdict "$out"
