"""Broadcasts (A3, A4): stored once, everybody once, whenever they come."""

from __future__ import annotations

import asyncio

import pytest
from house import House

from gateway.delivery.request import TargetRequest
from gateway.model.errors import StoreUnavailable, UnknownPush
from gateway.model.outcome import State
from gateway.notifiers.stub.client import Answer

EVERYONE = TargetRequest(everyone=True)


async def test_goes_to_links_that_match_and_is_stored_once(house: House) -> None:
    old, new = house.directory.add(version="1.5"), house.directory.add(version="2.1")
    house.edge.connect(old.number, new.number)
    seq = await house.accepted(TargetRequest(versions=">=2,<3"), title="news")
    assert [(number, f.id, f.token, f.app) for number, f in house.edge.frames] == [(new.number, seq, "", "shop")]
    assert not house.journal.rows
    house.edge.ack(new.number, seq, shown=True)
    assert house.broadcasts.figures(seq) == {"targeted": 1, "sent": 1, "acked": 1, "shown": 1}


async def test_late_joiner_and_who_changes_into_the_version_get_it_once(house: House) -> None:
    seq = await house.accepted(TargetRequest(versions=">=2"))
    late = house.directory.add(version="2.0")
    changer = house.directory.add(version="1.0")
    house.edge.connect(late.number, changer.number)
    assert [number for number, _ in house.edge.frames] == [late.number]
    changer.version = "2.2"
    house.edge.connect(changer.number)
    assert house.edge.sent_to(changer.number) == [seq]
    house.edge.ack(late.number, seq)
    house.edge.ack(changer.number, seq)
    house.edge.disconnect(late.number, changer.number)
    house.edge.connect(late.number, changer.number)
    assert len(house.edge.frames) == 2


async def test_waits_in_order_with_single_deliveries_and_a_fetch_gets_both(house: House) -> None:  # A4
    device = house.directory.add()
    first = await house.accepted(device)
    second = await house.accepted(EVERYONE)
    third = await house.accepted(device)
    house.edge.bound.add(device.number)
    assert house.dispatcher.on_fetch(device.number, []) == (3, False)
    assert house.edge.sent_to(device.number) == [first, second, third]
    house.edge.disconnect(device.number)
    house.edge.connect(device.number)
    assert house.edge.sent_to(device.number)[3:] == [first, second, third]


async def test_other_apps_get_nothing(house: House) -> None:
    house.app(name="bank")
    stranger = house.directory.add(app="bank")
    house.edge.connect(stranger.number)
    seq = await house.accepted(EVERYONE)
    assert not house.edge.frames
    assert house.dispatcher.on_fetch(stranger.number, [seq]) == (0, False)
    house.edge.ack(stranger.number, seq, shown=True)
    assert "acked" not in house.broadcasts.figures(seq)
    assert "shown" not in house.broadcasts.figures(seq)


async def test_second_ack_counts_nothing(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    seq = await house.accepted(EVERYONE)
    house.edge.ack(device.number, seq)
    house.edge.ack(device.number, seq)
    assert house.broadcasts.figures(seq)["acked"] == 1


async def test_light_form_counts_and_its_body_can_be_fetched(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    seq = await house.accepted(EVERYONE, data="body", body="on_demand")
    house.edge.ack(device.number, seq)
    assert house.dispatcher.on_fetch(device.number, [seq]) == (1, False)
    assert [(f.more, bool(bytes(f.data))) for f in house.frames(device)] == [(True, False), (False, True)]
    assert house.broadcasts.figures(seq) == {"targeted": 1, "sent": 1, "acked": 1}


async def test_without_a_fallback_of_its_own_it_never_leaves_the_channel(house: House) -> None:
    house.app(fallback=["stub"])
    there, away = house.directory.add(), house.directory.add(fallback=["stub"])
    house.edge.connect(there.number)
    seq = await house.accepted(EVERYONE)
    await house.advance(60_000)
    assert not house.stub.calls
    house.edge.connect(away.number)
    assert house.edge.sent_to(away.number) == [seq]


async def test_with_a_fallback_the_absent_and_the_silent_get_single_deliveries(house: House) -> None:  # B3, B4
    there, away, silent = (house.directory.add() for _ in range(3))
    house.edge.connect(there.number, silent.number)
    seq = await house.accepted(EVERYONE, title="news", fallback=["stub"])
    house.edge.ack(there.number, seq)
    assert [c.registration for c in house.stub.calls] == [away.number]
    await house.advance(3_000)
    assert [c.registration for c in house.stub.calls] == [away.number, silent.number]
    assert (silent.number, seq) in house.edge.recalled
    assert house.broadcasts.figures(seq) == {"targeted": 3, "sent": 2, "acked": 1, "notified": 2}
    house.edge.connect(away.number)
    [own] = house.edge.sent_to(away.number)
    assert own != seq
    house.edge.ack(away.number, own)
    assert house.state(own) is State.ACKED


async def test_fallback_that_can_not_be_stored_leaves_it_waiting_by_its_cursor(house: House) -> None:
    away = house.directory.add()
    taken = house.push(EVERYONE, fallback=["stub"])
    await taken.done
    house.journal.writable = False
    await house.settle_down()
    house.edge.connect(away.number)
    assert house.edge.sent_to(away.number) == [taken.seq]
    house.journal.writable = True


async def test_device_that_is_back_before_its_single_delivery_is_stored_gets_one_of_both(house: House) -> None:
    away = house.directory.add()
    taken = house.push(EVERYONE, fallback=["stub"])
    await taken.done
    house.journal.hold = True
    await house.settle_down()
    house.edge.connect(away.number)
    [own] = house.edge.sent_to(away.number)
    assert own != taken.seq
    house.journal.commit()
    await house.settle_down()
    house.dispatcher.on_ready([away.number])
    assert house.edge.sent_to(away.number) == [own]


async def test_a_single_delivery_whose_commit_fails_is_taken_back_and_nothing_of_it_is_remembered(house: House) -> None:
    away = house.directory.add()
    house.stub.answer = Answer.DOWN
    taken = house.push(EVERYONE, fallback=["stub"])
    await taken.done
    house.journal.hold = True
    await house.settle_down()
    house.edge.connect(away.number)
    [own] = house.edge.sent_to(away.number)
    assert house.dispatcher._executor.was_tried(own)
    house.journal.fail = True
    house.journal.commit()
    await house.settle_down()
    assert house.edge.recalled == [(away.number, own)]
    assert not house.dispatcher._executor.was_tried(own)
    house.dispatcher.on_ready([away.number])
    assert house.edge.sent_to(away.number) == [own, taken.seq]


async def test_recall_reaches_links_and_single_deliveries_and_ends_it(house: House) -> None:
    there, away = house.directory.add(), house.directory.add()
    house.edge.connect(there.number)
    seq = await house.accepted(EVERYONE, fallback=["stub"])
    [own] = house.journal.rows
    with pytest.raises(UnknownPush):
        await house.dispatcher.recall("bank", seq)
    assert await house.dispatcher.recall("shop", seq) == 2
    assert (there.number, seq) in house.edge.recalled
    assert house.broadcasts.ended == {seq: State.RECALLED}
    assert house.state(own) is State.RECALLED
    house.edge.connect(away.number)
    assert house.edge.sent_to(away.number) == []


async def test_what_is_recalled_leaves_nothing_behind_and_the_others_still_expire(house: House) -> None:
    staying = await house.accepted(EVERYONE, ttl=60)
    for _ in range(1_200):
        taken = house.push(EVERYONE, ttl=86_400)
        await taken.done
        await house.dispatcher.recall("shop", taken.seq)
    assert len(house.dispatcher.broadcast._expiries) < 600
    await house.advance(61_000)
    assert house.broadcasts.ended[staying] is State.EXPIRED


async def test_recall_reaches_a_single_delivery_whose_commit_is_under_way(house: House) -> None:
    away = house.directory.add()
    taken = house.push(EVERYONE, fallback=["stub"])
    await taken.done
    house.journal.hold = True
    await house.settle_down()
    [own] = house.journal.rows
    recalling = asyncio.create_task(house.dispatcher.recall("shop", taken.seq))
    await house.settle_down()
    house.journal.commit()
    assert await recalling == 2
    assert house.state(own) is State.RECALLED
    house.edge.connect(away.number)
    assert house.edge.sent_to(away.number) == []


async def test_expires_and_counts_whom_it_did_not_reach(house: House) -> None:
    there, away = house.directory.add(), house.directory.add()
    house.edge.connect(there.number)
    seq = await house.accepted(EVERYONE, ttl=5)
    house.edge.ack(there.number, seq)
    await house.advance(7_000)
    assert house.broadcasts.ended == {seq: State.EXPIRED}
    assert house.broadcasts.figures(seq)["expired"] == 1
    house.edge.connect(away.number)
    assert house.edge.sent_to(away.number) == []


async def test_ttl_0_reaches_who_is_there_and_their_acks_count(house: House) -> None:
    there, away = house.directory.add(), house.directory.add()
    house.edge.connect(there.number)
    seq = await house.accepted(EVERYONE, ttl=0)
    await house.advance(1_500)
    house.edge.ack(there.number, seq)
    house.edge.connect(away.number)
    assert house.edge.sent_to(away.number) == []
    assert house.broadcasts.figures(seq)["acked"] == 1


async def test_failed_commit_takes_it_back(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    house.journal.fail = True
    taken = house.push(EVERYONE)
    with pytest.raises(StoreUnavailable):
        await taken.done
    assert (device.number, taken.seq) in house.edge.recalled
    assert taken.seq not in house.dispatcher.broadcast


async def test_live_ones_are_taken_up_after_a_restart(house: House) -> None:
    device = house.directory.add()
    seq = await house.accepted(EVERYONE)
    house.start()
    house.dispatcher.start()
    house.edge.connect(device.number)
    assert house.edge.sent_to(device.number) == [seq]


async def test_floor_of_a_device_is_respected_when_it_comes_back(house: House) -> None:
    device = house.directory.add()
    low = await house.accepted(EVERYONE, urgency="low")
    house.edge.floors[device.number] = 2
    house.edge.connect(device.number)
    assert house.edge.sent_to(device.number) == []
    assert house.dispatcher.on_fetch(device.number, []) == (1, False)
    assert house.edge.sent_to(device.number) == [low]


async def test_storm_of_devices_coming_back_is_served_in_slices(house: House) -> None:
    devices = [house.directory.add() for _ in range(1_100)]
    seq = await house.accepted(EVERYONE)
    numbers = [d.number for d in devices]
    house.edge.bound.update(numbers)
    house.dispatcher.on_ready(numbers)
    assert not house.edge.frames
    turns = 0
    async with asyncio.timeout(60):
        while len(house.edge.frames) < 1_100:
            await asyncio.sleep(0)
            turns += 1
    assert turns >= 3
    assert {f.id for _, f in house.edge.frames} == {seq}


async def test_fan_out_leaves_alone_who_wants_nothing_so_unimportant(house: House) -> None:
    device, other = house.directory.add(), house.directory.add()
    house.edge.floors[device.number] = 2
    house.edge.connect(device.number, other.number)
    seq = await house.accepted(EVERYONE, urgency="low")
    assert [number for number, _ in house.edge.frames] == [other.number]
    house.edge.floors[device.number] = 0
    house.dispatcher.on_ready([device.number])
    assert house.edge.sent_to(device.number) == [seq]


# --- single deliveries that grew out of one


async def test_a_recall_takes_single_deliveries_back_that_were_made_before_a_restart(house: House) -> None:
    away = house.directory.add()
    seq = await house.accepted(EVERYONE, fallback=["stub"])
    other = await house.accepted(EVERYONE, fallback=["stub"])
    own, others = house.journal.rows
    house.start()
    house.dispatcher.start()
    assert await house.dispatcher.recall("shop", seq) == 2
    assert house.state(own) is State.RECALLED
    house.edge.connect(away.number)
    assert house.edge.sent_to(away.number) == [others]
    assert house.journal.notifications[others].broadcast == other


async def test_a_recall_takes_all_single_deliveries_back_also_those_past_what_is_remembered(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.delivery.broadcast.MAX_ADOPTED", 1)
    away = [house.directory.add() for _ in range(3)]
    seq = await house.accepted(TargetRequest(versions="<2"), fallback=["stub"])
    away[2].version = "3.0"
    assert await house.dispatcher.recall("shop", seq) == 4
    house.edge.connect(*(device.number for device in away))
    assert not house.edge.frames


async def test_a_kill_in_the_middle_of_a_recall_lets_no_single_delivery_out(house: House) -> None:
    away = house.directory.add()
    seq = await house.accepted(EVERYONE, fallback=["stub"])
    [own] = house.journal.rows
    house.broadcasts.end(seq, State.RECALLED, house.clock.now_ms)
    house.start()
    house.dispatcher.start()
    house.edge.connect(away.number)
    assert house.edge.sent_to(away.number) == []
    assert house.state(own) is State.RECALLED


async def test_who_a_notifier_did_not_reach_ends_expired_and_not_notified(house: House) -> None:
    house.stub.answer = Answer.DEAD
    house.directory.add()
    seq = await house.accepted(EVERYONE, fallback=["stub"], ttl=5)
    await house.advance(7_000)
    assert house.broadcasts.figures(seq) == {"targeted": 1, "sent": 0, "expired": 1}


async def test_a_single_delivery_is_known_to_its_provider_by_the_broadcast(house: House) -> None:
    house.directory.add()
    kept = await house.accepted(EVERYONE, fallback=["stub"], deliver_at=house.clock.now_ms // 1000 + 1)
    await house.advance(1_500)
    [own] = house.journal.rows
    grown = house.journal.notifications[own]
    assert (grown.push_seq, grown.broadcast) == (kept, house.schedules.became(kept))


# --- several registrations of one app on a link


async def test_one_that_is_in_flight_to_some_of_a_link_is_sent_to_the_others_alone(house: House) -> None:
    numbers = [house.directory.add().number for _ in range(3)]
    seq, later = await house.accepted(EVERYONE), await house.accepted(EVERYONE)
    house.edge.bound.update(numbers)
    house.dispatcher.on_ready(numbers, {(seq, number) for number in numbers[:2]})
    assert [house.edge.sent_to(number) for number in numbers] == [[later], [later], [seq, later]]


async def test_one_that_is_in_flight_to_all_of_a_link_holds_nothing_up(house: House) -> None:
    numbers = [house.directory.add().number for _ in range(2)]
    seq, later = await house.accepted(EVERYONE), await house.accepted(EVERYONE)
    house.edge.bound.update(numbers)
    house.dispatcher.on_ready(numbers, {(seq, number) for number in numbers})
    assert [house.edge.sent_to(number) for number in numbers] == [[later]] * 2
    await house.advance(500)
    assert len(house.edge.frames) == 2
