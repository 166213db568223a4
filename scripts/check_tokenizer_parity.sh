#!/bin/sh
# Compares token ids: `bitnet tokenize` on a model against any command that reads a text on its standard input and prints ids.
#
#   check_tokenizer_parity.sh [-m MODEL] (-p TEXT | --battery FILE) [--parse-special] [--no-bos] -- COMMAND [ARGUMENT]...
#
# --battery: one text a line, or JSONL with "text" or "prompt" when the first line begins with '{'; '-' is standard input. MODEL
# is any GGUF file with a vocabulary (default: the demo model). The command's ids may stand between spaces, commas, brackets
# or line ends, and nothing else may. BITNET: the program, default build/release/bin/bitnet.
# Exit codes: 0 every text has the same ids on both sides, 1 some differ, 2 error (also: a command failed, no text at all).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
bitnet=${BITNET:-$root/build/release/bin/bitnet}
stop() { echo "check_tokenizer_parity: $1" >&2; exit 2; }
python=$(command -v python3) || stop "no python3"
unset BITNET_TRACE_PLUGIN BITNET_TRACE_SELECT BITNET_TRACE_DIR || true

model='' text='' battery='' options=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d'; exit 0 ;;
        --) shift; break ;;
        --parse-special | --no-bos) options="$options $1"; shift ;;
        -m | -p | --battery)
            [ $# -gt 1 ] || stop "$1: a value is missing"
            case $1 in
                -m) model=$2 ;;
                -p) text=$2 text_given=1 ;;
                --battery) battery=$2 ;;
            esac
            shift 2 ;;
        *) stop "found '$1', expected an option or -- COMMAND (--help lists them)" ;;
    esac
done
[ $# -gt 0 ] || stop "no command: give it after --"
[ -x "$bitnet" ] || stop "no $bitnet: run scripts/build.sh release first, or set BITNET"
if [ -n "$battery" ]; then
    [ -z "${text_given:-}" ] || stop "-p and --battery: one of them"
else
    [ -n "${text_given:-}" ] || stop "no text: give -p TEXT or --battery FILE"
fi

folder=$(mktemp -d) || stop "no temporary folder"
trap 'rm -rf "$folder"' EXIT
# One file for each text: any bytes may be in it.
if [ -n "$battery" ]; then
    name=$battery
    if [ "$battery" = - ]; then cat >"$folder/battery"; battery="$folder/battery" name='standard input'; fi
    "$python" - "$battery" "$folder" "$name" <<'END' || exit 2
import json, sys
from pathlib import Path
try:
    lines = [line.removesuffix(b"\r") for line in Path(sys.argv[1]).read_bytes().split(b"\n")]
    texts = [line for line in lines if line]
    if texts and texts[0].startswith(b"{"):
        objects = [json.loads(line) for line in texts]
        texts = [item["text" if "text" in item else "prompt"].encode() for item in objects]
    for i, text in enumerate(texts):
        Path(sys.argv[2], f"{i:06}.text").write_bytes(text)
    if not texts:
        raise ValueError("no text in it: one a line is expected")
except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    print(f"check_tokenizer_parity: {sys.argv[3]}: {error}", file=sys.stderr)
    sys.exit(2)
END
else
    printf '%s' "$text" >"$folder/000000.text"
fi

# The ids of a file, one a line; fails on anything else.
ids_of() { tr -s ' \t\r\n,[]' '\n' <"$1" | sed '/^$/d' >"$2" && ! grep -qv '^[0-9][0-9]*$' "$2"; }

n=0 n_different=0 n_failed=0
for file in "$folder"/*.text; do
    number=$n
    n=$((n + 1))
    # shellcheck disable=SC2086  # a list of words
    "$bitnet" tokenize ${model:+-m "$model"} $options -f "$file" >"$folder/raw" || exit 2
    ids_of "$folder/raw" "$folder/ours" || stop "bitnet tokenize printed no ids"
    if ! "$@" <"$file" >"$folder/raw"; then
        echo "check_tokenizer_parity: text $number: the command failed" >&2
        n_failed=$((n_failed + 1))
    elif ! ids_of "$folder/raw" "$folder/theirs"; then
        echo "check_tokenizer_parity: text $number: the command printed something that is no id" >&2
        n_failed=$((n_failed + 1))
    elif ! cmp -s "$folder/ours" "$folder/theirs"; then
        n_different=$((n_different + 1))
        at=$(paste -d ' ' "$folder/ours" "$folder/theirs" | awk '$1 != $2 || NF != 2 { print NR - 1; exit }')
        line() { sed -n "$((at + 1))p" "$1" | grep . || echo none; }
        echo "text $number: position $at: ours $(line "$folder/ours"), theirs $(line "$folder/theirs")"
        echo "  ours   $(tr '\n' ' ' <"$folder/ours")"
        echo "  theirs $(tr '\n' ' ' <"$folder/theirs")"
    fi
done
echo "$n texts: $((n - n_different - n_failed)) equal, $n_different different, $n_failed failed"
[ "$n_failed" -eq 0 ] || exit 2
[ "$n_different" -eq 0 ] || exit 1
