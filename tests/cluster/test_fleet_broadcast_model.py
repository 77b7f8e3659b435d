"""Broadcasts of a fleet against a set model, in any order of broadcasts, recalls, acks, updates and changes of owners:
each registration gets each live one that matches, and none that it acked once more."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from packaging.specifiers import SpecifierSet
from spread_rig import PARTITIONS, World
from store_rig import APP

from gateway.cluster.memory_broadcasts import SharedBroadcasts
from gateway.model.errors import UnknownPush

VERSIONS = ["1.0", "2.0", "3.0"]
RANGES = ["", ">=2.0", "<2", "!=2.0"]
DEVICES = ["one", "two"]
PLACES = st.integers(0, PARTITIONS - 1)


class BroadcastFleet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.temporary = tempfile.TemporaryDirectory()
        self.versions: dict[tuple[int, int], str] = {}  # (partition, registration) → version
        self.live: dict[str, tuple[str, int, int]] = {}  # text → range, Unix seconds of its end, what it is known by
        self.home: dict[str, int] = {}
        self.acked: set[tuple[int, int, str]] = set()
        self.came_when_acked: dict[tuple[int, int, str], int] = {}
        self.texts = 0
        self.folders: dict[int, Path] = {}

    @initialize()
    def start(self) -> None:
        async def go() -> None:
            self.shared = SharedBroadcasts()
            self.world = World(Path(self.temporary.name), self.shared.node)
            for number in (1, 2):
                await self.world.add_node(number)
            for partition in range(PARTITIONS):
                await self.world.adopt(partition, 1)

        self.runner.run(go())

    def owned(self) -> list[int]:
        return sorted(self.world.cores)

    async def settle(self) -> None:
        for _ in range(3):
            await self.world.settle()

    # --- what happens

    @rule(place=PLACES, device=st.sampled_from(DEVICES), version=st.sampled_from(VERSIONS))
    def register(self, place: int, device: str, version: str) -> None:
        if place not in self.world.cores:
            return

        async def go() -> None:
            core = self.world.cores[place]
            number = core.register(device, version)
            self.versions[place, number] = version
            core.edge.connect(number)
            await self.settle()

        self.runner.run(go())

    @rule(place=PLACES, versions=st.sampled_from(RANGES), ttl=st.sampled_from([30, 300, 3_600]))
    def broadcast(self, place: int, versions: str, ttl: int) -> None:
        if place not in self.world.cores:
            return

        async def go() -> None:
            self.texts += 1
            text = f"b{self.texts}"
            target = {"versions": versions} if versions else {"everyone": True}
            seq, done = self.world.cores[place].push(text, ttl=ttl, **target)
            await done
            await self.settle()
            self.live[text] = (versions, self.world.clock() // 1_000 + ttl, seq)
            self.home[text] = place

        self.runner.run(go())

    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        shown = sorted(
            (place, number, text)
            for place, core in self.world.cores.items()
            for (number, _), text in core.edge.flights.items()
            if (place, number, text) not in self.acked
        )
        if not shown:
            return
        place, number, text = data.draw(st.sampled_from(shown))

        async def go() -> None:
            assert self.world.cores[place].edge.ack(number, text)
            self.acked.add((place, number, text))
            self.came_when_acked[place, number, text] = self.world.came[place][number, text]
            await self.settle()

        self.runner.run(go())

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def recall(self, data: st.DataObject) -> None:
        text = data.draw(st.sampled_from(sorted(self.live)))
        core = self.world.cores.get(self.home[text])
        if core is None:
            return

        async def go() -> None:
            try:
                await core.dispatch.recall(APP, self.live[text][2])
            except UnknownPush:
                raise AssertionError("it is live") from None
            await self.settle()

        self.runner.run(go())
        del self.live[text]

    @rule(place=PLACES, kill=st.booleans())
    def lose_owner(self, place: int, kill: bool) -> None:
        if place not in self.world.cores or len(self.world.cores) == 1:
            return

        async def go() -> None:
            self.folders.pop(place, None)
            if kill:
                await self.world.kill(place)
            else:
                self.folders[place] = await self.world.hand_over(place)

        self.runner.run(go())

    @rule(place=PLACES, number=st.integers(1, 2), same_folder=st.booleans())
    def adopt(self, place: int, number: int, same_folder: bool) -> None:
        if place in self.world.cores:
            return

        async def go() -> None:
            folder = self.folders.pop(place, None) if same_folder else None
            core = await self.world.adopt(place, number, folder=folder)
            core.edge.connect(*(number for at, number in self.versions if at == place))
            await self.settle()

        self.runner.run(go())

    @rule(seconds=st.sampled_from([1, 40, 400]))
    def time_passes(self, seconds: int) -> None:
        async def go() -> None:
            self.world.clock.now_ms += seconds * 1_000
            for core in self.world.cores.values():
                core.dispatcher.tick()
            await self.settle()

        self.runner.run(go())
        now_s = self.world.clock() // 1_000
        self.live = {text: entry for text, entry in self.live.items() if entry[1] > now_s}

    @rule()
    def the_stream_forgets_what_is_over(self) -> None:
        places = {self.shared.last}
        for node in self.world.nodes.values():
            node.feed._tidy()
            places |= {seq & 0xFFFF_FFFF for seq in node.feed._told}
        for place in [place for place in self.shared.messages if place not in places]:
            if b"taken_back" not in self.shared.messages[place]:
                self.shared.drop(place)

    # --- what holds

    @invariant()
    def each_waits_for_what_is_live_and_was_not_acked(self) -> None:
        if not hasattr(self, "world"):
            return
        for (place, number), version in self.versions.items():
            core = self.world.cores.get(place)
            if core is None:
                continue
            matching = {
                text
                for text, (versions, _, _) in self.live.items()
                if SpecifierSet(versions, prereleases=True).contains(version)
            }
            wanted = {text for text in matching if (place, number, text) not in self.acked}
            waiting = {
                core.dispatcher.broadcast.notification(seq).content.text
                for seq in core.store.broadcasts.waiting(number)
            }
            assert waiting == wanted
            assert all(core.came[number, text] for text in wanted)

    @invariant()
    def nothing_acked_comes_again(self) -> None:
        for (place, number, text), count in self.came_when_acked.items():
            assert self.world.came[place][number, text] == count

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.runner.run(self.world.close())
        self.runner.close()
        self.temporary.cleanup()


class LongLife(BroadcastFleet):
    pass


TestBroadcastFleet = BroadcastFleet.TestCase
TestBroadcastFleet.settings = settings(max_examples=4, stateful_step_count=15, suppress_health_check=list(HealthCheck))
TestLongLife = pytest.mark.slow(LongLife.TestCase)
TestLongLife.settings = settings(max_examples=40, stateful_step_count=40, suppress_health_check=list(HealthCheck))
