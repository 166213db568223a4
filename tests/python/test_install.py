"""`pip install .` in a fresh virtual environment, without network: what it installs works with no variable set.

BITNET_BUILD_DIR is the build tree whose library is put into the wheel, so that nothing is compiled a second time;
BITNET_WHEELS the folder where scripts/setup.sh has put the packages that the build needs.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import DEMO, ROOT


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Folder of a new virtual environment with the package and numpy in it."""
    for name in ("BITNET_BUILD_DIR", "BITNET_WHEELS"):
        if name not in os.environ:
            pytest.fail(f"{name} is not set: ctest sets it")
    folder = tmp_path_factory.mktemp("fresh")
    tree_before = tree()
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    options = [
        "--config-settings",
        "cmake.source-dir=abi/python/prebuilt",
        "--config-settings",
        f"cmake.define.BITNET_BUILD_DIR={os.environ['BITNET_BUILD_DIR']}",
    ]
    done = run(
        [
            folder / "bin" / "pip",
            "install",
            "--quiet",
            "--no-compile",
            "--disable-pip-version-check",
            "--no-index",
            "--find-links",
            os.environ["BITNET_WHEELS"],
            ".[numpy]",
            *options,
        ],
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert tree() == tree_before, "installing leaves files in the tree"
    return folder


def tree():
    """What git sees: neither build/ nor caches."""
    return subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all"], cwd=ROOT, stdout=subprocess.PIPE, check=False
    ).stdout


def run(command, cwd, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BITNET_", "PYTHON"))}
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
        env={**kept, **environment},
    )


def readme_lines():
    text = (ROOT / "abi/python/README.md").read_text()
    return text.split("```python\n")[1].split("```")[0]


def test_six_lines_give_logits_and_a_trace(fresh, tmp_path):
    code = readme_lines()
    assert len(code.splitlines()) == 6
    end = tmp_path / "scripts" / "demo_model"
    end.mkdir(parents=True)
    (end / "demo.gguf").symlink_to(DEMO)
    code += """
import ctypes, numpy
logits = ctx.logits
address = ctypes.cast(bitnet._loader.lib.bitnet_get_logits_ith(ctx._pointer, 0), ctypes.c_void_p).value
assert type(logits) is numpy.ndarray and logits.dtype == numpy.float32 and logits.shape == (1, model.info.n_vocab)
assert logits.ctypes.data == address and logits[-1].argmax() == ctx.top(1)[0][0]
print("zero-copy", bitnet.library_path())
"""
    done = run([fresh / "bin" / "python", "-c", code], cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert [line.split()[1] for line in lines[:2]] == ["embeddings", "attn_norm"]
    assert lines[-3].split()[1] == "logits"
    assert (
        lines[-2]
        == run([fresh / "bin" / "bitnet", "run", "-p", "2+2=", "-n", "1", "--json"], cwd=tmp_path)
        .stdout.decode()
        .split('"tokens": [')[1]
        .split("]")[0]
        .strip()
    )
    library = Path(lines[-1].split()[1])
    assert fresh in library.parents and library.name == "libbitnet.so.1"


def test_plugins_shim_and_program_are_found_with_no_variable_set(fresh, tmp_path):
    code = """
import bitnet, json, sys
model = bitnet.Model(sys.argv[1])
plugins = ["null", "jsonl:path=a.jsonl", "npy:dir=raw,raw=all", "timeline:path=a.trace.json", "tracedir:dir=dir",
           "modeltracer:path=m.jsonl"]
with model.trace(*plugins) as ctx:
    ctx.eval("2+2=")
with model.trace("check:trace=a.jsonl") as ctx:
    ctx.eval("2+2=")
result = bitnet.diff("a.jsonl", "a.jsonl")
print(result.verdict, result.counts["equal"] > 100, bitnet.program_path())
"""
    done = run([fresh / "bin" / "python", "-c", code, DEMO], cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    verdict, enough, program = done.stdout.decode().split()
    assert (verdict, enough) == ("match", "True") and fresh in Path(program).parents
    traced = run([fresh / "bin" / "bitnet", "trace", "-p", "2+2=", "-o", tmp_path / "b.jsonl"], cwd=tmp_path)
    assert traced.returncode == 0, traced.stderr.decode()
    shim = Path(program).parent.parent / "lib" / "bitnet" / "libbitnet_shim.so"
    assert shim.is_file()
    # The shim is found and looks for what it traces.
    foreign = run([fresh / "bin" / "bitnet", "trace", "-o", tmp_path / "c.jsonl", "--", "/bin/true"], cwd=tmp_path)
    assert b"no libllama or libggml was loaded" in foreign.stderr, foreign.stderr.decode()


def test_types_are_those_that_mypy_sees(fresh, tmp_path):
    """A user's program is checked against the installed package (py.typed), and the package against itself."""
    (tmp_path / "user.py").write_text("""
import bitnet
import numpy as np

model = bitnet.Model("a.gguf")
ctx = model.context(n_threads=1)
ids: list[int] = ctx.eval("text")
row: np.ndarray = ctx.logits[-1]
with ctx.trace(lambda event: print(event.stage)) as trace:
    pass
seconds: float = trace.stats.seconds
result: bitnet.Comparison = bitnet.crossval(model, model, ids)
wrong: int = ctx.eval("text")
""")
    mypy = [sys.executable, "-m", "mypy", "--cache-dir", tmp_path / "cache"]
    done = run([*mypy, "--python-executable", fresh / "bin" / "python", "user.py"], cwd=tmp_path)
    errors = [line for line in done.stdout.decode().splitlines() if "error:" in line]
    assert len(errors) == 1 and errors[0].startswith("user.py:13:"), done.stdout.decode()
    done = run([*mypy, "--strict", "--config-file", ROOT / "pyproject.toml", ROOT / "abi/python/bitnet"], cwd=ROOT)
    assert done.returncode == 0, done.stdout.decode()
