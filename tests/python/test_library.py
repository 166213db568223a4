"""_library.py against the header: names, layouts as the C compiler lays them, constants; and how the library is found."""

import ast
import ctypes
import os
import re
import shutil
import subprocess
import sys

import pytest

import bitnet
from bitnet import _library, _loader
from conftest import ROOT, SMALL, python

HEADER = ROOT / "include" / "bitnet_c.h"
sys.path.insert(0, str(ROOT / "abi" / "python"))
import generate  # noqa: E402


def header_code():
    return re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)


def structs():
    return {
        name: kind
        for name, kind in vars(_library).items()
        if isinstance(kind, type) and issubclass(kind, ctypes.Structure) and kind is not ctypes.Structure
    }


def constants():
    return {name: value for name, value in vars(_library).items() if name.startswith("BITNET_")}


def test_is_what_the_generator_writes():
    assert (ROOT / "abi/python/bitnet/_library.py").read_text() == generate.generate(HEADER.read_text()), (
        "the header has changed: run abi/python/generate.py"
    )


def test_functions_are_those_of_the_header():
    names = set(re.findall(r"^BITNET_API\s[^;]*?\b(\w+)\(", header_code(), flags=re.MULTILINE))
    assert len(names) > 80
    assert set(_library.FUNCTIONS) == names


def test_structs_are_those_of_the_header():
    code = header_code()
    names = set(re.findall(r"^\}\s*(bitnet_\w+_t);", code, flags=re.MULTILINE))
    names |= {f"{name}_t" for name in re.findall(r"^struct (bitnet_\w+) \{", code, flags=re.MULTILINE)}
    assert len(names) > 30
    assert set(structs()) == names


def test_constants_are_those_of_the_header():
    names = set(re.findall(r"^#define (BITNET_\w+) ", header_code(), flags=re.MULTILINE)) - {"BITNET_API"}
    assert len(names) > 100
    assert set(constants()) == names


def test_layouts_and_constants_are_the_compilers(tmp_path):
    lines, expected = [], []
    for name, kind in structs().items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        expected.append(f"{name} {ctypes.sizeof(kind)}")
        for field, _ in kind._fields_:
            lines.append(
                f'printf("{name}.{field} %zu %zu\\n", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));'
            )
            at = getattr(kind, field)
            expected.append(f"{name}.{field} {at.offset} {at.size}")
    for name, value in constants().items():
        if isinstance(value, bytes):
            lines.append(f'printf("{name} %s\\n", {name});')
            expected.append(f"{name} {value.decode()}")
        else:
            lines.append(f'printf("{name} %lld\\n", (long long){name});')
            expected.append(f"{name} {value}")
    program = tmp_path / "layout.c"
    program.write_text(
        "#include <bitnet_c.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {\n"
        + "\n".join(lines)
        + "\nreturn 0; }\n"
    )
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    subprocess.run(
        [compiler, "-std=c11", f"-I{ROOT / 'include'}", str(program), "-o", str(tmp_path / "layout")], check=True
    )
    printed = (
        subprocess.run([str(tmp_path / "layout")], stdout=subprocess.PIPE, check=True).stdout.decode().splitlines()
    )
    assert printed == expected


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("typedef union { int32_t a; } bitnet_new_t;", "cannot read"),
        ("BITNET_API int32_t bitnet_new(unsigned long long x);", "unknown type"),
        ("#pragma pack(1)\n", "unknown directive"),
        ("#define BITNET_NEW sizeof(int)/2\n", "not a constant"),
    ],
)
def test_generator_refuses_what_it_does_not_know(text, complaint):
    with pytest.raises(SystemExit, match=complaint):
        generate.generate(text)


def test_library_is_the_one_that_was_asked_for():
    assert bitnet.library_path() == os.environ["BITNET_LIBRARY"]  # which ctest sets
    assert bitnet.abi_version == (_library.BITNET_ABI_MAJOR, _library.BITNET_ABI_MINOR)
    assert bitnet.__version__ == re.search(r"VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text()[30:])[1]


def failing_import(library):
    """The message of an import with another library."""
    done = subprocess.run(
        [sys.executable, "-c", "import bitnet"],
        stderr=subprocess.PIPE,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "abi/python"), "BITNET_LIBRARY": str(library)},
    )
    assert done.returncode == 1
    return done.stderr.decode().splitlines()[-1]


def fake_library(tmp_path, code):
    source, library = tmp_path / "fake.c", tmp_path / "fake.so"
    source.write_text(code)
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    return library


@pytest.mark.parametrize("version, found", [(0x20000, "2.0"), (0x00005, "0.5")])
def test_another_abi_is_refused(tmp_path, version, found):
    library = fake_library(tmp_path, f"unsigned bitnet_abi_version(void) {{ return {version}; }}")
    assert failing_import(library) == (
        f"ImportError: bitnet: '{library}' has ABI {found}: this package needs "
        f"1.{_library.BITNET_ABI_MINOR} or a later 1.x"
    )


def test_a_library_without_our_functions_is_refused(tmp_path):
    assert "has no bitnet_abi_version: not a libbitnet" in failing_import(fake_library(tmp_path, "int other;"))
    version = _library.BITNET_ABI_VERSION
    library = fake_library(tmp_path, f"unsigned bitnet_abi_version(void) {{ return {version}; }}")
    assert "but no bitnet_version: built from other sources?" in failing_import(library)


def test_a_library_that_is_not_there_is_named(tmp_path):
    message = failing_import(tmp_path / "none.so")
    assert message.startswith(
        f"ImportError: bitnet: BITNET_LIBRARY is '{tmp_path / 'none.so'}', which cannot be loaded"
    )


def test_without_the_variable_the_wheels_own_library_comes_first_then_the_build_trees(tmp_path):
    package = tmp_path / "abi" / "python" / "bitnet"
    shutil.copytree(ROOT / "abi/python/bitnet", package, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {name: value for name, value in os.environ.items() if name != "BITNET_LIBRARY"}
    environment["PYTHONPATH"] = str(package.parent)

    def found():
        return subprocess.run(
            [sys.executable, "-c", "import bitnet; print(bitnet.library_path())"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
        )

    def add(folder):
        folder.mkdir(parents=True)
        shutil.copy(bitnet.library_path(), folder / "libbitnet.so.1")
        return str(folder / "libbitnet.so.1")

    nothing = found()
    assert nothing.returncode == 1 and b"Set BITNET_LIBRARY to its path" in nothing.stderr.splitlines()[-1]
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "bitnet_c.h").touch()
    built = add(tmp_path / "build" / "release" / "lib")
    assert found().stdout.decode().strip() == built
    bundled = add(package / "prefix" / "lib")
    assert found().stdout.decode().strip() == bundled


def test_every_status_has_an_exception():
    statuses = {value: name for name, value in constants().items() if name.startswith("BITNET_E_")}
    classes = {kind.status: kind for kind in bitnet.BitnetError.__subclasses__()}
    assert set(classes) == set(statuses)
    for status, name in statuses.items():
        assert _loader.decode(_loader.lib.bitnet_status_name(status)) == name
        words = name[len("BITNET_E_") :].capitalize()
        if status not in (_library.BITNET_E_BUFFER, _library.BITNET_E_NOMEM, _library.BITNET_E_OVERFLOW):
            assert classes[status].__name__ == f"{words}Error"


def test_without_numpy():
    printed = python(f"""
import sys
sys.modules["numpy"] = None
import bitnet
model = bitnet.Model({str(SMALL)!r})
ctx = model.context()
kinds = set()
def sink(event):
    kinds.add((type(event.data).__name__, event.data.readonly))
    assert event.data.shape[0] in (1, 3) and event.data.format in ("f", "b", "i"), event
with ctx.trace(sink, select="**,*.*"):
    ctx.eval([1, 2, 3], logits="all")
logits = ctx.logits
print(type(logits).__name__, logits.shape, logits.format, logits.readonly, logits[2, 5] == ctx.copy_logits(2)[5], kinds)
print(ctx.hidden.shape, len(ctx.logprobs([4, 5])), bitnet.compare_logits(logits, logits).verdict)
rows = []
with bitnet.Trace("port", rows.append, copy=True) as trace:
    trace.step(0, 3)
    trace.emit("logits", logits)
print(rows[0].data.tolist() == logits.tolist())
""")
    assert printed.splitlines() == [
        "memoryview (3, 512) f True True {('memoryview', True)}",
        "(3, 256) 2 match",
        "True",
    ]


def test_imports_nothing_but_the_standard_library_and_numpy():
    allowed = set(sys.stdlib_module_names) | {"numpy"}
    seen = set()
    for path in (ROOT / "abi/python/bitnet").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            seen.update(names)
            assert {name.split(".")[0] for name in names} <= allowed, f"{path.name} imports {names}"
    assert {"numpy", "ctypes"} <= seen
