"""Files of media on disk, named by their SHA-256, and uploads that are not whole yet; must never run on the control
thread, for every call here may wait for the disk.

A file is written under a temporary name, brought to disk, and only then gets its own. What a crash leaves has a
temporary name or no row: both are found at the next start.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from gateway.store.keys import sync_folder

_PIECE = 1 << 20
_HEX = frozenset("0123456789abcdef")


class MediaFiles:
    """`folder`/ab/cdef…: files; `folder`/parts: temporary ones; `folder`/uploads: by the upload's id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts = folder / "parts"
        self._uploads = folder / "uploads"

    def prepare(self) -> None:
        """At a start: make the folders, remove what an older process left half written. OSError."""
        for folder in (self.folder, self._parts, self._uploads):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for entry in os.scandir(self._parts):
            with contextlib.suppress(OSError):
                Path(entry.path).unlink()

    # --- names: no disk ---

    def path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self.folder / name[:2] / name[2:]

    def new_part(self) -> Path:
        """A name nobody has; the file is not made."""
        return self._parts / secrets.token_hex(16)

    def upload_path(self, upload: bytes) -> Path:
        return self._uploads / upload.hex()

    # --- files ---

    def create(self, path: Path) -> None:
        """An empty file, durable."""
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        sync_folder(path.parent)

    def size(self, path: Path) -> int:
        """-1 where there is none."""
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return -1

    def digest(self, path: Path) -> bytes:
        hasher = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                hasher.update(piece)
        return hasher.digest()

    def head(self, path: Path, size: int) -> bytes:
        with path.open("rb") as file:
            return file.read(size)

    def place(self, part: Path, digest: bytes) -> None:
        """The part becomes the file of this digest, whole and on disk, or nothing changes."""
        path = self.path(digest)
        descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, 0o600)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            sync_folder(self.folder)
        part.replace(path)
        sync_folder(path.parent)

    def remove(self, *paths: Path) -> None:
        for path in paths:
            path.unlink(missing_ok=True)

    # --- what nobody knows: read in slices ---

    def stored(self) -> Iterator[list[bytes]]:
        """Digests of all files, those of one folder at a time."""
        for first in range(256):
            with contextlib.suppress(FileNotFoundError):
                names = [f"{first:02x}{entry.name}" for entry in os.scandir(self.folder / f"{first:02x}")]
                if digests := [bytes.fromhex(name) for name in names if len(name) == 64 and _HEX.issuperset(name)]:
                    yield digests

    def uploads(self) -> list[Path]:
        """Files of uploads, and what lies beside them."""
        return [Path(entry.path) for entry in os.scandir(self._uploads)]
