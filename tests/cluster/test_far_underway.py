"""What an owner before this one sent comes to an end whatever becomes of it: its ack time runs out before the new owner
is told, behind its READY, or unheard; its device leaves before anybody said what is in flight.
"""

from __future__ import annotations

import asyncio

import pytest
from far_scene import Core, Fleet, Open
from open_house import until

from gateway.cluster import far_edge, flights, node_edge
from gateway.cluster.far_wire import Do, Record
from gateway.metrics import Metric
from gateway.model.outcome import State
from gateway.notifiers.stub.client import StubNotifier

#: of a push that nobody acks: long enough for a partition to change its owner meanwhile
ACK_MS = 1_000


@pytest.fixture
async def stub() -> StubNotifier:
    return StubNotifier()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks after what was not heard of at once."""
    monkeypatch.setattr(flights, "GRACE_S", 0)
    monkeypatch.setattr(far_edge, "TICK_S", 0.05)
    monkeypatch.setattr(far_edge, "HOLD_AGAIN_TICKS", 2)


async def open_with(open_fleet: Open, stub: StubNotifier) -> Fleet:
    return await open_fleet(
        nodes=2, owners=dict.fromkeys(range(4), 2), notifiers={"stub": stub}, app={"fallback": ["stub"]}
    )


async def adopt_untold(fleet: Fleet, token: str) -> Core:
    """Its owner is dead and its next owner's core is open, and no node knows yet."""
    partition = fleet.core_of(token).partition
    await fleet.cores.pop(partition).close()
    owner = fleet.owners[partition] = fleet.owners[partition]._replace(epoch=2)
    return await fleet.adopt(partition, owner.node, owner.epoch)


def tell(fleet: Fleet, core: Core) -> None:
    owner = fleet.owners[core.partition]
    for node in fleet.nodes.values():
        node.view.owners[core.partition] = owner
        node.node.owner_changed(core.partition, owner)


def timeouts(fleet: Fleet) -> int:
    return sum(reactor.counters()["ack_timeouts"] for reactor in fleet.nodes[1].node.edge.plane.reactors)


async def test_one_whose_ack_time_is_over_before_its_new_owner_is_told_is_sent_again_and_falls_over(
    open_fleet: Open, stub: StubNotifier
) -> None:
    fleet = await open_with(open_fleet, stub)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    seq = await fleet.core_of(token).push(token, "no ack", ack_ms=ACK_MS)
    assert (await device.note())["id"] == seq
    core = await adopt_untold(fleet, token)
    await until(lambda: timeouts(fleet) == 1)
    assert not stub.calls
    tell(fleet, core)
    assert (await device.note())["id"] == seq
    await until(lambda: [call.notification for call in stub.calls] == [seq])
    assert timeouts(fleet) == 2
    assert not device.waiting()


@pytest.mark.usefixtures("hasty")
async def test_one_whose_ack_timeout_is_lost_without_a_gap_is_asked_for_and_tried_again(
    open_fleet: Open, stub: StubNotifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = await open_with(open_fleet, stub)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    seq = await fleet.core_of(token).push(token, "no ack", ack_ms=ACK_MS)
    assert (await device.note())["id"] == seq
    core = await adopt_untold(fleet, token)
    events = fleet.nodes[1].node.events
    tell_timeout, swallowed = events.on_ack_timeout, []

    def swallow(seq: int, registration: int) -> None:
        if swallowed:
            tell_timeout(seq, registration)
        else:
            swallowed.append(seq)

    monkeypatch.setattr(events, "on_ack_timeout", swallow)
    tell(fleet, core)
    await core.reaches(seq, State.SENT)
    assert not device.waiting()
    await until(lambda: swallowed == [seq])
    assert (await device.note(ack=True))["id"] == seq
    await core.reaches(seq, State.ACKED)
    assert not stub.calls


@pytest.mark.usefixtures("hasty")
async def test_one_that_is_in_flight_longer_than_its_owner_reckons_is_asked_for_until_something_is_heard(
    open_fleet: Open, stub: StubNotifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = await open_with(open_fleet, stub)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = fleet.core_of(token)
    handlers, events = fleet.nodes[1].node._handlers, fleet.nodes[1].node.events
    tell_timeout, swallowed = events.on_ack_timeout, []

    def late(partition: int, record: Record) -> None:
        notify(partition, record._replace(a=record.a + 2_000))

    def swallow(seq: int, registration: int) -> None:
        if swallowed:
            tell_timeout(seq, registration)
        else:
            swallowed.append(seq)

    notify = handlers[Do.NOTIFY]
    monkeypatch.setitem(handlers, Do.NOTIFY, late)
    monkeypatch.setattr(node_edge, "deliver", lambda _body, at, *_: at)  # one by one, as above
    monkeypatch.setattr(events, "on_ack_timeout", swallow)
    seq = await core.push(token, "slow node", ack_ms=ACK_MS)
    assert (await device.note())["id"] == seq
    await until(lambda: fleet.nodes[2].metrics.value(Metric.FAR_LOST, "asked") == 1)
    assert not swallowed
    await until(lambda: swallowed == [seq])
    assert (await device.note(ack=True))["id"] == seq
    await core.reaches(seq, State.ACKED)


@pytest.mark.parametrize("was_sent", [True, False], ids=["in flight", "not sent"])
async def test_one_whose_device_leaves_before_its_node_has_said_what_is_in_flight_falls_over(
    open_fleet: Open, stub: StubNotifier, monkeypatch: pytest.MonkeyPatch, *, was_sent: bool
) -> None:
    fleet = await open_fleet(
        nodes=2,
        owners=dict.fromkeys(range(4), 2),
        notifiers={"stub": stub},
        app={"fallback": ["stub"]},
        settings={"delivery.notifier_ack_ms": 300},
    )
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    handlers = fleet.nodes[1].node._handlers
    if not was_sent:
        monkeypatch.setattr(node_edge, "deliver", lambda _body, at, *_: at)
        monkeypatch.setitem(handlers, Do.NOTIFY, lambda _partition, _record: None)
    seq = await fleet.core_of(token).push(token, "no ack")
    if was_sent:
        assert (await device.note())["id"] == seq
    core = await adopt_untold(fleet, token)
    monkeypatch.setitem(handlers, Do.HOLD, lambda _partition, _record: None)
    tell(fleet, core)
    await fleet.connected(token)
    await until(lambda: core.dispatcher._resume_at_ms is None)
    await core.dispatcher.backlog.wait_idle()
    assert core.state(seq) is State.ACCEPTED
    assert not stub.calls
    device.vanish()
    await until(lambda: [call.notification for call in stub.calls] == [seq])
    await asyncio.sleep(0)
    assert len(stub.calls) == 1
