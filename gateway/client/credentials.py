"""Where a device keeps the id and secret the gateway issued; must never log or print the secret."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec


@dataclass(slots=True, frozen=True)
class Credentials:
    """WELCOME.device and WELCOME.secret; an empty secret where the gateway's mode needs none."""

    device: str = field(repr=False)
    secret: bytes = field(default=b"", repr=False)


async def build_hello(jwt: Callable[[], str | Awaitable[str]] | None, known: Credentials) -> tuple[str, bytes, str]:
    """Device, secret and jwt of the next HELLO; raises what the jwt provider raises."""
    if jwt is None:
        return known.device, known.secret, ""
    asked = jwt()
    token = asked if isinstance(asked, str) else await asked
    return ("", b"", token) if token else (known.device, known.secret, "")


class CredentialStore(Protocol):
    async def load(self) -> Credentials | None: ...

    async def save(self, credentials: Credentials) -> None: ...


class MemoryCredentials:
    """Kept as long as the object lives; share it between two Devices to be the same device twice."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        self.credentials = credentials

    async def load(self) -> Credentials | None:
        return self.credentials

    async def save(self, credentials: Credentials) -> None:
        self.credentials = credentials


class _Stored(msgspec.Struct):
    device: str
    secret: str = ""


class FileCredentials:
    """A JSON file, mode 0600, replaced as a whole so that a crash leaves the old or the new one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    async def load(self) -> Credentials | None:
        """None where there is no file; ValueError where it is no credentials file (it is left as it is)."""
        return await asyncio.to_thread(self._load)

    async def save(self, credentials: Credentials) -> None:
        await asyncio.to_thread(self._save, credentials)

    def _load(self) -> Credentials | None:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            stored = msgspec.json.decode(raw, type=_Stored)
            return Credentials(stored.device, b64decode(stored.secret, validate=True))
        except (ValueError, msgspec.MsgspecError):
            # No detail: the text of the cause may quote the secret.
            raise ValueError(f"{self._path} is no credentials file; move it away to log in as a new device") from None

    def _save(self, credentials: Credentials) -> None:
        raw = msgspec.json.encode(_Stored(credentials.device, b64encode(credentials.secret).decode()))
        replace_file(self._path, raw)


def replace_file(path: Path, raw: bytes) -> None:
    """Mode 0600, as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
