#!/usr/bin/env python3
"""The prefix for BITNET_CPP_DIR, used as BitNet-rs's build scripts use it: installed, searched, everything in build/bin linked into
a Rust program, whose tokens and logits by each interface must be the program's `bitnet`, bit for bit.

Usage: drop_in_test.py CMAKE BUILD_DIR BITNET MODEL RUSTC
"""
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PROMPT, N_NEW = "Hello, world: 2+2=", 6
INTERFACES = ["bitnet-sys", "crossval", "context", "llama"]


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def check(condition, text):
    if not condition:
        sys.exit(text)


def libraries_as_crossval_finds_them(folder):
    """Every file that its build script links: libbitnet*, libllama*, libggml* with the extension so, dylib or a."""
    return sorted(f.stem for f in folder.iterdir() if f.suffix in (".so", ".dylib", ".a")
                  and f.stem.startswith(("libbitnet", "libllama", "libggml")))


def check_layout(prefix):
    bin_folder = prefix / "build/bin"
    found = libraries_as_crossval_finds_them(bin_folder)
    check(found == ["libbitnet", "libggml", "libllama"], f"{bin_folder}: build scripts would link {found}")
    files = sorted(p.relative_to(prefix).as_posix() for p in prefix.rglob("*") if not p.is_dir())
    plugins = [f for f in files if f.startswith("build/bin/bitnet/plugins/")]
    check(len(plugins) >= 5, f"plugins: {plugins}")
    rest = [f for f in files if f not in plugins]
    expected = ["build/bin/libbitnet.so", "build/bin/libbitnet.so.1", "build/bin/libbitnet.so.1.0", "build/bin/libggml.so",
                "build/bin/libllama.so", "include/llama.h"]
    check(rest == expected, f"the prefix holds {rest}")
    # No folder that its scripts search holds anything else, and a ggml-bitnet.h would make bitnet-kernels look for more.
    for folder in ("build", "build/lib", "build/3rdparty/llama.cpp/build/bin", "build/3rdparty/llama.cpp/src", "lib"):
        check(not (prefix / folder).is_dir() or not libraries_as_crossval_finds_them(prefix / folder), folder)
    for plugin in plugins:
        check(not Path(plugin).name.startswith(("libbitnet", "libllama", "libggml")), plugin)


def check_exports(prefix):
    """libllama.so exports what llama.h declares, and the old llama_batch_get_one under its own name."""
    text = re.sub(r"/\*.*?\*/", "", (prefix / "include/llama.h").read_text(), flags=re.S)
    declared = set(re.findall(r"^LLAMA_API[^;#]*?\b(llama_\w+)\s*\(", text, flags=re.M)) | {"llama_batch_get_one_at"}
    out = run("nm", "-D", "--defined-only", prefix / "build/bin/libllama.so")
    exported = {line.split()[2].split("@")[0] for line in out.splitlines()}
    check(declared == exported, f"llama.h and libllama.so differ in {sorted(declared ^ exported)}")
    check(len(exported) > 30, f"libllama.so exports {len(exported)} symbols: did the pattern break?")


def compile_client(rustc, prefix, work):
    bin_folder = prefix / "build/bin"
    flags = ["-L", f"native={bin_folder}", "-C", f"link-arg=-Wl,-rpath,{bin_folder}", "-l", "dylib=stdc++"]
    for library in libraries_as_crossval_finds_them(bin_folder):
        flags += ["-l", f"dylib={library[3:]}"]
    run(rustc, "--edition", "2018", "-D", "warnings", "-A", "dead_code", "-o", work / "client",
        Path(__file__).with_name("client.rs"), *flags)


def check_results(bitnet, model, work, environment):
    lines = [line.split() for line in run(work / "client", model, PROMPT, N_NEW, work, env=environment).splitlines()]
    check([line[0] for line in lines] == INTERFACES, f"interfaces: {lines}")
    tokens = ",".join(run(bitnet, "tokenize", "-m", model, "-p", PROMPT).split())
    made = json.loads(run(bitnet, "run", "-m", model, "-p", PROMPT, "-n", N_NEW, "--json"))["tokens"]
    made = ",".join(map(str, made))
    trace = work / "cli.jsonl"
    run(bitnet, "trace", "-m", model, "-p", PROMPT, "--select", "logits", "-o", trace)
    records = [json.loads(line) for line in trace.read_text().splitlines()]
    expected = [r["blake3"] for r in records if r["record"] == "tensor"]
    n_vocab = next(r["num_elements"] for r in records if r["record"] == "tensor")
    check(len(expected) == tokens.count(",") + 1, "the trace has not a row for each token")
    for name, got_tokens, got_made in lines:
        check(got_tokens == tokens, f"{name}: tokens {got_tokens}: expected {tokens}")
        check(got_made == made, f"{name}: continues with {got_made}: expected {made}")
        raw = (work / f"{name}.f32").read_bytes()
        check(len(raw) == 4 * n_vocab * len(expected), f"{name}: {len(raw)} bytes of logits")
        for i, digest in enumerate(expected):
            row = raw[4 * n_vocab * i:4 * n_vocab * (i + 1)]
            got = blake3(row)
            check(got == digest, f"{name}: row {i} has BLAKE3 {got}: expected {digest}")
    print(f"{len(expected)} rows of {n_vocab} logits by {len(lines)} interfaces: the bits of `bitnet trace`; tokens and {N_NEW} "
          "new tokens equal")


def blake3(data):
    done = subprocess.run(["b3sum", "--no-names"], input=data, capture_output=True, check=True)
    return done.stdout.decode().strip()


def check_plugins(model, work, environment):
    """Both libraries find the plugins beside them with no path given."""
    for interface in ("bitnet-sys", "llama"):  # of libbitnet.so, of libllama.so
        trace = work / f"{interface}.jsonl"
        traced = dict(environment, BITNET_TRACE_PLUGIN=f"jsonl:path={trace}", BITNET_TRACE_SELECT="0:*:logits")
        run(work / "client", model, "a", 1, work, interface, env=traced)
        records = [json.loads(line)["record"] for line in trace.read_text().splitlines()]
        check("tensor" in records and records[-1] == "run_end", f"{interface}: traced {records}")


def main():
    cmake, build, bitnet, model, rustc = sys.argv[1:]
    if rustc.endswith("NOTFOUND"):
        sys.exit("no rustc was found: expected Rust's or Debian's, which scripts/setup.sh tests installs")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("BITNET_", "LD_"))}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prefix = work / "prefix"
        run(cmake, "--install", build, "--component", "bitnet-cpp", "--prefix", prefix)
        check_layout(prefix)
        check_exports(prefix)
        compile_client(rustc, prefix, work)
        check_results(bitnet, model, work, environment)
        check_plugins(model, work, environment)


main()
