"""Disks that run full or turn read-only, and are right again: real ones where the machine lets us, else what comes
nearest. Everything mounted is unmounted, whatever happens.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

DISK_BYTES = 12 << 20


class Disk(Protocol):
    """Where a store lies. `settings` are the gateway's."""

    folder: Path
    settings: tuple[str, ...]

    def fill(self, pid: int) -> None: ...

    def make_room(self, pid: int) -> None: ...


def _can_mount() -> bool:
    """Root may, except in a container that was not allowed to: so try."""
    with tempfile.TemporaryDirectory(prefix="heliograph-chaos-") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "heliograph-chaos", folder]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            return False
        run("umount", folder)
        return True


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


@contextlib.contextmanager
def mounted(folder: Path, size_bytes: int = DISK_BYTES) -> Iterator[Path]:
    """A small file system of its own."""
    folder.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "heliograph-chaos", str(folder))
    try:
        yield folder
    finally:
        run("umount", "--lazy", str(folder))


CAN_MOUNT = _can_mount()
#: modes of files do not bind root
CAN_CLOSE = CAN_MOUNT or os.geteuid() != 0


class SmallDisk:
    """A file system with room for nothing but what other files leave."""

    settings: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, pid: int) -> None:
        with self._filler.open("ab", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))

    def make_room(self, pid: int) -> None:
        self._filler.unlink()


class LimitedFiles:
    """The gateway's files may not grow any more (RLIMIT_FSIZE)."""

    settings: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, pid: int) -> None:
        size = (self.folder / "store" / "data.mdb").stat().st_size
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def make_room(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextlib.contextmanager
def disk_that_fills(kind: str, folder: Path) -> Iterator[Disk]:
    if kind == "file system":
        with mounted(folder / "disk") as small:
            yield SmallDisk(small)
    else:
        yield LimitedFiles(folder)


class ReadOnly:
    """A folder that can be turned read-only while no gateway has it open, and back again at any time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def close(self) -> None:
        if CAN_MOUNT:
            run("mount", "-o", "remount,ro", str(self.folder))
        else:
            self._modes(0o500, 0o400)

    def open(self) -> None:
        if CAN_MOUNT:
            run("mount", "-o", "remount,rw", str(self.folder))
        else:
            self._modes(0o700, 0o600)

    def _modes(self, folder: int, file: int) -> None:
        for path in [self.folder, *self.folder.rglob("*")]:
            path.chmod(folder if path.is_dir() else file)


@contextlib.contextmanager
def disk_that_closes(folder: Path) -> Iterator[ReadOnly]:
    if CAN_MOUNT:
        with mounted(folder / "disk") as small:
            yield ReadOnly(small)
        return
    (folder / "disk").mkdir()
    disk = ReadOnly(folder / "disk")
    try:
        yield disk
    finally:
        disk.open()
