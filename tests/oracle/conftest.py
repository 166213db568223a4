"""Shared fixtures: the library, the small model and what bitnet.cpp recorded on it. At the end, the worst figures."""

import os
from pathlib import Path

import numpy as np
import pytest

from library import Library

DATA = Path(__file__).resolve().parent.parent / "data"
FIGURES = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption(
        "--library", default=os.environ.get("BITNET_LIBRARY"), help="libbitnet.so, default $BITNET_LIBRARY"
    )


@pytest.fixture(scope="session")
def library(request):
    path = request.config.getoption("--library")
    if not path:
        pytest.fail("which libbitnet.so? Set BITNET_LIBRARY or give --library")
    return Library(path)


@pytest.fixture(scope="session")
def small_gguf():
    return DATA / "small.gguf"


@pytest.fixture(scope="session")
def bitnetcpp():
    """What bitnet.cpp computed: {(layer, stage): array [n_tokens, width]}, token ids under (-1, "ids")."""
    record = {}
    with np.load(DATA / "bitnetcpp.npz") as arrays:
        for name, values in arrays.items():
            if name == "ids":
                record[-1, "ids"] = values
            else:
                layer, stage = name.split("/")
                record[int(layer), stage] = values.reshape(len(values), -1)
    return record


@pytest.fixture(scope="session")
def figures(request):
    """{label: (measured, allowed, layer)}: the worst verdict of each label so far."""
    return request.config.stash.setdefault(FIGURES, {})


def pytest_terminal_summary(terminalreporter, config):
    figures = config.stash.get(FIGURES, {})
    if not figures:
        return
    terminalreporter.section("worst figures, inputs forced unless stated")
    for stage, (measured, allowed, layer) in figures.items():
        terminalreporter.write_line(f"{stage:<60} {measured:9.2e} of {allowed:7.1e} allowed, layer {layer}")
