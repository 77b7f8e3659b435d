"""What an owner before this one sent and a node still has in flight: its end is heard, and it is not sent twice."""

from __future__ import annotations

import pytest
from house import House

from gateway.delivery.dispatcher import READY_SLICE
from gateway.metrics import Metric
from gateway.model.outcome import State


async def adopted(house: House) -> tuple[int, int]:
    """A push that another owner sent over the link its device has: (registration, sequence)."""
    house.app(fallback=["stub"])
    device = house.directory.add()
    seq = await house.accepted(device, title="hi", fallback=[])
    house.journal.set_state(seq, State.ACCEPTED, 0)  # as it is recovered
    house.edge.bound.add(device.number)
    house.dispatcher.on_ready([device.number], {(seq, device.number)})
    assert house.state(seq) is State.SENT
    assert not house.edge.frames
    return device.number, seq


async def test_its_ack_settles_it(house: House) -> None:
    number, seq = await adopted(house)
    house.edge.ack(number, seq)
    assert house.outcome(seq).state is State.ACKED


async def test_without_an_ack_it_is_tried_again(house: House) -> None:  # B3
    number, seq = await adopted(house)
    house.dispatcher.on_ack_timeout(seq, number)
    assert house.steps(seq)[-1] == "ack_timeout"
    await house.advance(house.config.delivery.retry_ms)
    assert [frame.id for _, frame in house.edge.frames] == [seq]


async def test_where_its_link_is_lost_it_waits_for_the_device(house: House) -> None:
    number, seq = await adopted(house)
    house.edge.bound.discard(number)
    house.dispatcher.on_lost(seq, number, spilled=False)
    assert house.state(seq) is State.WAITING
    assert house.counted(Metric.EVENTS_IGNORED, "lost") == 0
    house.edge.connect(number)
    assert [frame.id for _, frame in house.edge.frames] == [seq]


@pytest.mark.parametrize("state", [State.NOTIFIED, State.ANNOUNCED])
async def test_one_that_went_on_meanwhile_stays_what_it_is(house: House, state: State) -> None:
    number, seq = await adopted(house)
    house.journal.set_state(seq, state, 0)
    house.dispatcher.on_ready([number], {(seq, number)})
    assert house.state(seq) is state


async def test_one_whose_ack_time_is_over_goes_on_waiting_though_its_link_has_it_still(house: House) -> None:
    house.app(fallback=["stub"])
    device = house.directory.add()
    seq = await house.accepted(device, title="hi", fallback=[])
    assert house.state(seq) is State.WAITING
    house.edge.bound.add(device.number)
    house.dispatcher.on_ready([device.number], {(seq, device.number)})
    assert house.state(seq) is State.WAITING


async def test_one_whose_ack_time_is_over_while_its_ready_waits_its_turn_is_tried_again(house: House) -> None:
    """READY of many devices at once is worked off in slices, and what is heard meanwhile is newer than it."""
    house.app(fallback=["stub"])
    device, crowd = house.directory.add(), house.directory.add()
    seq = await house.accepted(device, title="hi", fallback=[])
    for _ in range(READY_SLICE + 1):
        await house.accepted(crowd, title="hi", fallback=[])
    house.journal.set_state(seq, State.ACCEPTED, 0)  # as it is recovered
    house.edge.bound.update((device.number, crowd.number))
    house.dispatcher.on_ready([crowd.number])
    house.dispatcher.on_ready([device.number], {(seq, device.number)})
    house.dispatcher.on_ack_timeout(seq, device.number)
    await house.settle_down()
    assert "ack_timeout" in house.steps(seq)
    await house.advance(house.config.delivery.retry_ms)
    assert [frame.id for frame in house.frames(device)] == [seq]


# --- light bodies (B2): nobody knows any more whether the light form or the body was sent


async def light_adopted(house: House) -> tuple[int, int]:
    """Another owner sent it, which was the light form, or the body after a FETCH."""
    house.app()
    device = house.directory.add()
    seq = await house.accepted(device, title="hi", data={"a": 1}, body="on_demand", fallback=[])
    house.journal.set_state(seq, State.ACCEPTED, 0)  # as it is recovered
    house.edge.bound.add(device.number)
    house.dispatcher.on_ready([device.number], {(seq, device.number)})
    assert house.state(seq) is State.SENT
    return device.number, seq


async def test_an_ack_that_says_the_body_is_there_settles_what_another_owner_sent(house: House) -> None:
    number, seq = await light_adopted(house)
    house.edge.ack(number, seq, whole=True)
    assert house.outcome(seq).state is State.ACKED


async def test_an_ack_that_does_not_say_so_is_of_the_light_form(house: House) -> None:
    number, seq = await light_adopted(house)
    house.edge.ack(number, seq)
    assert house.state(seq) is State.ANNOUNCED


@pytest.mark.parametrize("state", [State.ACCEPTED, State.SENT, State.NOTIFIED, State.WAITING, State.ANNOUNCED])
async def test_a_body_is_confirmed_whatever_became_of_it_meanwhile(house: House, state: State) -> None:
    number, seq = await light_adopted(house)
    house.journal.set_state(seq, state, 0)
    house.edge.ack(number, seq, whole=True, shown=True)
    assert house.outcome(seq).state is State.ACKED
    assert house.steps(seq)[-2:] == ["acked", "shown"]


async def test_a_light_form_that_was_acked_is_not_sent_again(house: House) -> None:
    house.app()
    device = house.directory.add()
    house.edge.connect(device.number)
    seq = await house.accepted(device, title="hi", data={"a": 1}, body="on_demand", fallback=[])
    house.edge.ack(device.number, seq)
    house.edge.disconnect(device.number)
    house.edge.connect(device.number)
    assert len(house.edge.frames) == 1
