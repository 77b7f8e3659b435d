"""K4: what a registration takes more in RAM because it is in a fleet: at the node that its device is connected to, and
at its owner. Private memory of a process of its own with N of them, against one with N as a gateway alone holds them.

    python -m bench.system.far_entries KIND N       # bytes an entry on stdout; KIND: alone, node, owner
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from bench.system.figures import Measured, Run
from bench.system.stage import ROOT, BenchFailed, private_bytes
from gateway._native.registry import Registry
from gateway.cluster.node_homes import NodeHomes

if TYPE_CHECKING:
    from gateway.cluster.far_edge import FarEdge

FULL, QUICK = 1_000_000, 200_000
APP, COHORT, PARTITIONS = "bench", "1.0", 16
KINDS = ("alone", "node", "owner")
#: a gateway issues ids of so many letters
DEVICE_LETTERS = 12
#: numbers of links and nodes, as large as they get
LINK, FAR_NODE = 7 << 56, 1_000
NOW_MS = 1_800_000_000_000


def token_of(number: int) -> bytes:
    """Spread as an HMAC is: multiplied by odd numbers of 64 bits."""
    mixed = (number + 1) * 0x9E3779B97F4A7C15, (number + 1) * 0xC2B2AE3D27D4EB4F
    return b"".join((part & (1 << 64) - 1).to_bytes(8, "big") for part in mixed)


def key_of(number: int) -> int:
    return int.from_bytes(token_of(number)[:8], "little") | 1


def fill_alone(n: int) -> Registry:
    """Bound registrations of devices that are connected here."""
    registry = Registry()
    for number in range(1, n + 1):
        registry.add(number, token_of(number), 0)
        registry.login(key_of(number), LINK | number)
        registry.bind(number, key_of(number))
    return registry


def fill_node(n: int) -> NodeHomes:
    """The same, owned elsewhere."""
    homes = NodeHomes(lambda _: 0)
    for number in range(1, n + 1):
        device = f"{number:0{DEVICE_LETTERS}d}"
        local = homes.take(number % PARTITIONS, number, token_of(number), device, APP, COHORT)
        homes.registry.login(key_of(number), LINK | number)
        homes.registry.bind(local, key_of(number))
        homes.links[local] = LINK | number
        homes.bound_ms[local] = NOW_MS
    return homes


def fill_owner(n: int) -> FarEdge:
    """Registrations of this node whose devices are connected elsewhere, as they are told to it one by one."""
    from gateway.cluster.far_edge import FarEdge
    from gateway.config.sections import Config
    from gateway.metrics import Metrics

    registry = Registry()
    nobody = SimpleNamespace(registry=registry, pending_of=lambda *_: [], waiting=lambda _: [], tell=lambda *_: None)
    edge = FarEdge(
        cast(Any, nobody),
        0,
        1,
        directory=cast(Any, nobody),
        journal=cast(Any, nobody),
        broadcasts=cast(Any, nobody),
        config=Config(),
        metrics=Metrics(process=False),
        clock=lambda: NOW_MS,
    )
    for number in range(1, n + 1):
        registry.add(number, token_of(number), 0)
        edge.bind(FAR_NODE, number, number, number, key_of(number), at_ms=NOW_MS, floor=0, again=True)
    return edge


def measure(kind: str, n: int) -> float:
    fill: Any = {"alone": fill_alone, "node": fill_node, "owner": fill_owner}[kind]
    fill(1_000)  # imports, and what the first ones of anything take
    gc.collect()
    before = private_bytes(os.getpid())
    kept = fill(n)
    gc.collect()
    after = private_bytes(os.getpid())
    del kept
    return (after - before) / n


async def _measured(kind: str, n: int) -> float:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.system.far_entries", kind, str(n), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    out, _ = await child.communicate()
    if child.returncode:
        raise BenchFailed(f"the process for {kind!r} failed with exit code {child.returncode}")
    return float(out)


async def take(run: Run) -> Measured:
    n = run.size(FULL, QUICK)
    found = {}
    for kind in KINDS:
        found[kind] = await _measured(kind, n)
        run.say(f"{kind}: {found[kind]:.1f} bytes of each of {n:,}")
    node, owner = found["node"] - found["alone"], found["owner"] - found["alone"]
    return Measured(
        value=node,
        unit="bytes",
        n=n,
        floor=found["alone"],
        note=f"at the device's node {node:.1f} bytes more than the {found['alone']:.1f} of a gateway alone; at the "
        f"owner {owner:.1f} more",
        more={"owner_bytes": owner, "alone_bytes": found["alone"], "node_whole_bytes": found["node"]},
    )


if __name__ == "__main__":
    print(measure(sys.argv[1], int(sys.argv[2])))
