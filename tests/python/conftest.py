"""The package of the tree on the library of the build: BITNET_LIBRARY and BITNET_PROGRAM, as ctest sets them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "abi" / "python"))
sys.path.insert(0, str(ROOT / "tests" / "oracle"))

for name in ("BITNET_TRACE_PLUGIN", "BITNET_TRACE_SELECT", "BITNET_ISA"):
    os.environ.pop(name, None)

import bitnet  # noqa: E402

SMALL = ROOT / "tests" / "data" / "small.gguf"
DEMO = ROOT / "scripts" / "demo_model" / "demo.gguf"


def cli(*arguments, **environment):
    """Standard output of the program; it must succeed."""
    done = subprocess.run(
        [bitnet.program_path(), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def python(code, *arguments, **environment):
    """What another Python prints that runs `code` with this package; it must succeed."""
    path = str(ROOT / "abi" / "python")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture(scope="session")
def model():
    return bitnet.Model(SMALL)


@pytest.fixture(scope="session")
def demo():
    return bitnet.Model(DEMO)


@pytest.fixture
def ctx(model):
    with model.context(n_threads=1) as context:
        yield context


@pytest.fixture(scope="session")
def ids():
    """Token ids of the small model, 12 of them."""
    return [509, 50, 43, 50, 61, 7, 300, 301, 12, 99, 5, 200]
