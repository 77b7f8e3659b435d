"""The folder that a recovery works in, which has all that a partition has; must never outlive the next recovery on this
machine, nor go while another one works in it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "heliograph-recovery-"
#: locked for as long as the command lives, whatever ends it
LOCK_FILE = "in-use"


@contextmanager
def recovery_folder(say: Callable[[str], None]) -> Iterator[Path]:
    """A new and private one below $TMPDIR. ConfigError where it can not be made."""
    from gateway.model.errors import ConfigError

    below = Path(os.environ.get("TMPDIR") or "the folder for temporary files")
    try:
        below = Path(tempfile.gettempdir())
        _remove_left(below, say)
        folder, lock = _make(below)
    except OSError as exc:
        raise ConfigError(
            f"no folder for the recovery can be made in {below}: {exc.strerror}; name another one", field="TMPDIR"
        ) from exc
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make(below: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=below))
        file = folder / LOCK_FILE
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # another command may have found it before it was locked, and have removed it
        if _take(lock) and file.exists():
            return folder, lock
        os.close(lock)


def _remove_left(below: Path, say: Callable[[str], None]) -> None:
    """Of commands that were killed."""
    older = []
    for folder in sorted(below.glob(f"{PREFIX}*")):
        try:
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            older.append(folder)
            continue
        except OSError:
            continue  # nothing that this program makes
        try:
            if _take(lock):
                say(f"removing {folder}, which a recovery that was killed has left")
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
    if names := [folder.name for folder in older if folder.exists()]:
        say(f"of recoveries by an older program, remove them when those have ended: {', '.join(names)} in {below}")


def _take(lock: int) -> bool:
    """False: another command has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
