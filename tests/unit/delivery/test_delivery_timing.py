"""Schedules, quiet hours, spread pushes and limits for one device: what is sent when, and what is not."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise

import msgspec
import pytest
from house import House

from gateway.delivery.executor import MAX_TRIES
from gateway.delivery.request import TargetRequest
from gateway.metrics import Metric
from gateway.model.errors import BadRequest, UnknownPush
from gateway.model.outcome import State
from gateway.notifiers.stub.client import Answer

MINUTE = 60_000
HOUR = 60 * MINUTE
EVERYONE = TargetRequest(everyone=True)


def at(house: House, hour: int, minute: int = 0) -> None:
    """Set the clock to a time of day, UTC, on a winter's day."""
    house.clock.now_ms = int(datetime(2027, 1, 20, hour, minute, tzinfo=UTC).timestamp() * 1000)


def seconds(house: House) -> int:
    return house.clock.now_ms // 1000


# --- schedules


async def test_a_scheduled_push_waits_for_its_time_and_its_life_begins_then(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    kept = await house.accepted(device, deliver_at=seconds(house) + 60, ttl=30)
    await house.advance(59_000)
    assert not house.edge.frames
    await house.advance(2_000)
    (frame,) = house.frames(device)
    assert frame.id == house.schedules.names[kept]
    assert abs(frame.expires - (seconds(house) + 30)) <= 2
    house.edge.ack(device.number, frame.id)
    assert house.outcome(frame.id).state == State.ACKED


async def test_the_audience_is_the_one_of_the_moment_of_release(house: House) -> None:
    await house.accepted(TargetRequest(tag="vip"), deliver_at=seconds(house) + 10)
    devices = [house.directory.add(tags=["vip"]) for _ in range(3)]
    house.edge.connect(*(device.number for device in devices))
    await house.advance(11_000)
    assert sorted(number for number, _ in house.edge.frames) == [device.number for device in devices]


async def test_a_scheduled_broadcast_is_stored_once_when_it_is_released(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    kept = await house.accepted(EVERYONE, deliver_at=seconds(house) + 5)
    newer = await house.accepted(EVERYONE)
    house.edge.ack(device.number, newer)
    await house.advance(6_000)
    assert house.edge.sent_to(device.number) == [newer, house.schedules.names[kept]]


async def test_a_scheduled_push_can_be_recalled_before_and_after_its_time(house: House) -> None:
    device = house.directory.add()
    first = await house.accepted(device, deliver_at=seconds(house) + 5)
    second = await house.accepted(device, deliver_at=seconds(house) + 5)
    assert await house.dispatcher.recall("shop", first) == 1
    assert house.schedules.ended[first] == State.RECALLED
    await house.advance(6_000)
    became = house.schedules.names[second]
    assert await house.dispatcher.recall("shop", second) == 1
    assert house.state(became) == State.RECALLED
    house.edge.connect(device.number)
    assert not house.edge.frames


async def test_another_apps_scheduled_push_is_unknown(house: House) -> None:
    house.app(name="bank")
    kept = await house.accepted(house.directory.add(), deliver_at=seconds(house) + 5)
    with pytest.raises(UnknownPush):
        await house.dispatcher.recall("bank", kept)
    assert kept in house.schedules.kept


async def test_a_token_revoked_meanwhile_ends_it(house: House) -> None:
    device = house.directory.add()
    kept = await house.accepted(device, deliver_at=seconds(house) + 5)
    device.revoked_at = 1
    await house.advance(6_000)
    assert house.schedules.ended[kept] == State.REJECTED


async def test_a_release_that_is_refused_is_tried_again_until_it_expires(house: House) -> None:
    device = house.directory.add()
    kept = await house.accepted(device, deliver_at=seconds(house) + 5, ttl=10)
    other = await house.accepted(device, deliver_at=seconds(house) + 5, ttl=100)
    house.journal.max_pending = 0
    await house.advance(22_000)
    assert house.schedules.ended[kept] == State.EXPIRED
    refused = house.counted(Metric.PUSHES_REFUSED, "queue_full")
    assert 6 <= refused <= 12  # later each time
    house.journal.max_pending = 10
    await house.advance(20_000)
    assert other in house.schedules.names


async def test_a_store_that_can_not_be_read_for_a_moment_loses_no_scheduled_push(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = house.directory.add()
    kept = [await house.accepted(device, deliver_at=seconds(house) + 5) for _ in range(3)]
    broken = house.schedules.notification

    def fail(_seq: int) -> None:
        raise OSError("no")

    monkeypatch.setattr(house.schedules, "notification", fail)
    await house.advance(6_000)
    assert not house.schedules.names
    monkeypatch.setattr(house.schedules, "notification", broken)
    await house.advance(5_000)
    assert sorted(house.schedules.names) == kept


@pytest.mark.parametrize("target", ["device", "everyone"])
async def test_a_recall_while_the_release_waits_for_its_commit_takes_it_back(house: House, target: str) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    kept = await house.accepted(device if target == "device" else EVERYONE, deliver_at=seconds(house) + 5)
    house.journal.hold = True
    house.clock.now_ms += 6_000
    house.scheduler.tick()
    recall = asyncio.create_task(house.dispatcher.recall("shop", kept))
    await asyncio.sleep(0)
    assert not recall.done()
    house.journal.commit()
    for _ in range(4):
        await asyncio.sleep(0)
        house.journal.commit()  # what the recall writes
    assert await recall == 1
    frames = list(house.edge.frames)
    house.journal.hold = False
    house.edge.disconnect(device.number)
    house.edge.connect(device.number)
    await house.advance(2_000)
    assert house.edge.frames == frames


async def test_a_failed_commit_leaves_it_kept_and_nothing_of_it_was_sent(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    await house.accepted(device, deliver_at=seconds(house) + 5)
    house.journal.fail = True
    await house.advance(6_000)
    assert not house.edge.frames


async def test_the_past_is_now_and_too_far_ahead_is_refused(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    await house.accepted(device, deliver_at=seconds(house) - 5)
    assert len(house.edge.frames) == 1
    with pytest.raises(BadRequest) as refused:
        house.push(device, deliver_at=seconds(house) + 400 * 86_400)
    assert refused.value.field == "deliver_at"


# --- quiet hours


async def test_quiet_hours_hold_what_is_not_urgent_until_they_end(house: House) -> None:
    at(house, 23)
    device = house.directory.add(timezone="UTC", quiet="22:00-07:00")
    house.edge.connect(device.number)
    calm = await house.accepted(device)
    urgent = await house.accepted(device, urgency="high")
    assert house.edge.sent_to(device.number) == [urgent]
    house.edge.ack(device.number, urgent)
    assert house.state(calm) == State.WAITING
    at(house, 6, 59)
    house.clock.now_ms += 24 * HOUR
    await house.advance(500)
    assert house.edge.sent_to(device.number) == [urgent]
    await house.advance(MINUTE)
    assert house.edge.sent_to(device.number) == [urgent, calm]


async def test_quiet_hours_keep_the_notifiers_quiet_too(house: House) -> None:
    at(house, 23)
    device = house.directory.add(timezone="UTC", quiet="22:00-07:00", fallback=["stub"])
    seq = await house.accepted(device)
    await house.advance(10 * MINUTE)
    assert not house.stub.calls
    house.clock.now_ms += 8 * HOUR
    await house.advance(1_000)
    assert [call.notification for call in house.stub.calls] == [seq]


async def test_quiet_hours_are_local_time(house: House) -> None:
    at(house, 23)
    tokyo = house.directory.add(timezone="Asia/Tokyo", quiet="22:00-07:00")  # it is 8 in the morning there
    house.edge.connect(tokyo.number)
    seq = await house.accepted(tokyo)
    assert house.edge.sent_to(tokyo.number) == [seq]


async def test_a_broadcast_leaves_out_who_sleeps_and_comes_to_them_in_the_morning(house: House) -> None:
    at(house, 23)
    awake = house.directory.add()
    sleeper = house.directory.add(timezone="UTC", quiet="22:00-07:00")
    late = house.directory.add(timezone="UTC", quiet="22:00-07:00")
    house.edge.connect(awake.number, sleeper.number)
    seq = await house.accepted(EVERYONE)
    assert [number for number, _ in house.edge.frames] == [awake.number]
    house.edge.connect(late.number)
    assert len(house.edge.frames) == 1
    house.clock.now_ms += 8 * HOUR - 1_000
    await house.advance(3_000)
    assert Counter(number for number, _ in house.edge.frames) == {
        awake.number: 1,
        sleeper.number: 1,
        late.number: 1,
    }
    assert {frame.id for _, frame in house.edge.frames} == {seq}


async def test_who_leaves_in_quiet_hours_is_told_by_the_broadcasts_own_chain_when_they_end(house: House) -> None:
    at(house, 23)
    left, gone, stays = (house.directory.add(timezone="UTC", quiet="22:00-07:00") for _ in range(3))
    house.edge.connect(left.number, stays.number)
    await house.accepted(EVERYONE, fallback=["stub"])
    house.edge.disconnect(left.number)
    house.clock.now_ms += 8 * HOUR - 1_000
    await house.advance(3_000)
    assert {call.registration for call in house.stub.calls} == {left.number, gone.number}
    assert [number for number, _ in house.edge.frames] == [stays.number]


async def test_a_push_that_does_not_live_until_morning_expires_unseen(house: House) -> None:
    at(house, 23)
    device = house.directory.add(timezone="UTC", quiet="22:00-07:00", fallback=["stub"])
    house.edge.connect(device.number)
    seq = await house.accepted(device, ttl=3_600)
    house.clock.now_ms += 61 * MINUTE
    await house.advance(1_000)
    assert house.state(seq) == State.EXPIRED
    assert not house.edge.frames
    assert not house.stub.calls


async def test_a_device_that_asks_in_its_quiet_hours_gets_what_waits(house: House) -> None:
    at(house, 23)
    device = house.directory.add(timezone="UTC", quiet="22:00-07:00")
    house.edge.connect(device.number)
    seq = await house.accepted(device)
    assert house.dispatcher.on_fetch(device.number, []) == (1, False)
    assert house.edge.sent_to(device.number) == [seq]


# --- spread


async def test_a_spread_push_to_many_goes_out_evenly(house: House) -> None:
    devices = [house.directory.add(tags=["all"]) for _ in range(100)]
    house.edge.connect(*(device.number for device in devices))
    await house.accepted(TargetRequest(tag="all"), over=100, ack_ms=3_600_000)
    sent = [len(house.edge.frames)]
    for _ in range(4):
        await house.advance(25_000)
        sent.append(len(house.edge.frames))
    assert sent[0] <= 1
    assert sent[4] == 100
    assert all(20 <= later - sooner <= 30 for sooner, later in pairwise(sent))
    assert Counter(number for number, _ in house.edge.frames).most_common(1)[0][1] == 1


async def test_a_spread_broadcast_goes_out_evenly_to_each_once_also_to_who_comes_meanwhile(house: House) -> None:
    devices = [house.directory.add() for _ in range(200)]
    house.edge.connect(*(device.number for device in devices[:150]))
    await house.accepted(EVERYONE, over=100)
    sent = [len(house.edge.frames)]
    for step in range(4):
        await house.advance(25_000)
        sent.append(len(house.edge.frames))
        if step == 1:
            house.edge.connect(*(device.number for device in devices[150:]))
    await house.advance(5_000)
    assert sent[0] <= 3
    assert 20 <= sent[1] <= 60
    assert Counter(number for number, _ in house.edge.frames) == {device.number: 1 for device in devices}


async def test_a_spread_broadcast_goes_on_after_a_restart_where_it_was(house: House) -> None:
    devices = [house.directory.add() for _ in range(100)]
    numbers = [device.number for device in devices]
    house.edge.connect(*numbers)
    seq = await house.accepted(EVERYONE, over=100)
    await house.advance(50_000)
    before = {number for number, _ in house.edge.frames}
    house.edge.ack(next(iter(before)), seq)
    for number in before:
        if (seq, number) not in house.broadcasts.seen:
            house.edge.ack(number, seq)
    house.edge.disconnect(*numbers, tell=False)
    await house.close()
    house.start()
    house.dispatcher.start()
    house.edge.frames.clear()
    house.edge.connect(*numbers)
    await house.advance(1_000)
    assert len(house.edge.frames) < 15
    await house.advance(60_000)
    assert {number for number, _ in house.edge.frames} == set(numbers) - before


async def test_who_is_away_falls_back_in_its_own_portion(house: House) -> None:
    for _ in range(50):
        house.directory.add()
    await house.accepted(EVERYONE, over=50, fallback=["stub"])
    assert not house.stub.calls
    await house.advance(25_000)
    assert 10 <= len(house.stub.calls) <= 40
    await house.advance(30_000)
    assert len(house.stub.calls) == 50


async def test_it_must_be_over_before_the_push_is(house: House) -> None:
    with pytest.raises(BadRequest) as refused:
        house.push(EVERYONE, over=100, ttl=50)
    assert refused.value.field == "over"


# --- limits for one device


async def test_one_device_gets_no_more_than_its_app_allows(house: House) -> None:
    house.directory.apps["shop"] = msgspec.structs.replace(house.directory.apps["shop"], device_per_hour=2)
    device, other = house.directory.add(), house.directory.add()
    house.edge.connect(device.number, other.number)
    first, second, third = [await house.accepted(device) for _ in range(3)]
    urgent = await house.accepted(device, urgency="high")
    assert house.edge.sent_to(device.number) == [first, second, urgent]
    assert house.state(third) == State.LIMITED
    assert house.steps(third) == ["limited"]
    assert house.edge.sent_to(other.number) == []
    house.edge.ack(device.number, first, second, urgent)
    house.clock.now_ms += 60 * MINUTE
    later = await house.accepted(device)
    assert house.edge.sent_to(device.number)[-1] == later


async def test_a_broadcast_that_goes_to_a_notifier_does_not_count_for_its_device(house: House) -> None:
    house.directory.apps["shop"] = msgspec.structs.replace(house.directory.apps["shop"], device_per_hour=1)
    device = house.directory.add(fallback=["stub"])
    for _ in range(2):
        await house.accepted(TargetRequest(everyone=True), fallback=["stub"])
    single, past = await house.accepted(device), await house.accepted(device)
    await house.advance(500)
    assert len(house.stub.calls) == 3
    assert [house.state(seq) for seq in (single, past)] == [State.NOTIFIED, State.LIMITED]


# --- dead addresses


async def test_an_address_that_a_notifier_calls_dead_is_told_to_the_directory(house: House) -> None:
    device = house.directory.add(fallback=["stub"], addresses={"stub": "address"})
    house.stub.expect(Answer.GONE)
    seq = await house.accepted(device)
    await house.advance(500)
    assert house.directory.gone == [(device.number, "stub")]
    assert house.steps(seq) == ["notifier_failed"]


@pytest.mark.parametrize(("late_ms", "is_sent"), [(5_000, True), (5_001, False)])
async def test_now_or_never_is_not_sent_long_after_its_time(house: House, late_ms: int, *, is_sent: bool) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    due_s = seconds(house) + 5
    kept = await house.accepted(device, deliver_at=due_s, ttl=0)
    house.clock.now_ms = due_s * 1000 + late_ms  # nobody looked at it before
    house.scheduler.tick()
    await house.settle_down()
    assert bool(house.edge.sent_to(device.number)) is is_sent
    assert house.schedules.ended == ({} if is_sent else {kept: State.EXPIRED})


async def test_an_address_that_took_the_place_of_a_dead_one_meanwhile_gets_what_was_pending(house: House) -> None:
    device = house.directory.add(fallback=["stub", "other"], addresses={"stub": "old"})
    house.stub.expect(Answer.HANG)
    house.stub.hung = Answer.GONE
    seq = await house.accepted(device)
    house.directory.records[device.number] = msgspec.structs.replace(device, addresses={"stub": "new"})
    house.stub.release()
    await house.settle_down()
    assert (len(house.stub.calls), len(house.other.calls)) == (2, 0)
    assert house.steps(seq) == ["notified"]
    assert not house.directory.gone


async def test_a_dead_address_that_was_registered_since_is_tried_again(house: House) -> None:
    device = house.directory.add(fallback=["stub"], addresses={"stub": "a"}, addressed_at={"stub": 2_000})
    house.stub.answer, house.stub.gone_at_ms = Answer.GONE, 1_000
    seq = await house.accepted(device, ttl=86_400)
    assert house.state(seq) is State.WAITING
    await house.advance(1_800_000)
    assert len(house.stub.calls) == MAX_TRIES
    assert not house.directory.gone


async def test_now_or_never_at_its_time_reaches_who_is_there_then(house: House) -> None:
    there, away = house.directory.add(), house.directory.add()
    house.edge.connect(there.number)
    first = await house.accepted(there, deliver_at=seconds(house) + 5, ttl=0)
    second = await house.accepted(away, deliver_at=seconds(house) + 5, ttl=0)
    await house.advance(6_000)
    assert house.edge.sent_to(there.number) == [house.schedules.names[first]]
    assert house.state(house.schedules.names[second]) == State.EXPIRED
