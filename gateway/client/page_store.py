"""Where a terminal keeps what service pages are checked with, so that one finds its app after a restart and without a
link (C13); must never log or print a key.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from gateway.client.credentials import replace_file


class KnownPage(msgspec.Struct, forbid_unknown_fields=True):
    """One registration; `seen`: counter → ticket of the last pages that were acted on."""

    token: bytes
    app: str
    key: bytes
    servers: list[str]
    seen: dict[int, bytes]

    def __repr__(self) -> str:
        return f"KnownPage(app={self.app!r})"


class PageStore(Protocol):
    async def load(self) -> Sequence[KnownPage]: ...

    async def save(self, known: Sequence[KnownPage]) -> None: ...


class FilePages:
    """A msgpack file, mode 0600, replaced as a whole so that a crash leaves the old or the new one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    async def load(self) -> Sequence[KnownPage]:
        """Empty where there is no file; ValueError where it is another one (it is left as it is)."""
        return await asyncio.to_thread(self._load)

    async def save(self, known: Sequence[KnownPage]) -> None:
        raw = msgspec.msgpack.encode(list(known))
        await asyncio.to_thread(replace_file, self._path, raw)

    def _load(self) -> list[KnownPage]:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return []
        try:
            return msgspec.msgpack.decode(raw, type=list[KnownPage])
        except (ValueError, msgspec.MsgspecError):
            # No detail: the text of the cause may quote a key.
            raise ValueError(f"{self._path} holds no page keys; move it away to begin anew") from None
