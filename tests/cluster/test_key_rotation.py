"""Device keys of a fleet are changed in two steps: whole fleets in one loop, in virtual time, with nodes that are cut
off, die and come in the middle."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet_in_process import Fleet, Node
from structlog.testing import capture_logs
from virtual_time import run

from gateway.auth.device import DeviceVerifier
from gateway.cluster.beats import LoopHeart
from gateway.cluster.entrance import enter
from gateway.cluster.fleet_records import KEYS, Beat, build, parse_beat
from gateway.cluster.key_record import KeyRecord
from gateway.cluster.key_rotation import TAKEN_S, KeyRotation, Told
from gateway.cluster.key_watch import KeyWatch
from gateway.cluster.leases import Bucket, Entry, InDoubt, LocalLeases
from gateway.cluster.members import FleetMembers
from gateway.cluster.shared_keys import FleetSeal, OpenedKeys, build_shared, share_keys
from gateway.config.sections import Auth, Config
from gateway.model.cluster import VERSION
from gateway.model.errors import ConfigError, Conflict, GatewayError, NodeUnreachable
from gateway.model.frames import Hello
from gateway.store.device_keys import DeviceKeyRing
from gateway.store.keys import KEY_IDS, ServerKeys

SECRET = b"s" * 40


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    with capture_logs() as found:
        yield found


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which know nothing of virtual time."""

    async def at_once(work: Callable[..., object], *words: object) -> object:
        return work(*words)

    monkeypatch.setattr(asyncio, "to_thread", at_once)


class OrderedLeases(LocalLeases):
    """As a real watch: behind what was lost nothing is told before all is told again."""

    is_torn = False

    def arrive(self, entry: Entry) -> None:
        if self.is_cut:
            self.is_torn = True
        elif self.is_torn:
            self.is_torn = False
            for each in sorted(self.bucket.entries.values(), key=lambda each: each.revision):
                super().arrive(each)
        else:
            super().arrive(entry)


class Forgetful(LocalLeases):
    """Each change is in doubt the first two times: not made, then made and not answered."""

    forgot = 0

    async def update(self, key: str, value: bytes, revision: int) -> int:
        self.forgot += 1
        match self.forgot % 3:
            case 1:
                raise InDoubt
            case 2:
                await super().update(key, value, revision)
                raise InDoubt
        return await super().update(key, value, revision)


class KeyedNode(Node):
    """A node that decides on HELLOs."""

    folder: Path

    async def start(self, *, version: int = VERSION) -> None:
        self.leases = OrderedLeases(self.fleet.bucket, latency_s=self.fleet.latency_s)
        settings = self.fleet.settings(self.name)
        time, skew_s = asyncio.get_running_loop().time, self.skew_s

        def now() -> float:
            return time() + skew_s

        config = Config(cluster=settings)
        config.store.path = str(self.folder / self.name)
        settings.secret_file = str(self.folder / "secret")
        self.keys = await share_keys(config, self.leases)
        entrance = await enter(settings, self.leases, keys=self.keys.revision, now=now, version=version)
        self.watch = KeyWatch(
            self.keys, entrance, settings.lease_s, lambda revision: self.members.announce_keys(revision), now=now
        )
        self.members = FleetMembers(
            settings,
            entrance,
            self.leases,
            LoopHeart(self.beat_leases, settings, now=now),
            self.tenant,
            self.metrics,
            is_up=lambda: not self.leases.is_cut,
            on_ousted=self.ousted.append,
            hear=self.watch.hear,
            now=now,
        )
        self.verifier = DeviceVerifier(Auth(), self.keys.server, is_current=self.watch.is_current)
        await self.members.start()

    def make(self) -> tuple[str, bytes]:
        return self.verifier.verify(Hello(v=1))[:2]

    def takes(self, device: str, secret: bytes) -> bytes | None:
        """The new secret; None: the device is sent away for now. Unauthorized would end it for good."""
        try:
            return self.verifier.verify(Hello(v=1, device=device, secret=secret)).secret
        except NodeUnreachable:
            return None


class KeyedFleet(Fleet):
    def __init__(self, folder: Path) -> None:
        super().__init__(partitions=4, opens_s=0.01)
        self.folder = folder
        self.said: list[str] = []
        secret = folder / "secret"
        secret.write_bytes(SECRET)
        secret.chmod(0o600)

    def keyed(self) -> dict[str, KeyedNode]:
        return {name: node for name, node in self.nodes.items() if isinstance(node, KeyedNode)}

    async def come(self, name: str, *, version: int = VERSION, skew_s: float = 0.0) -> KeyedNode:
        node = KeyedNode(name, self)
        node.folder, node.skew_s = self.folder, skew_s
        await node.start(version=version)
        self.nodes[name] = node
        return node

    def record(self) -> KeyRecord:
        return KeyRecord(LocalLeases(self.bucket), FleetSeal(SECRET, "heliograph"))

    def rotation(self, leases: LocalLeases | None = None) -> KeyRotation:
        leases = leases or LocalLeases(self.bucket)
        record = KeyRecord(leases, FleetSeal(SECRET, "heliograph"))
        return KeyRotation(leases, record, self.settings("cli"), self.said.append)

    async def ring(self) -> DeviceKeyRing:
        return (await self.record().read()).server.ring

    async def end(self) -> None:
        for node in self.keyed().values():
            await node.watch.close()
        await self.close()


async def two(folder: Path) -> tuple[KeyedFleet, KeyedNode, KeyedNode]:
    fleet = KeyedFleet(folder)
    a, b = await fleet.come("a"), await fleet.come("b")
    await fleet.until(fleet.is_whole)
    return fleet, a, b


def live(work: Coroutine[Any, Any, None]) -> None:
    run(work)


def test_no_secret_is_made_with_a_new_key_before_all_nodes_have_it(tmp_path: Path) -> None:
    async def work() -> None:
        fleet, a, b = await two(tmp_path)
        device, secret = a.make()
        assert secret[0] == 1
        rotating = asyncio.create_task(fleet.rotation().rotate())
        while not rotating.done():
            made = a.make()[1][0], b.make()[1][0]
            if 2 in made:
                assert all(2 in node.keys.server.device_keys for node in (a, b))
            # one that is ahead makes no difference: nobody turns a new secret into an older one
            assert b.takes(*a.make()) in (b"",) or b.keys.server.device_key_id == 2
            await asyncio.sleep(0.005)
        assert rotating.result() == Told(2, [])
        for node in (a, b):
            assert node.make()[1][0] == 2
            fresh = node.takes(device, secret)
            assert fresh is not None
            assert fresh[0] == 2
        await fleet.end()
        assert ServerKeys.load(tmp_path / "b", may_create=False).ring == await fleet.ring()

    live(work())


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_cut_or_dies_in_between_no_device_is_refused(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)

    async def work() -> None:
        fleet, *_ = await two(tmp_path)
        await fleet.come("c", skew_s=chance.uniform(-1000, 1000))
        made: list[tuple[str, bytes]] = []
        rotating: asyncio.Task[Told] | None = None
        rotated = 0
        for _ in range(600):
            name, node = chance.choice(list(fleet.keyed().items()))
            match chance.randrange(60):
                case 0 if rotating is None:
                    is_begun = (await fleet.ring()).next != -1
                    rotating = asyncio.create_task(fleet.rotation().rotate(finish=is_begun))
                case 1 | 2:
                    node.cut()
                case 3 | 4 | 5 | 6:
                    node.cut(is_cut=False)
                case 7 if len(fleet.nodes) > 1:
                    await node.watch.close()
                    await fleet.kill(name)
                    restart = await fleet.come(name, skew_s=chance.uniform(-1000, 1000))
                    assert restart.make()
                case 8 if rotating is not None:
                    rotating.cancel()  # kill -9 of the command
            if rotating is not None and rotating.done():
                if not rotating.cancelled():
                    error = rotating.exception()
                    assert error is None or isinstance(error, GatewayError), error
                    rotated += error is None
                rotating = None
            made += [(device, secret) for device, secret in (chance.choice(list(fleet.keyed().values())).make(),)]
            del made[:-200]
            for each in fleet.keyed().values():
                for device, secret in chance.sample(made, min(len(made), 12)):
                    each.takes(device, secret)  # or Unauthorized
            await asyncio.sleep(chance.choice([0.0, 0.01, 0.1, 0.7]))
        for node in fleet.nodes.values():
            node.leases.is_cut = False
            node.cut(is_cut=False)
        if rotating is not None:
            rotating.cancel()
            await asyncio.gather(rotating, return_exceptions=True)
        await asyncio.sleep(20)
        told = await fleet.rotation().rotate(finish=(await fleet.ring()).next != -1)
        assert told.silent == []
        for node in fleet.keyed().values():
            assert node.make()[1][0] == told.key_id
            for device, secret in made:
                assert node.takes(device, secret) is not None
        await fleet.end()

    live(work())


def test_a_silent_node_is_told_of_and_sends_devices_away_until_it_has_heard(tmp_path: Path) -> None:
    async def work() -> None:
        fleet, a, b = await two(tmp_path)
        b.cut()
        assert await fleet.rotation().rotate() == Told(2, ["b"])
        device, secret = a.make()
        assert b.takes(device, secret) is None
        b.cut(is_cut=False)
        await fleet.until(lambda: b.takes(device, secret) == b"", within_s=10)
        await fleet.end()

    live(work())


def test_a_silent_node_is_waited_for_as_long_as_its_own_lease_asks(tmp_path: Path) -> None:
    async def work() -> None:
        fleet, a, _ = await two(tmp_path)
        beat = Beat(900, "slow", "", "", VERSION, keys=1, lease_s=20.0)
        await LocalLeases(fleet.bucket).create("node.slow", build(beat))
        rotating = asyncio.create_task(fleet.rotation().rotate())
        await asyncio.sleep(39.0)
        assert a.make()[1][0] == 1
        assert (await rotating).silent == ["slow"]
        assert a.make()[1][0] == 2
        await fleet.end()

    live(work())


def test_a_wrong_secret_is_refused_at_once_by_a_node_that_missed_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        fleet, a, b = await two(tmp_path)
        with pytest.raises(GatewayError) as caught:
            b.takes(a.make()[0], bytes((77,)) + bytes(24))
        assert caught.value.name == "unauthorized"
        await fleet.end()

    live(work())


def test_a_rotation_under_way_is_not_begun_again_but_finished(tmp_path: Path) -> None:
    async def work() -> None:
        fleet, a, _ = await two(tmp_path)
        first = asyncio.create_task(fleet.rotation().rotate())
        await fleet.until(lambda: a.keys.server.device_key_next == 2)
        with pytest.raises(Conflict, match="--finish"):
            await fleet.rotation().rotate()
        with pytest.raises(Conflict, match="on its way"):
            await _with_older_key(fleet, first)
        first.cancel()
        assert a.make()[1][0] == 1
        assert await fleet.rotation().rotate(finish=True) == Told(2, [])
        assert await fleet.rotation().rotate(finish=True) == Told(2, [])
        assert set((await fleet.ring()).keys) == {0, 1, 2}
        await fleet.end()

    async def _with_older_key(fleet: KeyedFleet, first: asyncio.Task[Told]) -> None:
        """Key 0, as if it were there from before."""
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        found = await fleet.record().read()
        ring = found.server.ring
        await fleet.record().change(found, ring._replace(keys={0: bytes(32), **ring.keys}))
        await fleet.rotation().drop(0)

    live(work())


def test_two_that_begin_at_the_same_moment_make_one_key(tmp_path: Path) -> None:
    async def work() -> None:
        fleet, *_ = await two(tmp_path)
        slow = [fleet.rotation(LocalLeases(fleet.bucket, latency_s=0.05)) for _ in range(3)]
        ends = await asyncio.gather(*(rotation.rotate() for rotation in slow), return_exceptions=True)
        assert sorted(type(end).__name__ for end in ends) == ["Conflict", "Conflict", "Told"]
        assert set((await fleet.ring()).keys) == {1, 2}
        finishing = await asyncio.gather(*(rotation.rotate(finish=True) for rotation in slow))
        assert finishing == [Told(2, [])] * 3
        await fleet.end()

    live(work())


def test_two_that_finish_at_once_both_end_well(tmp_path: Path) -> None:
    async def work() -> None:
        fleet, a, _ = await two(tmp_path)
        first = asyncio.create_task(fleet.rotation().rotate())
        await fleet.until(lambda: a.keys.server.device_key_next == 2)
        second = asyncio.create_task(fleet.rotation().rotate(finish=True))
        assert [await first, await second] == [Told(2, [])] * 2
        await fleet.end()

    live(work())


def test_an_answer_that_was_lost_is_asked_for_and_makes_no_second_key(tmp_path: Path) -> None:
    async def work() -> None:
        fleet, *_ = await two(tmp_path)
        leases = Forgetful(fleet.bucket)
        assert await fleet.rotation(leases).rotate() == Told(2, [])
        assert leases.forgot == 6  # three times for each step
        assert set((await fleet.ring()).keys) == {1, 2}
        await fleet.end()

    live(work())


def test_a_node_that_does_not_take_the_keys_keeps_them_unused_and_is_named(tmp_path: Path) -> None:
    async def work() -> None:
        fleet, a, b = await two(tmp_path)
        a.watch.hear = lambda _entry: None  # type: ignore[method-assign]
        a.members._hear = a.watch.hear
        began = asyncio.get_running_loop().time()
        with pytest.raises(NodeUnreachable, match=r"'a'.*--finish"):
            await fleet.rotation().rotate()
        assert asyncio.get_running_loop().time() - began < 2 * TAKEN_S
        assert b.make()[1][0] == 1
        with pytest.raises(NodeUnreachable, match=r"'a'.*itself is made"):
            await fleet.rotation().drop(2)
        assert set((await fleet.ring()).keys) == {1}
        await fleet.end()

    live(work())


def test_keys_of_another_buckets_revision_do_not_count_as_taken(tmp_path: Path) -> None:
    """A node that has not noticed yet that the records are others: what it has is a higher number, and not the key."""

    async def work() -> None:
        fleet, a, b = await two(tmp_path)
        a.watch.hear = lambda _entry: None  # type: ignore[method-assign]
        a.members._hear = a.watch.hear
        a.members.announce_keys(1_000_000)
        await asyncio.sleep(2)
        with pytest.raises(NodeUnreachable, match=r"'a'.*--finish"):
            await fleet.rotation().rotate()
        assert b.make()[1][0] == 1
        await fleet.end()

    live(work())


@pytest.mark.parametrize(("beat", "words"), [({"keys": 0}, "older program"), ({"version": VERSION + 1}, "newer")])
def test_a_node_of_another_program_is_named_and_nothing_is_changed(
    tmp_path: Path, beat: dict[str, int], words: str
) -> None:
    async def work() -> None:
        fleet, a, _ = await two(tmp_path)
        leases = LocalLeases(fleet.bucket)
        other = {"keys": 1, "version": VERSION, **beat}
        said = build(Beat(900, "other", "", "", other["version"], keys=other["keys"]))
        revision = await leases.create("node.other", said)  # a silent one: it may come back as it was
        before = fleet.bucket.entries[KEYS].revision
        with pytest.raises(Conflict, match=f"'other'.*{words}"):
            await fleet.rotation().rotate()
        assert fleet.bucket.entries[KEYS].revision == before
        await leases.delete("node.other", revision)
        assert await fleet.rotation().rotate() == Told(2, [])
        assert a.make()[1][0] == 2
        await fleet.end()

    live(work())


def test_a_key_is_dropped_when_no_node_can_use_it_any_more(tmp_path: Path) -> None:
    async def work() -> None:
        fleet, a, b = await two(tmp_path)
        old = a.make()
        with pytest.raises(ConfigError, match="rotate first"):
            await fleet.rotation().drop(1)
        with pytest.raises(ConfigError, match="no device key"):
            await fleet.rotation().drop(9)
        b.cut()
        await fleet.rotation().rotate()
        with pytest.raises(Conflict, match="'b'"):
            await fleet.rotation().drop(1)
        assert set((await fleet.ring()).keys) == {1, 2}
        b.cut(is_cut=False)
        await asyncio.sleep(10)
        assert await fleet.rotation().drop(1) == Told(1, [])
        for node in (a, b):
            with pytest.raises(GatewayError) as caught:
                node.takes(*old)
            assert caught.value.name == "unauthorized"
        await fleet.end()

    live(work())


def test_the_key_on_its_way_can_be_dropped_and_the_rotation_ends_with_an_error(tmp_path: Path) -> None:
    async def work() -> None:
        fleet, a, b = await two(tmp_path)
        rotating = asyncio.create_task(fleet.rotation().rotate())
        await fleet.until(lambda: a.keys.server.device_key_next == 2)
        assert await fleet.rotation().drop(2) == Told(2, [])
        with pytest.raises(Conflict, match="somebody else"):
            await rotating
        assert await fleet.ring() == (b.keys.server.device_keys, 1, -1)
        await fleet.end()

    live(work())


def test_a_fleet_whose_key_ids_are_all_in_use_says_so(tmp_path: Path) -> None:
    async def work() -> None:
        fleet, *_ = await two(tmp_path)
        found = await fleet.record().read()
        ring = found.server.ring._replace(keys={key_id: bytes(32) for key_id in range(KEY_IDS)})
        await fleet.record().change(found, ring)
        with pytest.raises(ConfigError, match="drop old ones"):
            await fleet.rotation().rotate()
        await fleet.end()

    live(work())


@pytest.mark.parametrize("what", ["garbage", "another fleet's", "other tokens"])
def test_a_record_that_is_not_this_fleets_changes_nothing_and_is_logged_without_a_key(
    tmp_path: Path, what: str, logs: list[Any]
) -> None:
    async def work() -> None:
        fleet, a, _ = await two(tmp_path)
        before = a.keys.server.ring
        (tmp_path / "other").mkdir()
        other = ServerKeys.load(tmp_path / "other", may_create=True)
        seal = FleetSeal(SECRET, "heliograph" if what == "other tokens" else "x")
        sealed = b"garbage" if what == "garbage" else seal.seal(build_shared("k", other.build()))
        leases = LocalLeases(fleet.bucket)
        await leases.update(KEYS, sealed, fleet.bucket.entries[KEYS].revision)
        await fleet.until(lambda: [each for each in logs if each["event"] == "fleet_keys_refused"])
        await asyncio.sleep(5)
        assert a.keys.server.ring == before
        entry = await leases.get("node.a")
        assert entry is not None
        assert parse_beat(entry.value).keys == a.keys.revision
        await fleet.end()

    live(work())


def test_there_is_nothing_to_rotate_where_no_node_ever_started() -> None:
    async def work() -> None:
        leases = LocalLeases(Bucket())
        with pytest.raises(ConfigError, match="no keys yet"):
            await KeyRecord(leases, FleetSeal(SECRET, "x")).read()

    live(work())


def test_keys_do_not_show_in_what_is_printed_of_them(tmp_path: Path) -> None:
    server = ServerKeys.load(tmp_path, may_create=True)
    opened = OpenedKeys("operator", server, 7)
    shown = repr(opened) + repr(server.ring)
    assert "operator" not in shown
    assert repr(server.device_keys[1]) not in shown
