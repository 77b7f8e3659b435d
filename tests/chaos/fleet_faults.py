"""What breaks in a fleet, each with its undo: processes killed and paused, networks cut, disks full or lost, clocks put
forward and back. Each is written into the history with its begin and its end. Must undo what it did, whatever happens.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from chaos_disks import SmallDisk
from fault_proxy import FaultProxy, Mode
from fleet_history import Fault, History
from fleet_network import Network

from gateway.tour.fleet_home import FleetHome, NotStarted

#: of the package libfaketime
_FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
#: tries to start a gateway
_STARTS = 6
CAN_SKEW = _FAKETIME is not None


@dataclass
class Ruins:
    """What faults work on."""

    home: FleetHome
    history: History
    rng: random.Random
    #: longer than this, and others take what a gateway has
    lease_s: float
    network: Network | None = None
    #: between gateways (by place) and NATS servers, where there is no network of their own
    proxies: dict[int, list[FaultProxy]] = field(default_factory=dict)
    #: by the name of the process
    disks: dict[str, SmallDisk] = field(default_factory=dict)
    #: who works on it now; "nats" and "network" are one each
    locks: dict[str, asyncio.Lock] = field(default_factory=dict)


Play = Callable[[Ruins, int, float], AbstractAsyncContextManager[None]]


class Kind(NamedTuple):
    """A fault. `targets`: of what; `weight`: how often beside the others."""

    name: str
    targets: str  # gateway | nats
    weight: int
    play: Play
    needs: str = ""  # fleet | network | proxy | disk | faketime

    @property
    def is_of_one(self) -> bool:
        """It is one of a gateway alone, too."""
        return self.targets == "gateway" and self.play in (*_OF_ONE,)


async def _start_again(ruins: Ruins, at: int, environment: Mapping[str, str] | None = None) -> None:
    """As who looks after it does: again and again, where it ends because it finds no NATS server."""
    for left in range(_STARTS, 0, -1):
        try:
            await ruins.home.restart(at, environment=environment)
            return
        except NotStarted:
            if left == 1:
                raise
            await asyncio.sleep(0.5)


# --- gateways --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _kill_gateway(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    node = ruins.home.nodes[at]
    await node.kill()
    try:
        await asyncio.sleep(seconds)
        yield
    finally:
        await _start_again(ruins, at)


@asynccontextmanager
async def _blink_gateway(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    """Killed and started in one go: the new life finds the old one's lease."""
    await ruins.home.nodes[at].kill()
    try:
        yield
    finally:
        await _start_again(ruins, at)


@asynccontextmanager
async def _lose_gateway(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    """Killed, and its disk is gone: another machine takes its place."""
    node = ruins.home.nodes[at]
    await node.kill()
    try:
        for path in node.store.iterdir() if node.store.exists() else ():
            if path.name == "filler":
                continue
            await asyncio.to_thread(shutil.rmtree if path.is_dir() else path.unlink, path)
        await asyncio.sleep(seconds)
        yield
    finally:
        await _start_again(ruins, at)


@asynccontextmanager
async def _roll_gateway(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    """Drained in good order, and started again."""
    await ruins.home.nodes[at].terminate()
    try:
        yield
    finally:
        await _start_again(ruins, at)


@asynccontextmanager
async def _pause_gateway(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    """Beyond its lease: it wakes up as the owner of what is another's."""
    node = ruins.home.nodes[at]
    node.pause()
    try:
        await asyncio.sleep(ruins.lease_s + seconds)
        yield
    finally:
        node.resume()


@asynccontextmanager
async def _stutter_gateway(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    """Paused for less than its lease, again and again."""
    node = ruins.home.nodes[at]
    try:
        for _ in range(4):
            node.pause()
            await asyncio.sleep(ruins.rng.uniform(0.1, ruins.lease_s * 0.6))
            node.resume()
            await asyncio.sleep(0.2)
        yield
    finally:
        node.resume()


def faked(offset_s: int) -> dict[str, str]:
    """The environment of a process whose clock is so far ahead; the monotonic one is right."""
    assert _FAKETIME is not None
    return {"LD_PRELOAD": str(_FAKETIME), "FAKETIME": f"{offset_s:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@asynccontextmanager
async def _skew_gateway(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    """Killed, and started again with a clock that is wrong for this life."""
    offset = ruins.rng.choice((-3_600, -60, -5, 5, 60, 3_600))
    await ruins.home.nodes[at].kill()
    await _start_again(ruins, at, faked(offset))
    try:
        await asyncio.sleep(seconds)
        yield
    finally:
        await _start_again(ruins, at)


# --- NATS servers ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _kill_nats(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    ruins.home.signal_nats(at, signal.SIGKILL)
    try:
        await asyncio.sleep(seconds)
        yield
    finally:
        ruins.home.start_nats_server(at)
        await ruins.home.nats_healthy()


@asynccontextmanager
async def _pause_nats(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    ruins.home.signal_nats(at, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
        yield
    finally:
        ruins.home.signal_nats(at, signal.SIGCONT)
        await ruins.home.nats_healthy()


@asynccontextmanager
async def _kill_all_nats(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    """What was answered 201 is on disks, not in memory."""
    assert ruins.home.nats is not None
    count = len(ruins.home.nats.servers)
    for number in range(count):
        ruins.home.signal_nats(number, signal.SIGKILL)
    try:
        await asyncio.sleep(seconds / 2)
        yield
    finally:
        for number in range(count):
            ruins.home.start_nats_server(number)
        await ruins.home.nats_healthy()


# --- networks --------------------------------------------------------------------------------------------------------


def _nats_names(ruins: Ruins) -> list[str]:
    assert ruins.home.nats is not None
    return [server.name for server in ruins.home.nats.servers]


@asynccontextmanager
async def _cut_gateway_from_nats(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    """Devices and providers reach it, and it reaches no NATS server."""
    assert ruins.network is not None
    ruins.network.cut(ruins.home.nodes[at].name, _nats_names(ruins))
    try:
        await asyncio.sleep(ruins.lease_s + seconds)
        yield
    finally:
        ruins.network.mend()


@asynccontextmanager
async def _deafen_gateway(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    """What NATS sends does not arrive; what it sends does."""
    assert ruins.network is not None
    for server in _nats_names(ruins):
        ruins.network.deafen(server, ruins.home.nodes[at].name)
    try:
        await asyncio.sleep(ruins.lease_s + seconds)
        yield
    finally:
        ruins.network.mend()


@asynccontextmanager
async def _unplug_gateway(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    assert ruins.network is not None
    ruins.network.unplug(ruins.home.nodes[at].name)
    try:
        await asyncio.sleep(ruins.lease_s + seconds)
        yield
    finally:
        ruins.network.mend()


@asynccontextmanager
async def _cut_nats_from_nats(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    """Gateways reach it, and it is alone."""
    assert ruins.network is not None
    names = _nats_names(ruins)
    ruins.network.cut(names[at], [name for name in names if name != names[at]])
    try:
        await asyncio.sleep(ruins.lease_s + seconds)
        yield
    finally:
        ruins.network.mend()
        await ruins.home.nats_healthy()


@asynccontextmanager
async def _unplug_nats(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    assert ruins.network is not None
    ruins.network.unplug(_nats_names(ruins)[at])
    try:
        await asyncio.sleep(ruins.lease_s + seconds)
        yield
    finally:
        ruins.network.mend()
        await ruins.home.nats_healthy()


@asynccontextmanager
async def _stall_proxies(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    for proxy in ruins.proxies[at]:
        await proxy.set(Mode.STALL)
    try:
        await asyncio.sleep(ruins.lease_s + seconds)
        yield
    finally:
        for proxy in ruins.proxies[at]:
            await proxy.set(Mode.PASS)


@asynccontextmanager
async def _cut_proxies(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    for proxy in ruins.proxies[at]:
        await proxy.set(Mode.CUT)
    try:
        await asyncio.sleep(seconds)
        yield
    finally:
        for proxy in ruins.proxies[at]:
            await proxy.set(Mode.PASS)


@asynccontextmanager
async def _slow_proxies(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    for proxy in ruins.proxies[at]:
        proxy.delay_s = ruins.rng.uniform(0.05, 0.3)
    try:
        await asyncio.sleep(seconds)
        yield
    finally:
        for proxy in ruins.proxies[at]:
            proxy.delay_s = 0.0


# --- disks -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _fill_gateway(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    node = ruins.home.nodes[at]
    disk = ruins.disks[node.name]
    await asyncio.to_thread(disk.fill, node.pid)
    try:
        await asyncio.sleep(seconds)
        yield
    finally:
        disk.make_room(node.pid)
        if not node.is_running:
            await _start_again(ruins, at)


@asynccontextmanager
async def _fill_nats(ruins: Ruins, at: int, seconds: float) -> AsyncIterator[None]:
    """A NATS server that finds no room ends its JetStream, and wants to be started again."""
    assert ruins.home.nats is not None
    server = ruins.home.nats.servers[at]
    disk = ruins.disks[server.name]
    await asyncio.to_thread(disk.fill, 0)
    try:
        await asyncio.sleep(seconds)
        yield
    finally:
        disk.make_room(0)
        ruins.home.signal_nats(at, signal.SIGKILL)
        ruins.home.start_nats_server(at)
        await ruins.home.nats_healthy()


_OF_ONE = (
    _kill_gateway,
    _blink_gateway,
    _roll_gateway,
    _pause_gateway,
    _stutter_gateway,
    _unplug_gateway,
    _fill_gateway,
)
KINDS = (
    Kind("kill -9 of a gateway", "gateway", 10, _kill_gateway),
    Kind("kill -9 of a gateway, at once back", "gateway", 4, _blink_gateway),
    Kind("a gateway and its disk lost", "gateway", 4, _lose_gateway, "fleet"),
    Kind("a gateway drained and started", "gateway", 4, _roll_gateway),
    Kind("a gateway paused past its lease", "gateway", 8, _pause_gateway),
    Kind("a gateway that stutters", "gateway", 4, _stutter_gateway),
    Kind("a gateway's clock wrong", "gateway", 4, _skew_gateway, "faketime"),
    Kind("kill -9 of a NATS server", "nats", 8, _kill_nats),
    Kind("a NATS server paused", "nats", 6, _pause_nats),
    Kind("kill -9 of all NATS servers", "nats", 2, _kill_all_nats),
    Kind("a gateway cut from NATS", "gateway", 8, _cut_gateway_from_nats, "network"),
    Kind("a gateway that NATS does not reach", "gateway", 3, _deafen_gateway, "network"),
    Kind("a gateway unplugged", "gateway", 6, _unplug_gateway, "network"),
    Kind("a NATS server cut from the others", "nats", 5, _cut_nats_from_nats, "network"),
    Kind("a NATS server unplugged", "nats", 5, _unplug_nats, "network"),
    Kind("a gateway stalled from NATS", "gateway", 8, _stall_proxies, "proxy"),
    Kind("a gateway's NATS connections cut", "gateway", 6, _cut_proxies, "proxy"),
    Kind("a slow way to NATS", "gateway", 3, _slow_proxies, "proxy"),
    Kind("a gateway's disk full", "gateway", 4, _fill_gateway, "disk"),
    Kind("a NATS server's disk full", "nats", 3, _fill_nats, "disk"),
)


def possible(ruins: Ruins) -> list[Kind]:
    """Faults that can be had on this machine."""
    is_fleet = ruins.home.nats is not None
    has = {
        "": True,
        "fleet": is_fleet,
        "network": ruins.network is not None,
        "proxy": bool(ruins.proxies),
        "disk": bool(ruins.disks),
        "faketime": CAN_SKEW,
    }
    return [kind for kind in KINDS if has[kind.needs] and (is_fleet or kind.is_of_one)]


class Planned(NamedTuple):
    number: int
    kind: Kind
    target: int
    seconds: float
    pause_s: float  # before it


def plan(kinds: list[Kind], count: int, rng: random.Random, *, gateways: int, nats: int) -> list[Planned]:
    """Each kind once at least where there are enough, the others by weight, in random order."""
    chosen = rng.sample(kinds, min(count, len(kinds)))
    chosen += rng.choices(kinds, [kind.weight for kind in kinds], k=count - len(chosen))
    rng.shuffle(chosen)
    return [
        Planned(
            number,
            kind,
            rng.randrange(gateways if kind.targets == "gateway" else nats),
            rng.uniform(0.5, 3.0),
            rng.uniform(0.0, 1.5),
        )
        for number, kind in enumerate(chosen, 1)
    ]


async def strike(ruins: Ruins, planned: Planned) -> None:
    """One fault, from its begin to the end of its undo."""
    home = ruins.home
    if planned.kind.targets == "gateway":
        target = home.nodes[planned.target].name
    else:
        assert home.nats is not None
        target = home.nats.servers[planned.target].name
    detail = f"{planned.seconds:.1f} s"
    note = ruins.history.note
    async with AsyncExitStack() as stack:
        # always in this order, so that two never wait for each other
        wanted = [target] if planned.kind.targets == "gateway" else ["nats"]
        wanted += ["network"] if planned.kind.needs == "network" else []
        for name in wanted:
            await stack.enter_async_context(ruins.locks.setdefault(name, asyncio.Lock()))
        note(Fault(number=planned.number, name=planned.kind.name, target=target, begins=True, detail=detail))
        try:
            async with planned.kind.play(ruins, planned.target, planned.seconds):
                pass
        finally:
            note(Fault(number=planned.number, name=planned.kind.name, target=target, begins=False))
