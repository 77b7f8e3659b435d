"""Bytes of uploads on disk; runs in threads, must never run on the control thread.

How much of an upload is here is the size of its file. Bytes that come with a checksum do not count until it was looked
at: meanwhile a mark beside the file says where they begin, and a start cuts the file there.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_MARK = ".from"
_NUMBER = 8


def mark_of(path: Path) -> Path:
    return path.with_name(path.name + _MARK)


def upload_of(path: Path) -> str:
    """The upload's id in hex, of its file or of a mark beside it."""
    return path.name.removesuffix(_MARK)


def put(path: Path, data: bytes, offset: int) -> None:
    """OSError: some of it may be there; `cut` takes it away."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            offset += written
            view = view[written:]
    finally:
        os.close(descriptor)


def begin_checked(path: Path, offset: int) -> None:
    """What comes from here on does not count yet."""
    descriptor = os.open(mark_of(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, offset.to_bytes(_NUMBER, "big"))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _sync_folder(path.parent)


def settle(path: Path) -> None:
    """Everything in the file counts from now on, also after a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    mark = mark_of(path)
    if mark.exists():
        mark.unlink()
        _sync_folder(path.parent)


def cut(path: Path, size: int) -> None:
    """Nothing behind `size` was taken."""
    os.truncate(path, size)
    settle(path)


def measure(path: Path) -> int:
    """At a start: bytes that count; -1 where there is no file."""
    try:
        size = path.stat().st_size
        with contextlib.suppress(FileNotFoundError):
            raw = mark_of(path).read_bytes()
            # a mark that is not whole was made before any byte behind it came
            if len(raw) == _NUMBER:
                size = min(size, int.from_bytes(raw, "big"))
                os.truncate(path, size)
            mark_of(path).unlink()
    except FileNotFoundError:
        return -1
    return size


def link(path: Path, other: Path) -> None:
    """A second name for the same bytes."""
    os.link(path, other)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
