#!/usr/bin/env python3
"""What is installed, from outside: python3 test_package.py BUILD_DIR CMAKE [--clean-root-tools] [unittest options]

A prefix that was moved after it was installed, the examples built against it in four ways, the manual page and the
completions, the Debian packages and what a fresh Debian makes of them. With --clean-root-tools the fresh Debian gets a
compiler, CMake, pkg-config and man too, and the examples are built there (a minute more).
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

BUILD, CMAKE = Path(sys.argv[1]).resolve(), sys.argv[2]
ROOT_TOOLS = "--clean-root-tools" in sys.argv
SOURCE = Path(__file__).resolve().parents[2]
DEMO = SOURCE / "scripts/demo_model/demo.gguf"
PROMPT = "2+2="
COMPONENTS = ("runtime", "development", "tools")


def run(*command, cwd=None, env=None, ok=(0,)):
    # Nothing of the caller's environment decides which library or plugin is found.
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("BITNET_", "LD_", "CMAKE_", "PKG_CONFIG"))}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=clean | (env or {}), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, errors="replace")
    if done.returncode not in ok:
        raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def records(trace):
    lines = [json.loads(line) for line in Path(trace).read_text().splitlines()]
    return [line for line in lines if "stage" in line]


class Installed(unittest.TestCase):
    """A prefix, installed in one place and used in another."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="bitnet package ")
        cls.work = Path(cls.folder.name)
        first = cls.work / "first"
        for component in COMPONENTS:
            run(CMAKE, "--install", BUILD, "--prefix", first, "--component", component)
        cls.prefix = cls.work / "moved"
        first.rename(cls.prefix)
        cls.bitnet = cls.prefix / "bin/bitnet"
        cls.lib = next(cls.prefix.rglob("libbitnet.so.1")).parent
        cls.trace = cls.work / "ours.jsonl"
        run(cls.bitnet, "trace", "-m", DEMO, "-p", PROMPT, "-o", cls.trace, cwd=cls.work)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def expected_logits(self):
        last = [r for r in records(self.trace) if r["stage"] == "logits"][-1]
        return f"token {last['argmax']}, logit {last['max']:.9g}: 4\n"

    def pkg_config(self, *options):
        return run("pkg-config", *options, "bitnet", env={"PKG_CONFIG_PATH": str(self.lib / "pkgconfig")})

    def flags(self, *options):
        # pkg-config escapes the blanks of a path for a shell.
        import shlex
        return shlex.split(self.pkg_config(*options))

    def test_nothing_names_the_place_where_it_was_installed_or_built(self):
        for path in self.prefix.rglob("*"):
            if path.suffix in (".cmake", ".pc"):
                self.assertNotIn(str(self.work / "first"), path.read_text(), path)
                self.assertNotIn(str(BUILD), path.read_text(), path)

    def test_the_plugins_are_found_with_no_variable_set(self):
        self.assertEqual([r["stage"] for r in records(self.trace)][-1], "logits")

    def test_examples_with_pkg_config(self):
        self.assertEqual(self.pkg_config("--modversion").strip(), run(self.bitnet, "--version").split()[1])
        flags = self.flags("--cflags", "--libs")
        out = {}
        for name in ("logits", "sink"):
            run("cc", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", SOURCE / f"abi/examples/{name}.c", *flags, "-o", self.work / name)
            out[name] = run(self.work / name, DEMO, PROMPT, env={"LD_LIBRARY_PATH": str(self.lib)})
        self.assertEqual(out["logits"], self.expected_logits())
        expected = [f"position {r['seq']} layer {r['layer']} layer_out rms {r['rms']:.9g}" for r in records(self.trace)
                    if r["stage"] == "layer_out"]
        self.assertGreater(len(expected), 4)
        self.assertEqual(sorted(out["sink"].splitlines()), sorted(expected))

    def test_example_plugin(self):
        plugin = self.work / "libnonfinite.so"
        run("cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", SOURCE / "abi/examples/plugin.c", *self.flags("--cflags"), "-o", plugin)
        found = self.work / "found.txt"
        run(self.bitnet, "run", "-m", DEMO, "--tokens", "1,2,3", "-n", "1",
            env={"BITNET_TRACE_PLUGIN": f"{plugin}:path={found}"})
        self.assertRegex(found.read_text(), r"^0 of [1-9][0-9]* rows hold a NaN or an infinity\n$")

    def test_examples_with_cmake_shared_and_static(self):
        build = self.work / "build"
        run(CMAKE, "-S", SOURCE / "abi/examples", "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}")
        run(CMAKE, "--build", build)
        self.assertEqual(run(build / "logits", DEMO, PROMPT), self.expected_logits())
        self.assertEqual(run(build / "logits_static", DEMO, PROMPT), self.expected_logits())
        self.assertNotIn("libbitnet", run("ldd", build / "logits_static"))
        self.assertTrue((build / "libnonfinite.so").exists())

    def test_static_library_takes_no_name_of_the_program(self):
        defined = [line.split() for line in run("nm", "-g", "--defined-only", self.lib / "libbitnet.a").splitlines()]
        names = {fields[2] for fields in defined if len(fields) == 3 and fields[1] in "TDBRC"}
        shared = {line.split()[2].split("@")[0] for line in run("nm", "-D", "--defined-only", self.lib / "libbitnet.so").splitlines()
                  if line.split()[1] != "A"}
        self.assertEqual(names, shared)

    def test_another_major_version_is_refused(self):
        (self.work / "other").mkdir()
        (self.work / "other/CMakeLists.txt").write_text("cmake_minimum_required(VERSION 3.16)\nproject(p C CXX)\nfind_package(bitnet 7 REQUIRED)\n")
        with self.assertRaisesRegex(AssertionError, r"compatible\s+with requested version"):
            run(CMAKE, "-S", self.work / "other", "-B", self.work / "other/build", f"-DCMAKE_PREFIX_PATH={self.prefix}")

    def test_manual_page_names_every_command_and_option(self):
        page = next(self.prefix.rglob("bitnet.1"))
        text = subprocess.run(["groff", "-man", "-Tascii", "-P-cbou", "-ww", page], capture_output=True, text=True)
        self.assertEqual(text.stderr, "")
        commands = re.findall(r"^  ([a-z-]+) {2,}", run(self.bitnet, "--help").split("Subcommands:")[1].split("\n\n")[0], re.M)
        self.assertGreater(len(commands), 9)
        page_words = set(re.findall(r"--[a-z0-9-]+", text.stdout.replace("\n", " ")))
        for command in commands:
            self.assertIn(f"bitnet {command}\n", text.stdout)
            for option in re.findall(r"^  (?:-\w,)?(--[a-z0-9-]+)", run(self.bitnet, command, "--help"), re.M):
                if option != "--help":
                    self.assertIn(option, page_words, command)

    def test_completions(self):
        folder = self.prefix / "share"
        bash = folder / "bash-completion/completions/bitnet"
        script = f"source '{bash}'; COMP_WORDS=(bitnet diff --to); COMP_CWORD=2; _bitnet; echo ${{COMPREPLY[@]}}; " \
                 "COMP_WORDS=(bitnet cr); COMP_CWORD=1; _bitnet; echo ${COMPREPLY[@]}; " \
                 "COMP_WORDS=(bitnet diff --tolerance -); COMP_CWORD=3; _bitnet; echo ${COMPREPLY[@]}"
        self.assertEqual(run("bash", "-c", script), "--tolerance\ncrossval\n\n")
        run("zsh", "-n", folder / "zsh/vendor-completions/_bitnet")
        fish = f"source '{folder}/fish/vendor_completions.d/bitnet.fish'; complete -C 'bitnet diff --tol'; complete -C 'bitnet cross'"
        self.assertEqual([line.split("\t")[0] for line in run("fish", "-c", fish, env={"HOME": str(self.work)}).splitlines()],
                         ["--tolerance", "crossval"])


class Debian(unittest.TestCase):
    """The packages, and a fresh Debian that installs them."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="bitnet-deb-")
        cls.work = Path(cls.folder.name)
        run("cpack", "-G", "DEB", "--config", BUILD / "CPackConfig.cmake", cwd=cls.work)
        cls.debs = {path.name.split("_")[0]: path for path in cls.work.glob("*.deb")}

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def field(self, package, name):
        return run("dpkg-deb", "-f", self.debs[package], name).strip()

    def test_three_packages_that_need_each_other(self):
        self.assertEqual(set(self.debs), {"libbitnet1", "libbitnet-dev", "bitnet-tools"})
        version = self.field("libbitnet1", "Version")
        for package in ("libbitnet-dev", "bitnet-tools"):
            self.assertIn(f"libbitnet1 (= {version})", self.field(package, "Depends"))
        needs = {need.split()[0] for need in self.field("libbitnet1", "Depends").split(",")}
        self.assertEqual(needs, {"libc6", "libgcc-s1", "libstdc++6", "libpcre2-8-0"} | (
            {"libcpuinfo0"} if os.uname().machine == "x86_64" else set()))

    def test_no_file_lies_in_two_packages(self):
        seen = {}
        for package, deb in self.debs.items():
            for line in run("dpkg-deb", "-c", deb).splitlines():
                path = line.split()[5]
                if not path.endswith("/"):
                    self.assertNotIn(path, seen, package)
                    seen[path] = package
        self.assertGreater(len(seen), 20)

    def test_symbols_file_is_what_the_library_exports(self):
        run("dpkg-deb", "-e", self.debs["libbitnet1"], self.work / "control")
        run("dpkg-deb", "-x", self.debs["libbitnet1"], self.work / "unpacked")
        lines = (self.work / "control/symbols").read_text().splitlines()
        self.assertEqual(lines[0], "libbitnet.so.1 libbitnet1 #MINVER#")
        listed = {line.split()[0] for line in lines[1:]}
        so = next((self.work / "unpacked").rglob("libbitnet.so.1"))
        exported = set()
        for line in run("nm", "-D", "--defined-only", so).splitlines():
            name = line.split()[2].replace("@@", "@")
            exported.add(name if "@" in name else f"{name}@{name}")  # a version node names itself
        self.assertEqual(listed, exported)

    @unittest.skipUnless(os.geteuid() == 0 and shutil.which("mmdebstrap"), "a fresh Debian needs root and mmdebstrap")
    def test_in_a_fresh_debian(self):
        root = self.work / "root"
        wanted = self.debs if ROOT_TOOLS else ("libbitnet1", "bitnet-tools")
        # Their dependencies as the packages state them; dpkg then refuses them if one is missing.
        needs = {need.split()[0] for package in wanted for need in self.field(package, "Depends").split(",")} - set(self.debs)
        needs |= {"gcc", "g++", "libc6-dev", "pkgconf", "cmake", "make", "man-db"} if ROOT_TOOLS else set()
        run("mmdebstrap", "--quiet", "--variant=essential", "--include=" + ",".join(sorted(needs)), "bookworm", root)
        (root / "debs").mkdir()
        for package in wanted:
            shutil.copy(self.debs[package], root / "debs")

        def inside(*command):
            return run("chroot", root, "/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", *command)

        inside("sh", "-c", "dpkg -i /debs/*.deb")
        self.assertIn("bitnet " + self.field("libbitnet1", "Version"), inside("bitnet", "--version"))
        self.assertEqual(inside("bitnet", "run", "-p", PROMPT).strip(), "4")
        inside("bitnet", "trace", "-p", PROMPT, "-o", "/trace.jsonl")
        self.assertEqual(records(root / "trace.jsonl")[-1]["stage"], "logits")
        if ROOT_TOOLS:
            shutil.copy(DEMO, root / "demo.gguf")
            self.assertIn("BITNET_TRACE_PLUGIN", inside("man", "bitnet"))
            inside("sh", "-ec", "cc /usr/share/doc/libbitnet-dev/examples/logits.c $(pkg-config --cflags --libs bitnet) -o /logits")
            inside("cmake", "-S", "/usr/share/doc/libbitnet-dev/examples", "-B", "/build")
            inside("cmake", "--build", "/build")
            said = {inside(program, "/demo.gguf", PROMPT) for program in ("/logits", "/build/logits", "/build/logits_static")}
            self.assertEqual(len(said), 1)
            self.assertRegex(said.pop(), r"^token \d+, logit [0-9.]+: 4\n$")
        inside("dpkg", "--purge", *wanted)
        self.assertEqual(list(root.glob("usr/lib/*/*bitnet*")), [])


sys.argv = sys.argv[:1] + [a for a in sys.argv[3:] if a != "--clean-root-tools"]
unittest.main()
