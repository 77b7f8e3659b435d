"""A share of a core for some processes, by a control group of the kernel; must never leave a group behind, nor fail
where there can be none."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

PERIOD_US = 10_000
#: where the kernel has them: version 1, version 2
_OLD, _NEW = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
_END_S = 5.0


@contextlib.contextmanager
def cpu_share(pids: Iterable[int], cores: float) -> Iterator[bool]:
    """Together they get no more CPU than this while it lasts; False: that can not be had here (not root, no
    controller), and they have what they had."""
    group: Path | None = None
    moved: list[int] = []
    is_old = (_OLD / "cpu.cfs_quota_us").exists()
    root = _OLD if is_old else _NEW
    quota = str(int(cores * PERIOD_US))
    try:
        try:
            group = root / f"heliograph-bench-{os.getpid()}-{secrets.token_hex(3)}"
            group.mkdir()
            if is_old:
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(quota)
            else:
                (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
            for pid in pids:
                (group / "cgroup.procs").write_text(str(pid))
                moved.append(pid)
        except OSError:
            _remove(group, root, moved)
            group = None
        yield group is not None
    finally:
        _remove(group, root, moved)


def _remove(group: Path | None, root: Path, moved: list[int]) -> None:
    if group is None or not group.exists():
        return
    for pid in moved:
        with contextlib.suppress(OSError):  # it may have ended
            (root / "cgroup.procs").write_text(str(pid))
    end_s = time.monotonic() + _END_S
    while group.exists() and time.monotonic() < end_s:
        with contextlib.suppress(OSError):
            group.rmdir()
