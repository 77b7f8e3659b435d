"""Reads a password or secret from the file a setting names; must never keep or repeat what is in it."""

from __future__ import annotations

from pathlib import Path

from gateway.model.errors import ConfigError


def read_line(
    file: str, setting: str, *, most: int, what: str, least: int = 1, otherwise: str = "name the file"
) -> bytes:
    """The one line of a file, without its end. `what`: what it should have been, for the error; `otherwise`: what to do
    where no file is named. ConfigError; reads disk: not for the loop."""
    if not file:
        raise ConfigError(f"is empty; {otherwise}", field=setting)
    try:
        with Path(file).open("rb") as opened:
            raw = opened.read(most + 3)  # an end of line, and one byte too many
    except OSError as exc:
        raise ConfigError(f"cannot read {file!r}: {exc.strerror or exc}; check path and mode", field=setting) from exc
    line = raw.rstrip(b"\r\n")
    if not least <= len(line) <= most or b"\n" in line or b"\0" in line:
        raise build_refusal(file, setting, what)
    return line


def build_refusal(file: str, setting: str, what: str) -> ConfigError:
    """It holds something else."""
    return ConfigError(f"{file!r} holds no {what}", field=setting)
