"""A notifier's "later" that is one device's alone."""

from __future__ import annotations

from house import House

from gateway.model.outcome import State
from gateway.notifiers.stub.client import Answer


async def test_one_device_is_asked_again_after_its_own_time_and_the_others_at_once(house: House) -> None:
    hot, cool = house.directory.add(fallback=["stub"]), house.directory.add(fallback=["stub"])
    house.stub.hold_ms = 100_000
    house.stub.expect(Answer.RETRY)
    held = await house.accepted(hot)
    assert house.state(await house.accepted(cool)) is State.NOTIFIED
    await house.advance(99_000)
    assert house.state(held) is State.WAITING
    await house.advance(10_000)  # and a part of the pause, so that what failed together does not come together
    assert house.state(held) is State.NOTIFIED
    assert [call.registration for call in house.stub.calls] == [hot.number, cool.number, hot.number]
