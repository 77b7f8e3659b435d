"""Marks of tests that need servers of other networks: what is not tested is said, with its remedy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

#: where .ci/im puts what comes from PyPI and npm
CACHE = Path(
    os.environ.get("HELIOGRAPH_SERVERS")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heliograph"
)


def _is_there(program: str) -> bool:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/lib/dovecot"
    return shutil.which(program, path=path) is not None or (CACHE / program).exists()


def needs(*programs: str, packages: str) -> pytest.MarkDecorator:
    """Programs on the path, or files below CACHE; `packages` brings them."""
    is_missing = not all(_is_there(program) for program in programs)
    return pytest.mark.skipif(is_missing, reason=f"NOT TESTED: apt install {packages}, or run .ci/im")
