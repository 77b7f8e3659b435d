"""The operator's key: made at first start in a file only its owner can read; never printed, never logged."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from gateway.auth.api_keys import OPERATOR_ID, build_key_text, hash_secret, parse_key
from gateway.model.errors import ConfigError

FILE_NAME = "admin.key"
_MAX_BYTES = 256


@dataclass(frozen=True, slots=True)
class AdminKey:
    """`text` is for the operator's own tools (the CLI); the API gets only the hash."""

    text: str = field(repr=False)
    hash: bytes = field(repr=False)
    created: bool


def load_or_create(path: str | Path) -> AdminKey:
    """The admin key in this file (mode 0600); a new one where there is no file.

    Raises ConfigError where others can read the file or it holds no admin key: the fix is in the message.
    """
    path = Path(path)
    try:
        return _load(path)
    except FileNotFoundError:
        pass
    text = build_key_text(OPERATOR_ID)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and linked into place: a reader never sees half a key, and of two first starts one wins.
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return _load(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
    return _read(text, path, created=True)


def _load(path: Path) -> AdminKey:
    fd = os.open(path, os.O_RDONLY)
    with os.fdopen(fd, "r", errors="replace") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise ConfigError(f"{path} can be read by others; run: chmod 600 {path}", field="store.path")
        return _read(file.read(_MAX_BYTES).strip(), path, created=False)


def _read(text: str, path: Path, *, created: bool) -> AdminKey:
    key = parse_key(text)
    if key is None or key.id != OPERATOR_ID:
        raise ConfigError(f"{path} holds no admin key; move it away and a new one is made", field="store.path")
    return AdminKey(text=text, hash=hash_secret(key.secret), created=created)
