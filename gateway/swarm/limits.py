"""Whether this machine lets a swarm of that size run, and in words what is short and how to mend it.

Changes nothing but this process's own limit of open files.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

#: kernel memory of one end of an idle TCP connection (measured: 2.9 kB a socket, epoll item and file included)
SOCKET_BYTES = 2_900
#: of the swarm itself, a device
DEVICE_BYTES = 130
#: descriptors of a thread that are no connections
SPARE_FILES = 64


class Shortage(NamedTuple):
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}\n    {self.fix}"


def _read(path: str) -> str:
    return Path(path).read_text()


def _number(read: Callable[[str], str], path: str) -> int | None:
    try:
        return int(read(path).split()[0])
    except (OSError, ValueError, IndexError):
        return None


def find_shortages(
    devices: int,
    threads: int,
    *,
    both_ends: bool,
    files: int,
    devices_a_source: int,
    sources: int,
    read: Callable[[str], str] = _read,
) -> list[Shortage]:
    """`files`: the limit of open files of this process, which counts for each thread; `both_ends`: the gateway is on
    this machine too."""
    found: list[Shortage] = []
    ends = devices * (2 if both_ends else 1)
    most = _number(read, "/proc/sys/fs/file-max")
    in_use = _number(read, "/proc/sys/fs/file-nr") or 0
    if most is not None and most < ends + in_use + 1_000:
        found.append(
            Shortage(
                f"{ends:,} open files are needed for {devices:,} connections"
                f"{' with both ends here' if both_ends else ''}; fs.file-max is {most:,}",
                f"sysctl -w fs.file-max={ends + in_use + 100_000}",
            )
        )
    a_thread = -(-devices // threads) + SPARE_FILES
    if files < a_thread:
        table = _number(read, "/proc/sys/fs/nr_open") or 0
        if table < a_thread:
            found.append(
                Shortage(
                    f"a thread holds {a_thread:,} descriptors, fs.nr_open is {table:,}",
                    f"use more --threads, or: sysctl -w fs.nr_open={a_thread + 100_000}",
                )
            )
        else:
            found.append(
                Shortage(
                    f"a thread holds {a_thread:,} descriptors, this process may open {files:,} in each",
                    f"use more --threads, or as root: ulimit -n {a_thread}",
                )
            )
    needed = ends * SOCKET_BYTES + devices * DEVICE_BYTES
    free = next(
        (int(line.split()[1]) * 1024 for line in read("/proc/meminfo").splitlines() if line.startswith("MemAvailable")),
        0,
    )
    if free < needed:
        found.append(
            Shortage(
                f"about {needed / 2**30:.1f} GiB are needed (2.9 kB of kernel memory a socket), {free / 2**30:.1f} GiB"
                " are free",
                "use fewer --devices",
            )
        )
    if devices_a_source and -(-devices // devices_a_source) > sources:
        found.append(
            Shortage(
                f"{devices:,} connections need {-(-devices // devices_a_source):,} source addresses; {sources:,} are"
                " left",
                "raise --devices-a-source or lower --first-source",
            )
        )
    if devices_a_source:
        low, high = (int(part) for part in read("/proc/sys/net/ipv4/ip_local_port_range").split())
        if high - low + 1 < devices_a_source:
            found.append(
                Shortage(
                    f"{devices_a_source:,} connections from each source address, and {high - low + 1:,} ports",
                    'sysctl -w net.ipv4.ip_local_port_range="1024 65535"',
                )
            )
    return found


def raise_file_limit() -> int:
    """As many open files as this process may have; returns how many."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(hard, _number(_read, "/proc/sys/fs/nr_open") or 0)
    for limit in (wanted, hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        except (OSError, ValueError):
            continue  # only root may go past the hard limit
        return limit
    return hard
