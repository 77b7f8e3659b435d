"""P2: as many devices as are asked for, held at once by one gateway process, both ends on this machine; then directed
pushes and one broadcast with all of them on line.

Checks memory and sysctls first and says in words which is short; a machine too small for it is no missed target.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.system.figures import Measured, Run
from bench.system.stage import (
    Stage,
    kernel_bytes,
    kernel_objects,
    open_files,
    private_bytes,
    reactors_for,
    resident_bytes,
)
from bench.system.swarm_client import Swarm

FULL, QUICK = 2_000_000, 50_000
#: both ends of a connection in the kernel (socket, file, dentry, epoll item), and in user space; measured, rounded up
KERNEL_BYTES_A_LINK, GATEWAY_BYTES_A_LINK, SWARM_BYTES_A_LINK = 8_200, 300, 300
REACTORS_MOST = 250
SPARE_BYTES = 1_500_000_000
#: devices that connect between two lines of progress
STEP = 100_000
HEARTBEAT_FULL_S, HEARTBEAT_QUICK_S = 60, 10
WATCHED_FULL_S, WATCHED_QUICK_S = 60.0, 10.0
#: all of them may be connecting at once; a login may have to wait
LOGIN_TIMEOUT_S = 120
PUSH_RATE, PUSH_S = 1_000, 5.0
BROADCAST_S = 300


def shortages(devices: int) -> list[str]:
    """What this machine lacks for so many, in words with the command that helps; empty where it lacks nothing."""
    found = []
    files = _sysctl("fs/file-max")
    if files < 2 * devices * 1.02:
        found.append(f"fs.file-max is {files:,}, both ends need {int(2.05 * devices):,}: sysctl fs.file-max=…")
    links = 1 << 20
    if _sysctl("fs/nr_open") < min(devices, links):
        found.append(f"fs.nr_open is {_sysctl('fs/nr_open'):,}: sysctl fs.nr_open={links}")
    limit = open_files()
    if reactors_for(devices, limit) > REACTORS_MOST:
        found.append(f"one table takes {limit:,} open files: raise `ulimit -Hn`, or run as root")
    need = devices * (KERNEL_BYTES_A_LINK + GATEWAY_BYTES_A_LINK + SWARM_BYTES_A_LINK) + SPARE_BYTES
    available = kernel_bytes()["memavailable"]
    if available < need:
        found.append(f"{available / 1e9:.1f} GB of memory are available, about {need / 1e9:.1f} GB are needed")
    return found


def _sysctl(name: str) -> int:
    return int(Path("/proc/sys", name).read_text().split()[0])


async def take(run: Run) -> Measured:
    n = run.size(FULL, QUICK)
    short = shortages(n)
    if short:
        return Measured(value=None, unit="devices", n=n, note="this machine is too small: " + "; ".join(short))
    return await hold(n, run)


async def hold(n: int, run: Run) -> Measured:
    limit = open_files()
    heartbeat_s = run.size(HEARTBEAT_FULL_S, HEARTBEAT_QUICK_S)
    watched_s = WATCHED_QUICK_S if run.quick else WATCHED_FULL_S
    reactors = reactors_for(n, limit)
    settings = (
        f"edge.reactors={reactors}",
        f"edge.heartbeat_s={heartbeat_s}",
        f"edge.login_timeout_s={LOGIN_TIMEOUT_S}",
        # a registration dirties a random page: commits that wait for more of them write much less
        "store.commit_ms=50",
        # each of a hundred reactors has two mailboxes
        "edge.mailbox_bytes=262144",
        "edge.provider_frame_bytes=65536",
    )
    before = kernel_bytes()
    async with (
        Stage(*settings) as stage,
        Swarm(port=stage.device_port, key=stage.key, heartbeat=heartbeat_s, devices=n) as swarm,
    ):
        empty = private_bytes(stage.pid)
        seconds, logins = 0.0, []
        for up in range(0, n, STEP):
            part = await swarm.connect(min(STEP, n - up))
            seconds += part["seconds"]
            logins.append({"devices": min(up + STEP, n), "per_s": part["per_s"], "login_ms": part["login_ms"]})
            run.say(f"{min(up + STEP, n):,} devices on line, {part['per_s']:,.0f} logins/s")
        run.say(f"all hold for {watched_s:g} s")
        idle = await swarm.do("idle", seconds=watched_s)
        stats = await swarm.do("stats")
        memory = _memory(stage.pid, swarm.pid, empty, before, n)
        more: dict[str, Any] = {
            "lost": idle["lost"],
            "reactors": reactors,
            "heartbeat_s": heartbeat_s,
            "heartbeats": idle["heartbeats"],
            "pong_ms": idle["pong_ms"],
            "logins_per_s": n / seconds,
            "connect_s": seconds,
            "logins": logins,
            "memory": memory,
        }
        run.say("directed pushes, then one broadcast")
        more["directed"] = await swarm.do(
            "push",
            rate=PUSH_RATE,
            seconds=PUSH_S,
            batch=16,
            bytes=100,
            targets="online",
            window=8_192,
            connections=1,
        )
        more["broadcast"] = await swarm.broadcast(timeout_s=BROADCAST_S)
        stage.check()
    return _measured(n, stats["online"], more)


def _memory(gateway: int, swarm: int, empty: int, before: dict[str, int], n: int) -> dict[str, Any]:
    """User and kernel memory, in all and a device; the kernel's counts both ends of each connection."""
    after = kernel_bytes()
    user = private_bytes(gateway)
    slab = after["slab"] - before["slab"]
    return {
        "gateway_private_bytes": user,
        "gateway_resident_bytes": resident_bytes(gateway),
        "gateway_bytes_a_device": (user - empty) / n,
        "swarm_private_bytes": private_bytes(swarm),
        "swarm_bytes_a_device": private_bytes(swarm) / n,
        "kernel_slab_bytes": slab,
        "kernel_slab_bytes_a_connection": slab / n,
        "kernel_tcp_buffer_bytes": after["tcp_buffers"] - before["tcp_buffers"],
        "machine_available_before_bytes": before["memavailable"],
        "machine_available_bytes": after["memavailable"],
        "machine_bytes_a_connection": (before["memavailable"] - after["memavailable"]) / n,
        "largest_caches_bytes": kernel_objects(),
    }


def _measured(n: int, online: int, more: dict[str, Any]) -> Measured:
    memory, directed, broadcast = more["memory"], more["directed"], more["broadcast"]
    return Measured(
        value=online,
        unit="devices",
        n=n,
        note=f"{more['lost']} lost; {more['logins_per_s']:,.0f} logins/s; "
        f"heartbeat p99 {more['pong_ms']['p99']:.1f} ms; "
        f"a device: gateway {memory['gateway_bytes_a_device']:.0f} B, swarm {memory['swarm_bytes_a_device']:.0f} B, "
        f"kernel slabs {memory['kernel_slab_bytes_a_connection']:,.0f} B for both ends; "
        f"directed p99 {directed['delivery_ms']['p99']:.1f} ms at {directed['delivered_per_s']:,.0f}/s; "
        f"broadcast {broadcast['per_s']:,.0f}/s, all in {broadcast['seconds']:.1f} s",
        more=more,
    )
