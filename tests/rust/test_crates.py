#!/usr/bin/env python3
"""The Rust crates of abi/rust, against the library of a build: test_crates.py BUILD [unittest options]

Everything runs with the oldest toolchain that the crates promise (Debian 12's, /usr/bin/cargo); where another cargo is first on
PATH, that one checks and documents them too. No network is used.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
CRATES = SOURCE / "abi/rust"
SMALL = SOURCE / "tests/data/small.gguf"
DEMO = SOURCE / "scripts/demo_model/demo.gguf"
GENERATE = CRATES / "bitnet-sys/generate.py"
BUILD = None  # of CMake
OLDEST = (1, 63)


def toolchains():
    """(name, environment) of the oldest cargo, and of the one on PATH when it is another."""
    found = []
    for folder in ("/usr/bin", None):
        path = os.pathsep.join(([folder] if folder else []) + [os.environ["PATH"]])
        cargo, rustc = shutil.which("cargo", path=path), shutil.which("rustc", path=path)
        if cargo and rustc and cargo not in [known for known, _ in found]:
            found.append((cargo, {"PATH": path, "RUSTC": rustc, "RUSTDOC": shutil.which("rustdoc", path=path)}))
    return found


def run(*command, code=0, env=None, cwd=CRATES):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd, env=env, timeout=500)
    if result.returncode != code:
        raise AssertionError(f"{' '.join(map(str, command))}: exit status {result.returncode}, expected {code}\n"
                             f"{result.stdout[-4000:]}\n{result.stderr[-4000:]}")
    return result.stdout + result.stderr


class Crates(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.library = BUILD / "lib"
        cls.bitnet = BUILD / "bin/bitnet"
        cls.oldest, cls.oldest_environment = toolchains()[0]
        cls.scratch = tempfile.TemporaryDirectory(prefix="bitnet-rust-")
        cls.folder = Path(cls.scratch.name)

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def environment(self, toolchain, name="rust", linked=True, **more):
        env = {key: value for key, value in os.environ.items() if not key.startswith(("BITNET_", "CARGO_", "RUST", "LD_"))}
        env |= toolchain | {"CARGO_TARGET_DIR": str(BUILD / name), "CARGO_NET_OFFLINE": "true", "CARGO_INCREMENTAL": "0",
                            "CARGO_PROFILE_DEV_DEBUG": "0", "CARGO_TERM_COLOR": "never"}
        if linked:
            env["BITNET_LIB_DIR"] = str(self.library)  # the crates' own programs have a run path
        return env | more

    def passed(self, output):
        results = re.findall(r"^test result: ok\. (\d+) passed; 0 failed; 0 ignored", output, flags=re.M)
        return sum(map(int, results))

    def test_a_toolchain_is_the_oldest(self):
        version = run(self.oldest_environment["RUSTC"], "--version").split()[1]
        self.assertEqual(tuple(map(int, version.split(".")[:2])), OLDEST, "install Debian's rustc: scripts/setup.sh tests")
        for crate in ("bitnet", "bitnet-sys"):
            self.assertIn(f'rust-version = "{OLDEST[0]}.{OLDEST[1]}"', (CRATES / crate / "Cargo.toml").read_text())

    def test_bindings_are_the_headers(self):
        self.assertIn("as checked in", run("python3", GENERATE, "--check"))
        header = (SOURCE / "include/bitnet_c.h").read_text()
        changed = self.folder / "changed.h"
        for before, after in [("int32_t n_batch;", "int64_t n_batch;"), ("#define BITNET_E_IO ((bitnet_status_t)-3)",
                              "#define BITNET_E_IO ((bitnet_status_t)-4)"), ("bitnet_version(void)", "bitnet_release(void)")]:
            self.assertIn(before, header)
            changed.write_text(header.replace(before, after, 1))
            self.assertIn("is not what", run("python3", GENERATE, "--check", "--header", changed, code=1))
        changed.write_text(header.replace("#define BITNET_KV_F32 1u", "#define BITNET_KV_F32 (1u + 0u)"))
        self.assertIn("BITNET_KV_F32 is defined as", run("python3", GENERATE, "--check", "--header", changed, code=2))

    def test_tests_pass_linked(self):
        env = self.environment(self.oldest_environment)
        output = run(self.oldest, "test", "--locked", "--workspace", env=env)
        layouts = (CRATES / "bitnet-sys/src/bindings.rs").read_text().count("fn bindgen_test_layout_")
        self.assertGreaterEqual(layouts, 30)
        self.assertEqual(output.count("test bindings::bindgen_test_layout_"), layouts)
        self.assertEqual(output.count("- compile fail ... ok"), 3, output)
        self.assertGreaterEqual(self.passed(output), layouts + 40, output)
        self.examples(Path(env["CARGO_TARGET_DIR"]) / "debug/examples")

    def examples(self, programs):
        logits, silu = self.folder / "logits.f32", ["--as", "activation=silu"]
        crossval = [programs / "crossval", DEMO, "--prompt", "12+30="]
        env = self.environment({})
        self.assertRegex(run(*crossval, *silu, "--save", logits, code=1, env=env), r"diverged: \d of \d positions, first at \d")
        self.assertIn("match: 7 positions, least cosine 1.0", run(*crossval, "--candidate", logits, env=env))
        array = self.folder / "logits.npy"  # numpy's format, version 1.0
        shape = f"{{'descr': '<f4', 'fortran_order': False, 'shape': (7, {len(logits.read_bytes()) // 28}), }}"
        array.write_bytes(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + shape.ljust(117).encode() + b"\n"
                          + logits.read_bytes())
        self.assertIn("match: 7 positions", run(*crossval, "--candidate", array, env=env))
        array.write_bytes(array.read_bytes().replace(b"<f4", b"<f8"))
        self.assertIn("expected '<f4' in C order", run(*crossval, "--candidate", array, code=2, env=env))
        array.write_bytes(array.read_bytes()[:9])
        self.assertIn("ends in its header", run(*crossval, "--candidate", array, code=2, env=env))
        logits.write_bytes(logits.read_bytes()[4:])
        self.assertIn("expected 7 rows", run(*crossval, "--candidate", logits, code=2, env=env))
        for wrong in (["--as"], silu + ["--limits", "none"], ["--candidate", "/nonexistent"], ["--as", "activation=tanh"], []):
            self.assertIn("crossval: ", run(*crossval, *wrong, code=2, env=env))

        output = run(programs / "trace", DEMO, "12+30=", "*:*:ffn_act", env=env)
        self.assertRegex(output, r"ffn_act +\d+\.\d+ +\d +\d\n")
        self.assertIn("trace: ", run(programs / "trace", DEMO, "12+30=", "nothing", code=2, env=env))

        ours, tokens = self.folder / "ours.jsonl", "11,48,85"
        run(self.bitnet, "trace", "-m", SMALL, "--tokens", tokens, "--select", "embeddings,0:attn_norm", "-o", ours)
        for index, code, verdict in ([], 0, "6 compared: 6 equal"), (["77"], 1, "token 2, layer 0, attn_norm"):
            theirs = self.folder / "theirs.jsonl"
            emitting = env | {"BITNET_TRACE_PLUGIN": f"jsonl:path={theirs}"}
            self.assertIn("events", run(programs / "engine", SMALL, tokens, *index, env=emitting))
            self.assertIn(verdict, run(self.bitnet, "diff", "--tolerance", "exact", ours, theirs, code=code))
        self.assertIn("engine: ", run(programs / "engine", SMALL, "11,x", code=2, env=env))

    def test_tests_pass_with_the_library_loaded_at_run_time(self):
        for name, version in ("old", 9), ("partial", 1 << 16):
            (self.folder / f"{name}.c").write_text(f"unsigned bitnet_abi_version(void) {{ return {version}; }}\n")
            run("cc", "-shared", "-o", self.folder / f"{name}.so", self.folder / f"{name}.c")
        library = self.library / "libbitnet.so.1"
        env = self.environment(self.oldest_environment, "rust-loading", linked=False, BITNET_LIBRARY=str(library),
                               BITNET_TEST_LIBRARY=str(library), BITNET_TEST_OLD_LIBRARY=str(self.folder / "old.so"),
                               BITNET_TEST_PARTIAL_LIBRARY=str(self.folder / "partial.so"))
        cargo = [self.oldest, "test", "--locked", "--features", "bitnet/runtime-loading"]
        output = run(*cargo, "-p", "bitnet-sys", "-p", "bitnet", "--test", "loading", "--test", "engine", env=env)
        self.assertEqual(self.passed(output), 9, output)
        for program in re.findall(r"Running .*\((.*)\)", output):
            self.assertNotIn("libbitnet", run("readelf", "-d", program))
        # The same crate without a library fails with one clear line.
        env["BITNET_LIBRARY"] = "/nonexistent/libbitnet.so"
        output = run(*cargo, "-p", "bitnet", "--test", "engine", "--", "a_model_says_what_it_is", code=101, env=env)
        self.assertIn("/nonexistent/libbitnet.so: cannot open shared object file", output)

    def build_script(self):
        script = self.folder / "build-script"
        if not script.exists():
            run(self.oldest_environment["RUSTC"], "--edition", "2021", CRATES / "bitnet-sys/build.rs", "-o", script,
                env=self.environment(self.oldest_environment))
        return script

    def test_the_library_is_found_or_the_message_says_how(self):
        script = self.build_script()

        def probe(code, **variables):
            env = {"PATH": os.environ["PATH"]} | {name: str(value) for name, value in variables.items()}
            return run(script, code=code, env=env)

        out = probe(0, BITNET_LIB_DIR=self.library)
        for line in (f"rustc-link-search=native={self.library}", "rustc-link-lib=dylib=bitnet", f"lib_dir={self.library}"):
            self.assertIn(f"cargo:{line}\n", out)
        self.assertIn("expected a folder with libbitnet.so", probe(1, BITNET_LIB_DIR=self.folder))
        empty = self.folder / "empty"
        empty.mkdir()
        for variables in {"PKG_CONFIG_LIBDIR": empty}, {"PKG_CONFIG": "/nonexistent/pkg-config"}:
            out = probe(1, **variables)
            self.assertRegex(out, r"no libbitnet: BITNET_LIB_DIR is not set and .*: expected a folder")
            self.assertEqual(out.count("bitnet-sys: "), 1)
        pc = "prefix=/a/prefix\nName: bitnet\nDescription: d\nVersion: {}\nLibs: -L${{prefix}}/lib -lbitnet\n"
        (empty / "bitnet.pc").write_text(pc.format("0.1.0"))
        out = probe(0, PKG_CONFIG_LIBDIR=empty)
        self.assertIn("cargo:rustc-link-search=native=/a/prefix/lib", out)
        self.assertIn("cargo:rustc-link-lib=bitnet", out)
        (empty / "bitnet.pc").write_text(pc.format("0.0.9"))
        self.assertIn("0.0.9", probe(1, PKG_CONFIG_LIBDIR=empty))
        out = probe(0, CARGO_FEATURE_RUNTIME_LOADING="1", PKG_CONFIG_LIBDIR=empty)
        self.assertNotIn("rustc-link", out)

    def test_documentation_and_lints(self):
        for cargo, toolchain in toolchains():
            env = self.environment(toolchain, "rust-" + Path(cargo).parent.parent.name.strip("."), RUSTDOCFLAGS="-Dwarnings")
            for features in [], ["--features", "bitnet/runtime-loading"]:
                run(cargo, "doc", "--locked", "--workspace", "--no-deps", *features, env=env)
                if Path(cargo).with_name("cargo-clippy").exists():
                    targets = ["--lib"] if features else ["--all-targets"]
                    run(cargo, "clippy", "--locked", "--workspace", *targets, *features, "--", "-Dwarnings", env=env)
        written = [path for path in sorted(CRATES.glob("bitnet*/**/*.rs")) if path.name not in ("bindings.rs", "functions.rs")]
        self.assertGreater(len(written), 20)
        run("/usr/bin/rustfmt", "--check", "--edition", "2021", "--config-path", CRATES, *written,
            SOURCE / "tests/rust/standalone.rs")

    def test_the_lock_file_names_no_registry(self):
        # Neither crate needs one from elsewhere: nothing to fetch, and no machine's registry to leak.
        self.assertNotIn("source", (CRATES / "Cargo.lock").read_text())

    def test_a_program_from_bindgen_over_the_installed_header(self):
        prefix = self.folder / "prefix"
        run("cmake", "--install", BUILD, "--prefix", prefix)
        library = next(prefix.glob("lib*/**/libbitnet.so")).parent
        # As the build script of bitnet-sys finds it there.
        installed = {"PATH": os.environ["PATH"], "PKG_CONFIG_PATH": str(library / "pkgconfig")}
        found = run(self.build_script(), env=installed)
        self.assertIn("cargo:rustc-link-lib=bitnet\n", found)
        self.assertEqual(Path(re.search("^cargo:lib_dir=(.*)$", found, flags=re.M)[1]).resolve(), library.resolve())
        bindings, program = self.folder / "plain.rs", self.folder / "standalone"
        run("bindgen", prefix / "include/bitnet_c.h", "-o", bindings)
        env = self.environment(self.oldest_environment, BINDINGS=str(bindings))
        run(env["RUSTC"], "--edition", "2021", SOURCE / "tests/rust/standalone.rs", "-o", program, "-L", library, "-l", "bitnet",
            env=env)
        for model, text in (SMALL, "some words"), (DEMO, "12+30="), (SMALL, "caf\u00e9 \u2603"):
            ids, logits = self.folder / "ids", self.folder / "logits"
            run(program, model, text, ids, logits, env={"LD_LIBRARY_PATH": str(library)})
            self.assertEqual(ids.read_text(), run(self.bitnet, "tokenize", "-m", model, "-p", text).strip())
            trace = self.folder / "trace.jsonl"
            run(self.bitnet, "trace", "-m", model, "-p", text, "--select", "logits", "-o", trace)
            records = [json.loads(line) for line in trace.read_text().splitlines()]
            rows = sorted((r["seq"], r["num_elements"], r["blake3"]) for r in records if r["record"] == "tensor")
            self.assertEqual([seq for seq, _, _ in rows], list(range(len(ids.read_text().split()))))
            values, offset = logits.read_bytes(), 0
            for _, n, expected in rows:
                row = values[offset:offset + 4 * n]
                found = subprocess.run(["b3sum", "--no-names"], input=row, capture_output=True, check=True).stdout.decode().strip()
                self.assertEqual(found, expected)
                offset += 4 * n
            self.assertEqual(offset, len(values))
        self.assertIn("standalone: ", run(program, "/nonexistent", "x", ids, logits, code=2,
                                          env={"LD_LIBRARY_PATH": str(library)}))


if __name__ == "__main__":
    BUILD = Path(sys.argv.pop(1)).resolve()
    unittest.main()
