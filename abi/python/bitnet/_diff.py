"""Comparing two traces, with the program `bitnet diff`."""

from __future__ import annotations

import html
import json
import os
import subprocess
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Optional, Union

from ._program import program_path

PathLike = Union[str, "os.PathLike[str]"]


@dataclass(frozen=True)
class Diff:
    """What `bitnet diff` found. True in a condition only for a match. `report` is its whole JSON (abi/cli/diff/DIFF.md)."""

    verdict: str  #: "match", "divergence" or "error"
    text: str  #: the verdict in a sentence
    report: Dict[str, Any]

    def __bool__(self) -> bool:
        return self.verdict == "match"

    @property
    def first(self) -> Optional[Dict[str, Any]]:
        """The first wrong record in execution order: `run`, `seq` (position), `layer`, `stage`, ...; None: none."""
        first: Optional[Dict[str, Any]] = self.report["first"]
        return first

    @property
    def counts(self) -> Dict[str, int]:
        """`compared` = `equal` + `within` + `unjudged` + `different`; `missing_in_a`, `missing_in_b`, ..."""
        counts: Dict[str, int] = self.report["counts"]
        return counts

    @property
    def errors(self) -> List[str]:
        errors: List[str] = self.report["errors"]
        return errors

    def __repr__(self) -> str:
        return f"<bitnet.Diff {self.verdict}: {self.text}>"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{v}</td></tr>" for k, v in self.counts.items())
        growth = "".join(
            f"<tr><td>{g['layer']}</td><td>{html.escape(str(g['stage']))}</td><td>{g['relative']}</td></tr>"
            for g in self.report["growth"]
        )
        table = f"<table><tr><th>layer</th><th>stage</th><th>relative</th></tr>{growth}</table>" if growth else ""
        return f"<p><b>{html.escape(self.verdict)}</b>: {html.escape(self.text)}</p><table>{rows}</table>{table}"


class DiffError(Exception):
    """The comparison is not one: a trace is missing, damaged or cut short, or nothing is in common. `result`: what was found all
    the same; None when the program said nothing that can be read."""

    def __init__(self, text: str, result: Optional[Diff]) -> None:
        super().__init__(text)
        self.result = result


def diff(
    a: PathLike,
    b: PathLike,
    *,
    tolerance: Union[str, float, None] = None,
    allow_missing: bool = False,
    ignore: Iterable[str] = (),
    max_origins: Optional[int] = None,
) -> Diff:
    """Compares two traces (files, or folders of them); `a` is the reference.

    `tolerance`: "exact" (hashes), "auto" (hashes for the same engine and version, else the logits decide), or a relative L2
    distance. `ignore`: differences of the run records to accept, "model_hash", "semantics", .... Runs the program `bitnet`, found
    beside the library, in BITNET_PROGRAM or on PATH. DiffError when the comparison fails.
    """
    command = [program_path(), "diff", os.fspath(a), os.fspath(b), "--format", "json"]
    if tolerance is not None:
        command += ["--tolerance", str(tolerance)]
    if allow_missing:
        command.append("--allow-missing")
    for key in [ignore] if isinstance(ignore, str) else ignore:
        command += ["--ignore", key]
    if max_origins is not None:
        command += ["--max-origins", str(max_origins)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    said = done.stderr.decode("utf-8", "replace").strip()
    try:
        report = json.loads(done.stdout)
        result = Diff(report["verdict"], report["text"], report)
    except (ValueError, KeyError):
        raise DiffError(
            said or f"'{command[0]} diff' ended with status {done.returncode} and no report", None
        ) from None
    if result.verdict == "error":
        raise DiffError("; ".join(result.errors) or result.text, result)
    return result
