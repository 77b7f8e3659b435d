"""A fleet under load while things break in a random order that a seed gives; then everything is healed, and the history
is judged. Must leave nothing running and nothing mounted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from chaos_disks import CAN_MOUNT, SmallDisk, mounted
from fault_proxy import FaultProxy
from fleet_checks import Broken, Story, check, figures, lost
from fleet_crowd import FleetCrowd
from fleet_faults import CAN_SKEW, Kind, Planned, Ruins, plan, possible, strike
from fleet_history import Fault, History, Settled, Stopped
from fleet_network import CAN_MAKE_NETWORKS, Network
from fleet_provider import FleetProvider

from gateway.tour.fleet_home import FleetHome

LEASE_S = 2.0
#: short times, so that late acks, resends, handovers and snapshots happen all the time
SETTINGS = ("delivery.ack_ms=800", "delivery.retry_ms=1000", "log.level=info", "edge.window=16")
FLEET_SETTINGS = (
    f"cluster.lease_s={LEASE_S}",
    "cluster.beat_s=0.4",
    "cluster.snapshot_bytes=262144",
    "cluster.ask_timeout_s=4",
)
_GATEWAY_DISK = 160 << 20
_NATS_DISK = 384 << 20
_HEAL_S = 90.0
_FETCH_S = 30.0
_LOOK_UPS = 800


@dataclass
class Load:
    """How much at once."""

    devices: int = 60
    workers: int = 6
    pause_s: float = 0.1


@dataclass
class Result:
    seed: int
    broken: list[Broken]
    figures: dict[str, int]
    faults: dict[str, int]
    answers: dict[str, int]
    seconds: dict[str, float]
    missing: list[str] = field(default_factory=list)  # kinds that could not be had here
    complaints: list[str] = field(default_factory=list)

    def table(self) -> str:
        rows = [("seed", str(self.seed)), *((name, f"{count:,}") for name, count in self.figures.items())]
        rows += [(f"answer {name}", f"{count:,}") for name, count in sorted(self.answers.items())]
        rows += [(f"fault: {name}", str(count)) for name, count in sorted(self.faults.items())]
        rows += [(f"seconds {name}", f"{value:.1f}") for name, value in self.seconds.items()]
        rows += [("not had on this machine", name) for name in self.missing]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def write(self, file: Path) -> None:
        file.write_text(
            json.dumps(
                {
                    "seed": self.seed,
                    "broken": [f"{rule}: {text}" for rule, text in self.broken],
                    "figures": self.figures,
                    "faults": self.faults,
                    "answers": self.answers,
                    "seconds": self.seconds,
                    "missing": self.missing,
                },
                indent=1,
            )
        )


class FleetRun:
    """`folder` gets stores, logs and the history. `nodes` 1 and `nats` 0: a gateway alone."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        faults: int,
        lanes: int = 2,
        load: Load | None = None,
        nodes: int = 3,
        nats: int = 3,
        networks: bool = CAN_MAKE_NETWORKS,
        spool: bool = False,
    ) -> None:
        self.folder = folder
        self.seed = seed
        self.history = History(folder / "history.jsonl")
        self._faults = faults
        self._lanes = lanes
        self._load = load or Load()
        self._nodes = nodes
        self._nats = nats
        self._networks = networks
        self._spool = spool
        self._seconds: dict[str, float] = {}

    async def run(self) -> Result:
        try:
            async with contextlib.AsyncExitStack() as stack:
                return await self._run(stack)
        finally:
            self.history.close()

    async def _run(self, stack: contextlib.AsyncExitStack) -> Result:
        ruins = await self._build(stack)
        home = ruins.home
        began = time.monotonic()
        await home.start()
        self._seconds["to start"] = time.monotonic() - began
        crowd = FleetCrowd(home.nodes, self.history, random.Random(self.seed + 1))
        provider = FleetProvider(home, crowd, self.history, random.Random(self.seed + 2))
        stack.push_async_callback(crowd.close)
        stack.push_async_callback(provider.close)
        await provider.create_apps()
        crowd.people(self._load.devices)
        await crowd.start()
        provider.start(self._load.workers, self._load.pause_s)
        await asyncio.sleep(2)
        await self._break(ruins)
        await self._heal(home, provider, crowd)
        began = time.monotonic()
        await provider.look_up(random.Random(self.seed).sample(provider.taken, min(len(provider.taken), _LOOK_UPS)))
        self.history.note(Settled())
        broken = check(self.history)
        self._seconds["to judge"] = time.monotonic() - began
        names = Counter(fault.name for fault in self.history.of(Fault) if fault.begins)
        return Result(
            seed=self.seed,
            broken=broken,
            figures=figures(self.history),
            faults=dict(names),
            answers=dict(provider.counts),
            seconds=self._seconds,
            missing=self._missing(ruins),
            complaints=[line for node in home.nodes for line in node.complaints()],
        )

    # --- the place ------------------------------------------------------------------------------------------------

    async def _build(self, stack: contextlib.AsyncExitStack) -> Ruins:
        gateways = [f"g{number}" for number in range(1, self._nodes + 1)]
        servers = [f"n{number}" for number in range(1, self._nats + 1)]
        network = stack.enter_context(Network([*gateways, *servers])) if self._networks else None
        disks = {}
        if CAN_MOUNT:
            for name in gateways:
                disks[name] = stack.enter_context(_small(self.folder / name / "store", _GATEWAY_DISK))
            for name in servers:
                disks[name] = stack.enter_context(_small(self.folder / "nats" / name / "jetstream", _NATS_DISK))
        settings = [*SETTINGS, *(FLEET_SETTINGS if servers else ())]
        home = FleetHome(self.folder, nodes=self._nodes, nats=self._nats, settings=settings, ground=network)
        stack.push_async_callback(home.close)
        for node in home.nodes if self._spool else ():
            node.settings.append(f"cluster.spool={node.folder / 'spool'}")
        proxies: dict[int, list[FaultProxy]] = {}
        if network is None and home.nats is not None:
            for at, node in enumerate(home.nodes):
                ways = [FaultProxy(server.host, server.port) for server in home.nats.servers]
                proxies[at] = [await stack.enter_async_context(way) for way in ways]
                urls = ",".join(f"nats://127.0.0.1:{proxy.port}" for proxy in proxies[at])
                node.settings.append(f"cluster.url={urls}")
        rng = random.Random(self.seed + 3)
        return Ruins(home, self.history, rng, LEASE_S, network, proxies, disks)

    def _missing(self, ruins: Ruins) -> list[str]:
        said = []
        if ruins.network is None:
            said.append("networks of their own (needs root)")
        if not ruins.disks:
            said.append("full disks (needs root, and leave to mount)")
        if not CAN_SKEW:
            said.append("wrong clocks (apt install faketime)")
        return said

    # --- the trouble ----------------------------------------------------------------------------------------------

    async def _break(self, ruins: Ruins) -> None:
        """All faults of the plan, in lanes beside each other."""
        began = time.monotonic()
        planned = plan(
            self._possible(ruins), self._faults, random.Random(self.seed), gateways=self._nodes, nats=max(self._nats, 1)
        )
        queue = iter(planned)

        async def lane() -> None:
            for one in queue:
                await asyncio.sleep(one.pause_s)
                await self._strike(ruins, one)

        watch = asyncio.create_task(self._watch(ruins))
        try:
            await asyncio.gather(*(lane() for _ in range(self._lanes)))
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        self._seconds["of faults"] = time.monotonic() - began

    def _possible(self, ruins: Ruins) -> list[Kind]:
        """A spool is gone with the machine it is on, so machines are not lost where there are some."""
        return [kind for kind in possible(ruins) if not (self._spool and kind.needs == "fleet")]

    async def _strike(self, ruins: Ruins, planned: Planned) -> None:
        await strike(ruins, planned)

    async def _watch(self, ruins: Ruins) -> None:
        """A gateway that ends though nobody ended it is found, and started again as who looks after it would."""
        while True:
            await asyncio.sleep(0.2)
            for at, node in enumerate(ruins.home.nodes):
                lock = ruins.locks.setdefault(node.name, asyncio.Lock())
                if node.is_running or lock.locked():
                    continue
                async with lock:
                    if not node.is_running:
                        self.history.note(Stopped(device=-1, error=f"{node.name} ended by itself: {node.last_words()}"))
                        await ruins.home.restart(at)

    # --- the end --------------------------------------------------------------------------------------------------

    async def _heal(self, home: FleetHome, provider: FleetProvider, crowd: FleetCrowd) -> None:
        """Everything runs, everything that was accepted has come, and the feed tells of it; or the time is over."""
        began = time.monotonic()
        end = began + _HEAL_S
        await home.nats_healthy()
        for at, node in enumerate(home.nodes):
            if not node.is_running:
                await home.restart(at)
        await home.until_ready(_HEAL_S)
        self._seconds["until ready"] = time.monotonic() - began
        await provider.stop()
        try:
            await provider.settle(end - time.monotonic())
            await provider.empty_spools(end - time.monotonic())
            await crowd.settle(end - time.monotonic())
        except TimeoutError as error:
            why = str(error) or "pushes with a key are not answered"
            self.history.note(Stopped(device=-1, error=f"after all was healed: {why}"))
        while time.monotonic() < end:
            with contextlib.suppress(httpx.HTTPError):
                await provider.follow_to_the_end(quiet_s=0.5)
            if not any(lost(Story(self.history))):
                break
            await asyncio.sleep(0.5)
        self._seconds["until all came"] = time.monotonic() - began
        await self._confirm(crowd)
        with contextlib.suppress(httpx.HTTPError):
            await provider.follow_to_the_end()
            while time.monotonic() < end and any(text.rule == "ends" for text in check(self.history)):
                await provider.follow_to_the_end()
            await provider.read_whole_feeds()

    async def _confirm(self, crowd: FleetCrowd) -> None:
        try:
            await crowd.fetch(_FETCH_S)
        except TimeoutError:
            self.history.note(Stopped(device=-1, error="after all was healed: FETCH is not answered"))


@contextlib.contextmanager
def _small(folder: Path, size_bytes: int) -> Iterator[SmallDisk]:
    with mounted(folder, size_bytes) as disk:
        yield SmallDisk(disk)
