"""The program `bitnet`: found beside the library, run by diff() and as the command of the package."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Optional

from ._loader import library_path


def program_path() -> str:
    """Path of the program: BITNET_PROGRAM, else the one of the library's prefix, else the one on PATH."""
    chosen = os.environ.get("BITNET_PROGRAM")
    if chosen:
        return chosen
    found = _beside_library() or shutil.which("bitnet")
    if found is None:
        raise FileNotFoundError(
            f"the program bitnet is neither beside '{library_path()}' nor on PATH: set BITNET_PROGRAM to its path"
        )
    return found


def _beside_library() -> Optional[str]:
    library = Path(library_path())
    if not library.is_absolute() and len(library.parts) == 1:
        return None  # the system found it, nobody knows where
    # lib/ or lib/<architecture>/
    for prefix in list(library.absolute().parents)[1:3]:
        path = prefix / "bin" / "bitnet"
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    return None


def main() -> None:
    """The command `bitnet` of the package: the program inside it, in place of Python."""
    program = _beside_library()
    if program is None:
        sys.exit(f"bitnet: there is no program beside '{library_path()}'")
    os.execv(program, ["bitnet", *sys.argv[1:]])
