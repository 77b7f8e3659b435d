"""`gateway.cards.links` on the loop: whose events are whose, what is refused and when, and a simulated card in its
terminal that is called, connects and is sent commands (E3, E4, E6)."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from sim_scene import KEYS, NONCE, Scene
from structlog.testing import capture_logs

from gateway.cards.links import ARRIVALS, CattpLinks
from gateway.config.ota_section import Ota
from gateway.metrics import Metric, Metrics
from gateway.model.cards import CardLinks, LinkClosed, LinkDelivered, LinkEvent, LinkOpened, LinkReceived
from gateway.model.errors import ConfigError
from gateway.ota.cattp import Closed, Limits, Link, Opened, Output, Received, Transmit
from gateway.ota.secured_packet import Transport, build_command, parse_answer

FAST = Limits(rto_first_ms=40, rto_least_ms=20, rto_most_ms=200, retries=30)
VALID_MS = 60_000


class Peer(asyncio.DatagramProtocol):
    """A card's end of a link, on a socket of its own."""

    def __init__(self, identification: bytes, limits: Limits = FAST) -> None:
        self.link = Link(limits, 7, 65_530, remote_port=9_000, identification=identification)
        self.received: list[bytes] = []
        self.is_open = False
        self._timer: asyncio.TimerHandle | None = None

    @staticmethod
    def now_ms() -> int:
        return int(asyncio.get_running_loop().time() * 1_000)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)
        self.run(self.link.connect(self.now_ms()))

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.run(self.link.handle(data, self.now_ms()))

    def send(self, sdu: bytes) -> None:
        self.run(self.link.send(sdu, self.now_ms()))

    def run(self, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Transmit):
                self.transport.sendto(output.data)
            elif isinstance(output, Received):
                self.received.append(output.sdu)
            elif isinstance(output, Opened):
                self.is_open = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.link.due_ms
        if due is not None:
            late_s = max(0, due - self.now_ms()) / 1_000
            self._timer = asyncio.get_running_loop().call_later(late_s, lambda: self.run(self.link.tick(self.now_ms())))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.transport.close()


class Rig:
    def __init__(self, **settings: Any) -> None:
        self.metrics = Metrics(process=False)
        self.links = CattpLinks(
            Ota(port=0, rto_first_ms=40, rto_least_ms=20, rto_most_ms=200, **settings), self.metrics
        )
        self.peers: list[Peer] = []

    async def __aenter__(self) -> Rig:
        self.links.start(asyncio.get_running_loop())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.links.stop()
        for peer in self.peers:
            peer.close()

    async def call(self, identification: bytes, limits: Limits = FAST) -> Peer:
        _transport, peer = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: Peer(identification, limits), remote_addr=("127.0.0.1", self.links.port)
        )
        self.peers.append(peer)
        return peer


async def until(is_done: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_done():
            await asyncio.sleep(0.002)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig() as made:
        yield made


def kinds(events: list[LinkEvent]) -> list[type]:
    return [type(event) for event in events]


async def test_events_come_in_order_to_who_expected_them(rig: Rig) -> None:
    links: CardLinks = rig.links
    heard: dict[bytes, list[LinkEvent]] = {bytes([number]) * 16: [] for number in range(10)}
    for identification, events in heard.items():
        assert links.expect(identification, events.append, VALID_MS)
        await rig.call(identification)
    await until(lambda: all(len(events) == 1 for events in heard.values()))
    for (identification, events), peer in zip(heard.items(), rig.peers, strict=True):
        (opened,) = events
        assert isinstance(opened, LinkOpened)
        assert (opened.max_pdu, opened.max_sdu) == (FAST.max_pdu, FAST.max_sdu)
        assert links.send(opened.link, identification)
        peer.send(b"answer of " + identification)
    await until(lambda: all(len(events) == 3 for events in heard.values()))
    for (identification, events), peer in zip(heard.items(), rig.peers, strict=True):
        link = cast(LinkOpened, events[0]).link
        assert peer.received == [identification]
        assert LinkReceived(link, b"answer of " + identification) in events
        assert LinkDelivered(link, 1) in events
        links.close(link)
        assert not links.send(link, b"too late")
    await until(
        lambda: all(
            events[-1] == LinkClosed(cast(LinkOpened, events[0]).link, "asked", 0, 0) for events in heard.values()
        )
    )
    assert rig.links.count == 0


async def test_a_forgotten_card_is_not_heard_any_more_and_its_link_ends(rig: Rig) -> None:
    events: list[LinkEvent] = []
    assert rig.links.expect(NONCE, events.append, VALID_MS)
    peer = await rig.call(NONCE)
    await until(lambda: bool(events))
    rig.links.forget(NONCE)
    rig.links.forget(NONCE)
    peer.send(b"nobody hears it")
    await until(lambda: peer.link.state.value in ("CLOSE", "CLOSE-WAIT"))
    late = await rig.call(NONCE)
    await until(lambda: rig.metrics.value(Metric.OTA_DATAGRAMS, "not_admitted") > 0)
    assert not late.is_open
    assert kinds(events) == [LinkOpened]
    assert not rig.links.send(cast(LinkOpened, events[0]).link, b"x")


async def test_a_link_that_opens_while_its_card_is_forgotten_is_not_left_behind() -> None:
    """The loop is busy when the final ACK comes, and the caller's time is over before it hears of the link."""
    async with Rig(idle_s=0.0, keep_alive_s=0.0) as rig:
        events: list[LinkEvent] = []
        assert rig.links.expect(NONCE, events.append, VALID_MS)
        card = Link(FAST, 7, 65_530, remote_port=9_000, identification=NONCE)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
            wire.settimeout(5)
            wire.connect(("127.0.0.1", rig.links.port))
            for output in card.connect(0):
                if isinstance(output, Transmit):
                    wire.send(output.data)
            for output in card.handle(wire.recv(2_000), 1):
                if isinstance(output, Transmit):
                    wire.send(output.data)
            patience_s = time.monotonic() + 10
            while not rig.metrics.value(Metric.OTA_LINKS_OPENED) and time.monotonic() < patience_s:
                threading.Event().wait(0.001)  # the loop must not hear of it
            rig.links.forget(NONCE)
            await until(lambda: rig.metrics.value(Metric.OTA_LINKS, "open") == 0)
            assert any(isinstance(each, Closed) for each in card.handle(wire.recv(2_000), 2))
        assert events == []
        assert rig.metrics.value(Metric.OTA_LINKS_CLOSED, "asked") == 1


async def test_a_card_that_comes_back_is_said_to_have_replaced_its_link(rig: Rig) -> None:
    events: list[LinkEvent] = []
    assert rig.links.expect(NONCE, events.append, VALID_MS)
    first = await rig.call(NONCE)
    await until(lambda: bool(events))
    first.close()
    rig.peers.remove(first)
    assert rig.links.send(cast(LinkOpened, events[0]).link, b"on its way")
    await rig.call(NONCE)
    await until(lambda: len(events) == 3)
    closed = events[1]
    assert isinstance(closed, LinkClosed)
    assert (closed.cause, closed.undelivered) == ("replaced", 1)
    assert isinstance(events[2], LinkOpened)
    assert events[2].link != closed.link


async def test_what_a_link_does_not_take_is_refused_at_once() -> None:
    async with Rig(queued_bytes=1_000) as rig:
        events: list[LinkEvent] = []
        assert rig.links.expect(NONCE, events.append, VALID_MS)
        assert not rig.links.send(1, b"no such link")
        await rig.call(NONCE, Limits(max_sdu=500))
        await until(lambda: bool(events))
        link = cast(LinkOpened, events[0]).link
        assert not rig.links.send(link, b"")
        assert not rig.links.send(link, b"x" * 501)
        taken = sum(rig.links.send(link, b"x" * 400) for _ in range(5))
        assert taken == 2
        await until(lambda: sum(event.sdus for event in events if isinstance(event, LinkDelivered)) == 2)
        assert rig.links.send(link, b"x" * 400)


async def test_an_sdu_without_memory_ends_its_link_and_nobody_misses_it() -> None:
    async with Rig(busy_bytes=65_536, max_sdu_bytes=60_000) as rig:
        events: list[LinkEvent] = []
        assert rig.links.expect(NONCE, events.append, VALID_MS)
        peer = await rig.call(NONCE, Limits(max_sdu=60_000, max_pdu=1_400))
        await until(lambda: bool(events))
        peer.run(peer.link.set_window(0, peer.now_ms()))
        link = cast(LinkOpened, events[0]).link
        assert [rig.links.send(link, b"x" * 40_000) for _ in range(3)] == [True] * 3
        await until(lambda: isinstance(events[-1], LinkClosed))
        closed = events[-1]
        assert isinstance(closed, LinkClosed)
        assert closed.cause == "refused"
        assert closed.undelivered + sum(event.sdus for event in events if isinstance(event, LinkDelivered)) == 3


async def test_too_many_are_not_expected() -> None:
    async with Rig(max_expected=2) as rig:
        assert rig.links.expect(b"one", lambda _event: None, VALID_MS)
        assert rig.links.expect(b"two", lambda _event: None, VALID_MS)
        assert not rig.links.expect(b"three", lambda _event: None, VALID_MS)
        assert rig.links.expect(b"one", lambda _event: None, VALID_MS)
        rig.links.forget(b"two")
        assert rig.links.expect(b"three", lambda _event: None, VALID_MS)


async def test_a_handler_that_fails_keeps_nothing_from_the_others(rig: Rig) -> None:
    def fail(_event: LinkEvent) -> None:
        raise RuntimeError("secret payload")

    events: list[LinkEvent] = []
    assert rig.links.expect(b"fails", fail, VALID_MS)
    assert rig.links.expect(NONCE, events.append, VALID_MS)
    structlog.configure(processors=[])
    with capture_logs() as logs:
        peer = await rig.call(b"fails")
        await until(lambda: peer.is_open)
        await rig.call(NONCE)
        await until(lambda: bool(events))
    structlog.reset_defaults()
    assert {"event": "link_event_failed", "what": "LinkOpened", "error": "RuntimeError", "log_level": "error"} in logs
    assert "secret" not in repr(logs)


async def test_stopping_closes_every_link_and_says_so() -> None:
    events: list[LinkEvent] = []
    async with Rig() as rig:
        for number in range(5):
            assert rig.links.expect(bytes([number]), events.append, VALID_MS)
            await rig.call(bytes([number]))
        await until(lambda: len(events) == 5)
        await rig.links.stop()
        assert [event.cause for event in events if isinstance(event, LinkClosed)] == ["stopped"] * 5
        assert not rig.links.expect(b"x", events.append, VALID_MS)
        assert not rig.links.send(cast(LinkOpened, events[0]).link, b"x")
        assert rig.metrics.value(Metric.OTA_LINKS_CLOSED, "stopped") == 5
        await until(lambda: all(peer.link.state.value != "OPEN" for peer in rig.peers))


async def test_figures_add_up(rig: Rig) -> None:
    events: list[LinkEvent] = []
    assert rig.links.expect(NONCE, events.append, VALID_MS)
    await rig.call(NONCE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for _ in range(7):
            stranger.sendto(b"garbage", ("127.0.0.1", rig.links.port))
        await until(lambda: rig.metrics.value(Metric.OTA_DATAGRAMS, "malformed") == 7)
    await until(lambda: bool(events))
    figures = rig.metrics.snapshot()
    assert figures[Metric.OTA_LINKS, "open"] == 1
    assert figures[Metric.OTA_LINKS_OPENED, ""] == 1
    assert sum(figures[Metric.OTA_DATAGRAMS, name] for name in ARRIVALS) == 7 + figures[Metric.OTA_DATAGRAMS, "linked"]
    assert figures[Metric.OTA_DATAGRAMS, "kernel_dropped"] == 0


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        links = CattpLinks(Ota(port=taken.getsockname()[1]), Metrics(process=False))
        with pytest.raises(ConfigError, match=r"ota\.port") as caught:
            links.start(asyncio.get_running_loop())
        assert caught.value.field == "ota.port"
        await links.stop()


async def test_limits_that_exclude_each_other_are_named() -> None:
    links = CattpLinks(Ota(port=0, rto_least_ms=100, rto_most_ms=50, rto_first_ms=40), Metrics(process=False))
    with pytest.raises(ConfigError, match="rto_least_ms"):
        links.start(asyncio.get_running_loop())


async def test_a_simulated_card_is_called_connects_and_executes_what_it_is_sent(rig: Rig) -> None:
    events: list[LinkEvent] = []
    assert rig.links.expect(NONCE, events.append, VALID_MS)
    async with Scene() as scene:
        scene.server.close()
        scene.server = cast(Any, SimpleNamespace(port=rig.links.port, changed=asyncio.Event(), close=lambda: None))
        assert (await scene.push_channel()).is_done
        assert (await scene.push_link()).is_done
        await until(lambda: bool(events))
        opened = events[0]
        assert isinstance(opened, LinkOpened)
        commands = [scene.command(bytes((number,)) * 300) for number in range(5)]
        for command in commands:
            assert rig.links.send(opened.link, build_command(command, KEYS, Transport.CAT_TP))
        await until(lambda: sum(isinstance(event, LinkReceived) for event in events) == 5)
        answers = [event.sdu for event in events if isinstance(event, LinkReceived)]
        for packet, command in zip(answers, commands, strict=True):
            assert parse_answer(packet, command, KEYS, Transport.CAT_TP).authentic
        rig.links.close(opened.link)
        await until(lambda: isinstance(events[-1], LinkClosed))
