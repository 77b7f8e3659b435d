"""What a bus promises, whatever carries it: in one process and over NATS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from gateway.cluster.local_bus import LocalNetwork
from gateway.cluster.message_bus import MessageBus
from gateway.cluster.nats_bus import NatsBus
from gateway.cluster.nats_link import NatsLink
from gateway.config.cluster_section import Cluster
from gateway.metrics import Metrics
from gateway.metrics.names import Metric
from gateway.model.cluster import Bus, Reply
from gateway.model.errors import BadRequest, GatewayError, NodeUnreachable, UnknownFrame

MakeBus = Callable[[int], Awaitable[MessageBus]]
OUTBOX = 8_388_608


@pytest.fixture(params=["local", "nats"])
async def make_bus(request: pytest.FixtureRequest) -> AsyncIterator[MakeBus]:
    """Buses that are not started yet."""
    buses: list[MessageBus] = []
    links: list[NatsLink] = []
    network = LocalNetwork(message_bytes=65_536)
    settings: Cluster | None = None
    if request.param == "nats":
        settings = request.getfixturevalue("fleet_settings")()
        # one server for all: another hears of a subscription somewhat later, and these tests begin at once
        settings.url = settings.url.split(",")[0]

    async def make(number: int) -> MessageBus:
        bus: MessageBus
        metrics = Metrics(process=False)
        if settings is None:
            bus = network.bus(number, metrics, outbox_bytes=OUTBOX)
        else:
            link = NatsLink(settings, purpose="test")
            await link.connect()
            links.append(link)
            bus = NatsBus(link, settings.name, number, metrics, outbox_bytes=OUTBOX, mark_s=0.05)
        buses.append(bus)
        return bus

    yield make
    for bus in buses:
        await bus.close()
    for link in links:
        await link.close()


async def pair(make_bus: MakeBus) -> tuple[MessageBus, MessageBus]:
    one, other = await make_bus(1), await make_bus(2)
    return one, other


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.002)


def is_a_bus(bus: MessageBus) -> Bus:
    return bus


async def test_what_is_told_arrives_in_order_and_before_what_is_asked_later(make_bus: MakeBus) -> None:
    one, other = await pair(make_bus)
    heard: list[bytes] = []

    def hear(sender: int, body: bytes) -> bytes:
        assert sender == 1
        heard.append(body)
        return b""

    other.serve("told", hear)
    other.serve("asked", lambda _sender, body: b"%d after %d" % (int(body), len(heard)))
    await one.start()
    await other.start()
    for n in range(500):
        one.tell(2, "told", b"%d" % n)
    assert await one.ask(2, "asked", b"7", timeout_s=5) == b"7 after 500"
    assert heard == [b"%d" % n for n in range(500)]


@pytest.mark.parametrize("asked", [1, 2])
async def test_what_is_told_before_an_answer_arrives_before_it(make_bus: MakeBus, asked: int) -> None:
    """Of oneself too: the bodies of a FETCH come before its end."""
    one, other = await pair(make_bus)
    heard: list[bytes] = []
    one.serve("told", lambda _sender, body: heard.append(body) or b"")

    def answer(bus: MessageBus) -> Callable[[int, bytes], bytes]:
        def on_asked(sender: int, body: bytes) -> bytes:
            bus.tell(sender, "told", body)
            return b"done"

        return on_asked

    def answer_later(bus: MessageBus) -> Callable[[int, bytes], Awaitable[bytes]]:
        async def on_asked(sender: int, body: bytes) -> bytes:
            await asyncio.sleep(0)
            return answer(bus)(sender, body)

        return on_asked

    for bus in (one, other):
        bus.serve("asked", answer(bus))
        bus.serve("asked later", answer_later(bus))
        await bus.start()
    for kind in ("asked", "asked later"):
        assert await one.ask(asked, kind, kind.encode(), timeout_s=5) == b"done"
        assert heard[-1] == kind.encode()


async def test_answers_come_in_the_order_of_sync_handlers(make_bus: MakeBus) -> None:
    one, other = await pair(make_bus)
    other.serve("double", lambda _sender, body: body * 2)
    await one.start()
    await other.start()
    order: list[int] = []

    async def ask(n: int) -> None:
        assert await one.ask(2, "double", b"%d" % n, timeout_s=5) == b"%d%d" % (n, n)
        order.append(n)

    await asyncio.gather(*(ask(n) for n in range(200)))
    assert order == list(range(200))


async def test_async_handlers_run_side_by_side(make_bus: MakeBus) -> None:
    one, other = await pair(make_bus)
    both = asyncio.Barrier(2)

    async def meet(_sender: int, body: bytes) -> bytes:
        await both.wait()
        return body

    other.serve("meet", meet)
    await one.start()
    await other.start()
    answers = await asyncio.gather(*(one.ask(2, "meet", body, timeout_s=5) for body in (b"x", b"y")))
    assert answers == [b"x", b"y"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_gateways_error_reaches_who_asked_as_it_is(make_bus: MakeBus, is_async: bool) -> None:
    one, other = await pair(make_bus)

    def refuse(_sender: int, _body: bytes) -> bytes:
        raise BadRequest("no such thing", field="target.tag", after_ms=77)

    async def refuse_later(sender: int, body: bytes) -> bytes:
        await asyncio.sleep(0)
        return refuse(sender, body)

    other.serve("refuse", refuse_later if is_async else refuse)
    await one.start()
    await other.start()
    for bus, node in ((one, 2), (other, 2)):
        with pytest.raises(BadRequest) as caught:
            await bus.ask(node, "refuse", b"", timeout_s=5)
        assert (caught.value.message, caught.value.field, caught.value.after_ms) == ("no such thing", "target.tag", 77)


async def test_a_handler_that_fails_says_nothing_about_itself(make_bus: MakeBus) -> None:
    one, other = await pair(make_bus)

    def fail(_sender: int, _body: bytes) -> bytes:
        raise RuntimeError("the secret is 42")

    other.serve("fail", fail)
    await one.start()
    await other.start()
    with pytest.raises(GatewayError) as caught:
        await one.ask(2, "fail", b"", timeout_s=5)
    assert type(caught.value) is GatewayError
    assert "42" not in caught.value.message


async def test_an_unknown_kind_is_an_error_and_counted(make_bus: MakeBus) -> None:
    one, other = await pair(make_bus)
    await one.start()
    await other.start()
    with pytest.raises(UnknownFrame):
        await one.ask(2, "nothing", b"", timeout_s=5)
    one.tell(2, "nothing", b"")
    await until(lambda: other._metrics.value(Metric.BUS_DROPPED, "unknown") == 2)


async def test_nobody_answers_in_time(make_bus: MakeBus) -> None:
    one, other = await pair(make_bus)
    never = asyncio.Event()

    async def wait(_sender: int, _body: bytes) -> bytes:
        await never.wait()
        return b""

    other.serve("wait", wait)
    await one.start()
    await other.start()
    for node in (2, 99):
        with pytest.raises(NodeUnreachable):
            await one.ask(node, "wait", b"", timeout_s=0.05)
    assert one._metrics.value(Metric.BUS_ASKS_FAILED, "timeout") == 2
    assert not one._asks


async def test_questions_without_a_task_are_answered_refused_and_end_each_at_its_own_time(make_bus: MakeBus) -> None:
    one, other = await pair(make_bus)
    waiting: list[Reply] = []

    def wait(_sender: int, body: bytes, reply: Reply) -> None:
        if body:
            raise UnknownFrame
        waiting.append(reply)

    other.serve_replies("wait", wait)
    await one.start()
    await other.start()
    told: dict[str, list[bytes | GatewayError]] = {name: [] for name in ("answered", "refused", "short", "shorter")}
    order: list[str] = []

    def hear(name: str) -> Reply:
        def reply(answer: bytes | GatewayError) -> None:
            told[name].append(answer)
            order.append(name)

        return reply

    for name, timeout_s in zip(told, (60, 60, 0.3, 0.1), strict=True):
        one.ask_soon(2, "wait", b"", hear(name), timeout_s=timeout_s)
    await until(lambda: len(waiting) == 4)
    waiting[0](b"there")
    waiting[1](UnknownFrame())
    await until(lambda: len(order) == 4)
    assert told["answered"] == [b"there"]
    assert [type(told[name][0]) for name in ("refused", "short", "shorter")] == [
        UnknownFrame,
        NodeUnreachable,
        NodeUnreachable,
    ]
    assert order.index("shorter") < order.index("short")
    assert one._metrics.value(Metric.BUS_ASKS_FAILED, "timeout") == 2
    for reply in waiting:  # late, or once more
        reply(b"late")
    with pytest.raises(UnknownFrame):
        await one.ask(2, "wait", b"raises", timeout_s=5)
    assert [len(answers) for answers in told.values()] == [1, 1, 1, 1]
    assert not one._asks
    assert not other._unreplied


async def test_who_hears_an_answer_and_fails_costs_the_others_nothing(make_bus: MakeBus) -> None:
    one, other = await pair(make_bus)
    other.serve_replies("echo", lambda _sender, body, reply: reply(body))
    await one.start()
    await other.start()
    came: list[bytes | GatewayError] = []

    def fail(_: bytes | GatewayError) -> None:
        raise RuntimeError("this one can not hear")

    one.ask_soon(2, "echo", b"1", came.append, timeout_s=5)
    one.ask_soon(2, "echo", b"2", fail, timeout_s=5)
    one.ask_soon(2, "echo", b"3", came.append, timeout_s=5)
    await until(lambda: len(came) == 2)
    assert came == [b"1", b"3"]


async def test_who_is_forgotten_answers_no_more_and_is_heard_again_later(make_bus: MakeBus) -> None:
    one, other = await pair(make_bus)
    hold = asyncio.Event()

    async def wait(_sender: int, body: bytes) -> bytes:
        await hold.wait()
        return body

    other.serve("wait", wait)
    await one.start()
    await other.start()
    asking = asyncio.ensure_future(one.ask(2, "wait", b"x", timeout_s=60))
    await until(lambda: other._running)
    one.forget(2)
    with pytest.raises(NodeUnreachable):
        await asking
    hold.set()
    assert await one.ask(2, "wait", b"y", timeout_s=5) == b"y"


async def test_large_bodies_go_both_ways_and_keep_their_place(make_bus: MakeBus) -> None:
    one, other = await pair(make_bus)
    heard: list[int] = []
    other.serve("told", lambda _sender, body: heard.append(len(body)) or b"")
    other.serve("echo", lambda _sender, body: body[::-1])
    await one.start()
    await other.start()
    large = bytes(range(256)) * 12_000  # 3 MB
    one.tell(2, "told", b"1")
    one.tell(2, "told", large)
    one.tell(2, "told", b"22")
    assert await one.ask(2, "echo", large, timeout_s=10) == large[::-1]
    assert heard == [1, len(large), 2]


async def test_oneself_is_told_in_order_at_the_end_of_the_turn_or_before_one_is_asked(make_bus: MakeBus) -> None:
    one = await make_bus(1)
    heard: list[bytes] = []
    one.serve("told", lambda _sender, body: heard.append(body) or b"")
    one.serve("asked", lambda sender, body: b"%d:%d" % (sender, len(heard)))
    await one.start()
    one.tell(1, "told", b"a")
    one.tell(1, "told", b"b")
    assert await one.ask(1, "asked", b"", timeout_s=1) == b"1:2"
    one.tell(1, "told", b"c")
    assert heard == [b"a", b"b"]
    await until(lambda: heard == [b"a", b"b", b"c"])


async def test_a_full_outbox_drops_and_the_receiver_sees_the_gap(make_bus: MakeBus) -> None:
    one, other = await pair(make_bus)
    heard: list[bytes] = []
    gaps: list[int] = []
    other.serve("told", lambda _sender, body: heard.append(body[:1]) or b"")
    other.on_gap(gaps.append)
    await one.start()
    await other.start()
    one.tell(2, "told", b"a" * (OUTBOX - 1_000))
    one.tell(2, "told", b"b" * 2_000)  # in the same turn: there is no room
    one.tell(2, "told", b"c" * 10)
    await until(lambda: len(heard) == 2)
    assert heard == [b"a", b"c"]
    assert gaps == [1]
    assert one._metrics.value(Metric.BUS_DROPPED, "outbox") == 1


async def test_a_loss_with_nothing_behind_it_is_seen_as_well(make_bus: MakeBus) -> None:
    one, other = await pair(make_bus)
    gaps: list[int] = []
    other.on_gap(gaps.append)
    await one.start()
    await other.start()
    one.tell(2, "told", b"x" * (OUTBOX + 1))
    await until(lambda: gaps == [1])


async def test_too_many_async_handlers_refuse_and_count_as_lost(
    make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cluster.message_bus.MAX_RUNNING", 3)
    one, other = await pair(make_bus)
    hold = asyncio.Event()
    gaps: list[int] = []

    async def wait(_sender: int, _body: bytes) -> bytes:
        await hold.wait()
        return b"done"

    other.serve("wait", wait)
    other.on_gap(gaps.append)
    await one.start()
    await other.start()
    asks = [asyncio.ensure_future(one.ask(2, "wait", b"", timeout_s=10)) for _ in range(3)]
    await until(lambda: len(other._running) == 3)
    with pytest.raises(GatewayError, match="queue"):
        await one.ask(2, "wait", b"", timeout_s=5)
    one.tell(2, "wait", b"")
    await until(lambda: gaps == [1])
    hold.set()
    assert await asyncio.gather(*asks) == [b"done"] * 3


async def test_garbage_is_counted_and_hurts_nobody(make_bus: MakeBus) -> None:
    one, other = await pair(make_bus)
    other.serve("echo", lambda _sender, body: body)
    await one.start()
    await other.start()
    for raw in (b"", b"\x01", b"\x09" * 40, b"\x01\x00\x09" + b"\x00" * 7 + b"\x01\x03" + b"junk"):
        other.receive(raw)
    assert other._metrics.value(Metric.BUS_DROPPED, "malformed") == 4
    assert await one.ask(2, "echo", b"still", timeout_s=5) == b"still"


async def test_each_tells_the_other_at_the_same_time(make_bus: MakeBus) -> None:
    buses = [await make_bus(number) for number in (1, 2, 3)]
    heard: dict[tuple[int, int], list[int]] = {}
    for bus in buses:

        def hear(sender: int, body: bytes, at: int = bus.number) -> bytes:
            heard.setdefault((sender, at), []).append(int(body))
            return b""

        bus.serve("told", hear)
    for bus in buses:
        await bus.start()
    for n in range(300):
        for bus in buses:
            for other in buses:
                bus.tell(other.number, "told", b"%d" % n)
        if n % 50 == 0:
            await asyncio.sleep(0)
    await until(lambda: len(heard) == 9 and all(len(got) == 300 for got in heard.values()))
    assert all(got == list(range(300)) for got in heard.values())


async def test_after_the_end_nobody_is_asked(make_bus: MakeBus) -> None:
    one, other = await pair(make_bus)
    await one.start()
    await other.start()
    asking = asyncio.ensure_future(one.ask(2, "x", b"", timeout_s=60))
    await one.close()
    with pytest.raises((NodeUnreachable, UnknownFrame)):
        await asking
    with pytest.raises(NodeUnreachable):
        await one.ask(2, "x", b"", timeout_s=1)
    one.tell(2, "x", b"")
