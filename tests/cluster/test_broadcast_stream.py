"""The stream of broadcasts on real servers: order, places, what is told twice, what is over, servers that die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from spread_rig import until
from structlog.testing import capture_logs

from gateway.cluster.broadcast_stream import BroadcastStream
from gateway.cluster.nats_link import NatsLink
from gateway.config.cluster_section import Cluster
from gateway.fleet.patience import start_patiently
from gateway.model.errors import LogUnavailable
from gateway.tour.nats_servers import NatsServers


class Reader:
    """One node's end, and what it heard."""

    def __init__(self, settings: Cluster) -> None:
        self.link = NatsLink(settings, purpose="test")
        self.stream = BroadcastStream(self.link, settings)
        self.heard: list[tuple[int, bytes]] = []

    async def start(self) -> Reader:
        await self.link.connect()
        await start_patiently(lambda: self.stream.start(lambda place, raw: self.heard.append((place, raw))))
        return self

    async def close(self) -> None:
        await self.stream.close()
        await self.link.close()

    @property
    def texts(self) -> list[bytes]:
        return [raw for _, raw in self.heard]


@pytest.fixture
async def readers(fleet_settings: Callable[..., Cluster]) -> AsyncIterator[Callable[[], Reader]]:
    made: list[Reader] = []

    def make() -> Reader:
        made.append(Reader(fleet_settings(message_bytes=65_536)))
        return made[-1]

    yield make
    for reader in made:
        await reader.close()


async def test_all_hear_the_same_in_the_same_order(readers: Callable[[], Reader]) -> None:
    one, other = await readers().start(), await readers().start()
    sent = [b"%d" % number for number in range(40)]
    places = await asyncio.gather(
        *(
            who.stream.append(text, once=text.decode(), ttl_s=60)
            for text, who in zip(sent, [one, other] * 20, strict=True)
        )
    )
    assert sorted(places) == list(range(1, 41))
    await until(lambda: len(one.heard) == len(other.heard) == 40)
    assert one.heard == other.heard == sorted(zip(places, sent, strict=True))
    late = await readers().start()
    assert late.heard == one.heard


async def test_a_stream_that_somebody_removed_is_made_again_with_places_above_those_before(
    readers: Callable[[], Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices have cursors, and partitions know how far it had come."""
    monkeypatch.setattr("gateway.cluster.broadcast_stream.LOOK_S", 0.1)
    one, other = readers(), readers()
    for reader, begins in ((one, 1_000), (other, 5)):  # a clock that is behind as well
        reader.stream._begins = lambda begins=begins: begins
        await reader.start()
    place = await one.stream.append(b"before", once="before", ttl_s=60)
    assert place == 1_000
    await until(lambda: one.texts == other.texts == [b"before"])

    def gone() -> int:
        return [line["event"] for line in logs].count("broadcast_stream_gone")

    with capture_logs() as logs:
        await one.link.js.delete_stream(one.stream._name)
        await until(lambda: gone() == 2)
        with pytest.raises(LogUnavailable):
            await one.stream.append(b"lost", once="lost", ttl_s=60)
        assert gone() == 2, "each node says it once"
        # Only now: servers that are slow with an answer must not see it made again before the test has looked.
        monkeypatch.setattr("gateway.cluster.broadcast_stream.GONE_S", 0.5)

        async def takes() -> int:
            while True:
                try:
                    return await one.stream.append(b"after", once="after", ttl_s=60)
                except LogUnavailable:
                    await asyncio.sleep(0.05)

        async with asyncio.timeout(60):
            assert await takes() > place
        await until(lambda: one.texts == other.texts == [b"before", b"after"])


async def test_the_same_told_again_is_the_same_message(readers: Callable[[], Reader]) -> None:
    one = await readers().start()
    first = await one.stream.append(b"a", once="a", ttl_s=60)
    assert await one.stream.append(b"a", once="a", ttl_s=60) == first
    assert await one.stream.catch_up() == first
    assert one.texts == [b"a"]


async def test_what_is_over_leaves_a_gap_that_stops_nobody(readers: Callable[[], Reader]) -> None:
    one = await readers().start()
    await one.stream.append(b"short", once="short", ttl_s=1)
    second = await one.stream.append(b"shorter", once="shorter", ttl_s=1)
    info = await one.link.js.stream_info(one.stream._name)
    assert info.config.num_replicas == 3
    assert info.state.last_seq == second

    async def messages() -> int:
        return (await one.link.js.stream_info(one.stream._name)).state.messages

    async with asyncio.timeout(60):
        while await messages():
            await asyncio.sleep(0.1)
    late = await readers().start()
    assert late.heard == []
    assert await late.stream.catch_up() == second
    third = await one.stream.append(b"next", once="next", ttl_s=60)
    assert third == second + 1
    await until(lambda: late.texts == [b"next"])


async def test_the_largest_message_comes_back_and_a_larger_one_is_refused_by_its_bound(
    readers: Callable[[], Reader],
) -> None:
    one = await readers().start()
    largest = bytes(range(256)) * (one.stream.most_bytes // 256)
    await one.stream.append(largest, once="large", ttl_s=60)
    await one.stream.catch_up()
    assert one.texts == [largest]


async def test_without_a_connection_nothing_is_kept_for_later(readers: Callable[[], Reader]) -> None:
    one = await readers().start()
    await one.link.nats.close()
    with pytest.raises(LogUnavailable):
        await one.stream.append(b"a", once="a", ttl_s=60)
    with pytest.raises(LogUnavailable):
        await one.stream.catch_up()


async def test_a_message_that_fails_to_be_heard_stops_none_behind_it(readers: Callable[[], Reader]) -> None:
    one = readers()
    await one.link.connect()
    heard: list[bytes] = []

    def hear(place: int, raw: bytes) -> None:
        if raw == b"bad":
            raise RuntimeError("a fault of ours")
        heard.append(raw)

    await one.stream.start(hear)
    for text in (b"bad", b"good"):
        await one.stream.append(text, once=text.decode(), ttl_s=60)
    await until(lambda: heard == [b"good"])


@pytest.mark.slow
async def test_a_leader_that_is_killed_loses_nothing_and_makes_nothing_twice(tmp_path: Path) -> None:
    servers = NatsServers(tmp_path / "nats")
    await servers.start()
    settings = Cluster(url=servers.urls, name="killed")
    one, other = await Reader(settings).start(), await Reader(settings).start()
    told: list[bytes] = []

    async def tell(text: bytes) -> None:
        """As a home does: again and again until it is known to be there."""
        while True:
            try:
                await one.stream.append(text, once=text.decode(), ttl_s=600)
            except LogUnavailable:
                await asyncio.sleep(0.2)
                continue
            told.append(text)
            return

    try:
        for number in range(60):
            if number == 20:
                info = await one.link.js.stream_info(one.stream._name)
                leader = next(s for s in servers.servers if s.name == info.cluster.leader)  # type: ignore[union-attr]
                leader.kill()
            if number == 40:
                leader.start()
                await servers.wait_until_healthy()
            await tell(b"%d" % number)
        await until(lambda: len(one.heard) >= 60 and len(other.heard) >= 60, 30)
        assert one.texts == told
        assert other.heard == one.heard
    finally:
        for reader in (one, other):
            await reader.close()
        await servers.close()
