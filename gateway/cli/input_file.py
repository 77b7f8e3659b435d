"""Reads what a command is given as a file, or on stdin; must never show a byte of it."""

from __future__ import annotations

import sys
from pathlib import Path

from gateway.model.errors import ConfigError


def read_input(file: str, most_bytes: int) -> bytes:
    """`-`: stdin. ConfigError where it cannot be read, or is larger."""
    try:
        if file == "-":
            raw = sys.stdin.buffer.read(most_bytes + 1)
        else:
            with Path(file).open("rb") as stream:
                raw = stream.read(most_bytes + 1)
    except OSError as exc:
        raise ConfigError(f"cannot read {file}: {exc.strerror}") from None
    if len(raw) > most_bytes:
        raise ConfigError(f"{file} is larger than {most_bytes >> 20} MiB")
    return raw
