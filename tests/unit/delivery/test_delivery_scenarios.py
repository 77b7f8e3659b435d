"""Every clause as a scenario on memory ports and a clock that only moves when told."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
import pytest
from house import House

from gateway.delivery.backlog import SLICE
from gateway.delivery.executor import MAX_TRIES
from gateway.delivery.request import TargetRequest
from gateway.metrics import Metric
from gateway.model.errors import StoreUnavailable
from gateway.model.outcome import State
from gateway.model.ports import ACK_SHOWN, Ack
from gateway.notifiers.stub.client import Answer

BIG = "x" * 5_000


async def test_connected_device_gets_it_through_its_link_and_its_ack_settles_it(house: House) -> None:  # B2
    device = house.directory.add()
    house.edge.connect(device.number)
    seq = await house.accepted(device, title="hi", data={"n": 1})
    [frame] = house.frames(device)
    assert (frame.title, frame.more, msgspec.msgpack.decode(bytes(frame.data))) == ("hi", False, {"n": 1})
    house.clock.now_ms += 40
    house.edge.ack(device.number, seq)
    outcome = house.outcome(seq)
    assert [(step.what, step.at_ms) for step in outcome.steps] == [
        ("sent", house.clock.now_ms - 40),
        ("acked", house.clock.now_ms),
    ]
    assert (outcome.state, outcome.app, outcome.registration) == (State.ACKED, "shop", device.number)
    assert not house.stub.calls


async def test_no_ack_after_three_seconds_goes_to_the_notifier(house: House) -> None:  # B3
    house.app(fallback=["stub"])
    device = house.directory.add()
    house.edge.connect(device.number)
    seq = await house.accepted(device, title="hi")
    await house.advance(2_500)
    assert not house.stub.calls
    await house.advance(500)
    [call] = house.stub.calls
    assert (call.title, call.registration) == ("hi", device.number)
    assert house.state(seq) is State.NOTIFIED
    assert house.steps(seq) == ["sent", "ack_timeout", "notified"]
    assert [s.channel for s in house.journal.rows[seq].steps] == ["edge", "edge", "stub"]


async def test_ack_time_of_the_push_goes_before_the_apps_and_the_gateways(house: House) -> None:
    house.app(fallback=["stub"], ack_ms=10_000)
    device = house.directory.add()
    house.edge.connect(device.number)
    await house.accepted(device)
    await house.accepted(device, ack_ms=1_000)
    await house.advance(1_000)
    assert len(house.stub.calls) == 1
    await house.advance(8_500)
    assert len(house.stub.calls) == 1
    await house.advance(500)
    assert len(house.stub.calls) == 2


async def test_disconnected_device_goes_to_the_notifier_at_once(house: House) -> None:  # B4
    device = house.directory.add(fallback=["stub"])
    seq = await house.accepted(device)
    assert len(house.stub.calls) == 1
    assert house.steps(seq) == ["notified"]
    assert not house.edge.frames


async def test_chain_of_the_push_goes_before_the_registrations_and_the_apps(house: House) -> None:
    house.app(fallback=["stub"])
    device = house.directory.add(fallback=["other"])
    await house.accepted(device)
    assert (len(house.stub.calls), len(house.other.calls)) == (0, 1)
    await house.accepted(device, fallback=["stub"])
    assert (len(house.stub.calls), len(house.other.calls)) == (1, 1)
    waiting = await house.accepted(device, fallback=[])
    assert (len(house.stub.calls), len(house.other.calls)) == (1, 1)
    assert house.state(waiting) is State.WAITING


async def test_notifier_without_ack_is_rechecked_on_the_channel(house: House) -> None:  # B5
    house.app(fallback=["stub"])
    device = house.directory.add()
    house.edge.connect(device.number)
    seq = await house.accepted(device)
    await house.advance(3_000)  # ack timeout, notified; the link is still there
    assert house.edge.sent_to(device.number) == [seq]
    await house.advance(29_000)
    assert house.state(seq) is State.NOTIFIED
    await house.advance(1_500)
    assert house.edge.sent_to(device.number) == [seq, seq]
    assert house.state(seq) is State.SENT
    house.edge.ack(device.number, seq)
    assert house.state(seq) is State.ACKED
    assert house.steps(seq) == ["sent", "ack_timeout", "notified", "recheck", "sent", "acked"]


async def test_recheck_of_an_absent_device_goes_to_the_next_notifier_then_waits(house: House) -> None:  # B5
    device = house.directory.add(fallback=["stub", "other"])
    seq = await house.accepted(device)
    await house.advance(30_500)
    assert (len(house.stub.calls), len(house.other.calls)) == (1, 1)
    await house.advance(30_500)
    assert house.state(seq) is State.WAITING
    assert house.steps(seq) == ["notified", "recheck", "notified", "recheck"]
    house.edge.connect(device.number)
    house.edge.ack(device.number, seq)
    assert house.state(seq) is State.ACKED


async def test_device_that_comes_back_while_notified_gets_it_at_once(house: House) -> None:  # B5
    device = house.directory.add(fallback=["stub"])
    seq = await house.accepted(device)
    house.edge.connect(device.number)
    assert house.edge.sent_to(device.number) == [seq]
    await house.advance(3_000)
    assert house.state(seq) is State.WAITING  # the chain is used up: no second call
    assert len(house.stub.calls) == 1


async def test_unacked_without_notifier_is_sent_again_with_growing_pauses(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    seq = await house.accepted(device)
    times = [house.clock.now_ms]
    for _ in range(700):
        await house.advance(500)
        if len(house.edge.frames) > len(times):
            times.append(house.clock.now_ms)
    pauses = [round((b - a) / 1000) for a, b in itertools.pairwise(times)]
    assert pauses == [33, 63, 123]
    assert set(house.edge.sent_to(device.number)) == {seq}


async def test_late_ack_settles(house: House) -> None:
    house.app(fallback=["stub"])
    device = house.directory.add()
    house.edge.connect(device.number)
    seq = await house.accepted(device)
    await house.advance(4_000)
    house.edge.ack(device.number, seq)
    assert house.state(seq) is State.ACKED
    assert house.outcome(seq).steps[-1].detail == "late"


async def test_device_can_not_ack_what_is_anothers(house: House) -> None:
    mine, other = house.directory.add(), house.directory.add()
    house.edge.connect(mine.number, other.number)
    seq = await house.accepted(mine)
    house.dispatcher.on_acks([Ack(seq, other.number, 1, 1, True, 9)])
    assert house.state(seq) is State.SENT
    assert house.counted(Metric.ACKS_FOREIGN) == 1


async def test_lost_link_leads_to_the_notifier_or_to_the_new_link(house: House) -> None:
    house.app(fallback=["stub"])
    device = house.directory.add()
    house.edge.connect(device.number)
    gone = await house.accepted(device)
    house.edge.disconnect(device.number)
    await house.settle_down()
    assert house.state(gone) is State.NOTIFIED
    assert house.steps(gone) == ["lost", "notified"]
    house.edge.ack(device.number, gone)
    house.edge.connect(device.number)
    moved = await house.accepted(device)
    house.edge.flights.clear()  # a new link took over before the loss of the old one is told
    house.dispatcher.on_lost(moved, device.number, spilled=False)
    assert house.edge.sent_to(device.number) == [gone, moved, moved]


async def test_link_that_goes_down_between_routing_and_sending(house: House) -> None:
    device = house.directory.add(fallback=["stub"])
    house.edge.connect(device.number)
    house.edge.before_notify = lambda number: house.edge.disconnect(number)
    seq = await house.accepted(device)
    assert not house.edge.frames
    assert house.state(seq) is State.NOTIFIED
    assert house.steps(seq) == ["lost", "notified"]


async def test_full_mailbox_is_tried_again_when_there_is_room(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    house.edge.mailbox_full = True
    seq = await house.accepted(device)
    assert house.state(seq) is State.WAITING
    assert house.edge.wants_ready == {device.number}
    house.edge.mailbox_full = False
    house.edge.say_ready()
    house.edge.ack(device.number, seq)
    assert house.steps(seq) == ["spilled", "sent", "acked"]


async def test_reconnect_between_the_looks_sends_once(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    seq = await house.accepted(device)
    house.dispatcher.on_ready([device.number])  # in flight already on this link
    house.dispatcher.on_ready([device.number])
    assert house.edge.sent_to(device.number) == [seq]


async def test_ttl_0_is_now_or_never(house: House) -> None:
    away, there, helped = house.directory.add(), house.directory.add(), house.directory.add(fallback=["stub"])
    house.edge.connect(there.number)
    never = await house.accepted(away, ttl=0)
    assert house.state(never) is State.EXPIRED
    assert house.steps(never) == ["expired"]
    now = await house.accepted(there, ttl=0)
    notified = await house.accepted(helped, ttl=0)
    assert [f.expires for f in house.frames(there)] == [0]
    await house.advance(2_000)
    assert house.state(now) is State.SENT  # its ack time is not over
    house.edge.ack(there.number, now)
    assert house.state(now) is State.ACKED
    assert house.state(notified) is State.NOTIFIED
    await house.advance(40_000)
    assert house.state(notified) is State.EXPIRED
    unacked = await house.accepted(there, ttl=0)
    await house.advance(5_000)
    assert house.state(unacked) is State.EXPIRED
    assert (there.number, unacked) in house.edge.recalled


async def test_what_waits_expires(house: House) -> None:
    device = house.directory.add()
    seq = await house.accepted(device, ttl=5)
    await house.advance(4_000)
    assert house.state(seq) is State.WAITING
    await house.advance(2_500)
    assert house.state(seq) is State.EXPIRED
    house.edge.connect(device.number)
    assert not house.edge.frames


async def test_recall_ends_it_and_takes_it_back(house: House) -> None:
    device = house.directory.add(alias="ann")
    other = house.directory.add(alias="ann")
    house.edge.connect(device.number)
    seq = await house.accepted(TargetRequest(alias="ann"))
    assert await house.dispatcher.recall("shop", seq) == 2
    assert {house.state(seq + 1), house.state(seq + 2)} == {State.RECALLED}
    assert (device.number, seq + 1) in house.edge.recalled
    house.edge.connect(other.number)
    assert house.edge.sent_to(other.number) == []


async def test_collapse_key_replaces_the_older_pending_one_of_the_same_token(house: House) -> None:
    device, other = house.directory.add(), house.directory.add()
    house.edge.connect(device.number)
    old = await house.accepted(device, collapse_key="score")
    apart = await house.accepted(device, collapse_key="mail")
    elsewhere = await house.accepted(other, collapse_key="score")
    new = await house.accepted(device, collapse_key="score")
    assert house.state(old) is State.REPLACED
    assert (device.number, old) in house.edge.recalled
    assert [house.state(seq) for seq in (apart, elsewhere, new)] == [State.SENT, State.WAITING, State.SENT]
    assert house.frames(device)[-1].collapse == "score"


async def test_newer_one_that_could_not_be_stored_replaces_nothing(house: House) -> None:
    device = house.directory.add()
    old = await house.accepted(device, collapse_key="score")
    house.journal.fail = True
    with pytest.raises(StoreUnavailable):
        await house.push(device, collapse_key="score").done
    assert house.state(old) is State.WAITING


async def test_revoked_token_ends_what_is_pending_as_rejected(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    seq = await house.accepted(device)
    house.dispatcher.revoke(device.number)
    assert house.state(seq) is State.REJECTED
    assert house.steps(seq) == ["revoked"]
    assert (device.number, seq) in house.edge.recalled


async def test_notifier_is_not_called_for_a_token_revoked_meanwhile(house: House) -> None:
    device = house.directory.add(fallback=["stub"])
    taken = house.push(device)
    device.revoked_at = 1
    await taken.done
    await house.settle_down()
    assert house.state(taken.seq) is State.REJECTED
    assert not house.stub.calls


async def test_signed_out_account_reaches_no_notifier_not_even_a_call_that_waits(house: House) -> None:  # A5
    device = house.directory.add(fallback=["stub"])
    taken = house.push(device)
    device.signed_out = True
    await taken.done
    await house.settle_down()
    later = await house.accepted(device)
    assert not house.stub.calls
    assert [house.state(seq) for seq in (taken.seq, later)] == [State.WAITING] * 2
    device.signed_out = False
    house.edge.connect(device.number)
    assert house.edge.sent_to(device.number) == [taken.seq, later]


async def test_a_notifier_whose_call_waited_while_the_account_was_signed_out_is_not_used_up(house: House) -> None:
    device = house.directory.add(fallback=["stub"])
    taken = house.push(device)
    device.signed_out = True
    await taken.done
    await house.settle_down()
    assert (house.state(taken.seq), len(house.stub.calls)) == (State.WAITING, 0)
    device.signed_out = False
    house.edge.connect(device.number)
    house.edge.disconnect(device.number)
    await house.settle_down()
    assert (house.state(taken.seq), len(house.stub.calls)) == (State.NOTIFIED, 1)


async def test_what_a_link_had_no_room_for_goes_to_a_notifier_when_the_link_is_lost() -> None:  # B4
    house = House(window=2)
    house.app()
    device = house.directory.add(fallback=["stub"])
    house.edge.connect(device.number)
    seqs = [await house.accepted(device) for _ in range(6)]
    house.edge.ack(device.number, seqs[0])
    await house.settle_down()
    house.edge.disconnect(device.number)
    await house.settle_down()
    assert [call.notification for call in house.stub.calls] == seqs[1:]
    assert {house.state(seq) for seq in seqs[1:]} == {State.NOTIFIED}
    await house.close()


async def test_what_a_restart_left_and_a_link_had_no_room_for_goes_to_a_notifier_when_the_link_is_lost() -> None:  # B4
    house = House(window=2)
    house.app(fallback=["stub"])
    device = house.directory.add(fallback=[])
    seqs = [await house.accepted(device, ttl=86_400, ack_ms=60_000) for _ in range(5)]
    await house.close()
    for row in house.journal.rows.values():
        row.delivery = row.delivery._replace(state=State.ACCEPTED)
    device.fallback = None
    house.start()
    house.edge.connect(device.number)
    await house.advance(31_000)
    house.edge.ack(device.number, seqs[0])
    house.edge.disconnect(device.number)
    await house.settle_down()
    assert {call.notification for call in house.stub.calls} == set(seqs[1:])
    await house.close()


async def test_a_restart_ends_nothing_as_too_many_for_its_device() -> None:
    house = House()
    house.app(device_per_hour=2)
    device = house.directory.add()
    seqs = []
    for _ in range(3):
        seqs += [await house.accepted(device, ttl=86_400) for _ in range(2)]
        await house.advance(500)
        house.clock.now_ms += 3_600_000
    await house.close()
    for row in house.journal.rows.values():
        row.delivery = row.delivery._replace(state=State.ACCEPTED)
    house.start()
    await house.advance(31_000)
    assert {house.state(seq) for seq in seqs} == {State.WAITING}
    new = [await house.accepted(device) for _ in range(3)]
    assert [house.state(seq) for seq in new] == [State.WAITING, State.WAITING, State.LIMITED]
    await house.close()


async def test_a_store_that_can_not_be_read_keeps_no_others_from_their_notifier_when_links_are_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = House(window=1)
    house.start()
    house.app()
    devices = [house.directory.add(fallback=["stub"]) for _ in range(3)]
    house.edge.connect(*(device.number for device in devices))
    for device in devices:
        for _ in range(2):
            await house.accepted(device)
    was_spilled, broken = house.dispatcher._executor.was_spilled, iter([True])

    def read(seq: int) -> bool:
        if next(broken, False):
            raise OSError
        return was_spilled(seq)

    monkeypatch.setattr(house.dispatcher._executor, "was_spilled", read)
    house.edge.disconnect(*(device.number for device in devices))
    await house.settle_down()
    assert len(house.stub.calls) == 5
    await house.close()


async def test_many_lost_links_are_looked_at_in_slices_also_where_nothing_is_pending(house: House) -> None:
    for number in range(10 * SLICE):
        house.dispatcher.on_lost(1, number, spilled=False)
    work = house.dispatcher._work_cut_off()
    assert sum(1 for _ in work) == 10
    assert not house.dispatcher._is_cut_off


async def test_what_a_link_had_no_room_for_waits_for_the_device_that_is_back_at_once() -> None:
    house = House(window=2)
    house.app()
    device = house.directory.add(fallback=["stub"])
    house.edge.connect(device.number)
    seqs = [await house.accepted(device) for _ in range(6)]
    house.edge.disconnect(device.number)  # what is lost is told at once, and has a notifier
    house.edge.connect(device.number)
    await house.settle_down()
    assert [call.notification for call in house.stub.calls] == []
    for seq in seqs:
        house.edge.ack(device.number, seq)
        await house.settle_down()
    assert {house.state(seq) for seq in seqs} == {State.ACKED}
    await house.close()


async def test_light_form_is_announced_and_the_body_settles_it_on_fetch(house: House) -> None:  # B2
    device = house.directory.add()
    house.edge.connect(device.number)
    seq = await house.accepted(device, title="tip", data=BIG)
    assert [(f.more, bytes(f.data)) for f in house.frames(device)] == [(True, b"")]
    house.edge.ack(device.number, seq)
    assert house.state(seq) is State.ANNOUNCED
    await house.advance(60_000)
    assert not house.stub.calls
    assert len(house.frames(device)) == 1
    assert house.dispatcher.on_fetch(device.number, [seq]) == (1, False)
    whole = house.frames(device)[-1]
    assert (whole.more, msgspec.msgpack.decode(bytes(whole.data))) == (False, BIG)
    house.edge.ack(device.number, seq)
    assert house.state(seq) is State.ACKED
    assert house.steps(seq) == ["announced", "sent", "acked"]


async def test_body_without_room_is_sent_later_though_its_light_form_is_in_flight(house: House) -> None:
    """READY passes over what is in flight, and nothing else would come."""
    device = house.directory.add()
    house.edge.connect(device.number)
    seq = await house.accepted(device, data="body", body="on_demand", ack_ms=3_600_000)
    house.edge.mailbox_full = True
    assert house.dispatcher.on_fetch(device.number, [seq]) == (0, True)
    house.edge.mailbox_full = False
    house.edge.answer_room()
    await house.settle_down()
    assert [f.more for f in house.frames(device)] == [True]
    house.edge.mailbox_full = True
    await house.advance(60_000)
    house.edge.mailbox_full = False
    assert [f.more for f in house.frames(device)] == [True]
    await house.advance(600_000)
    assert [f.more for f in house.frames(device)][:2] == [True, False]
    house.edge.ack(device.number, seq)
    assert house.state(seq) is State.ACKED


async def test_body_without_ack_can_be_fetched_again(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    seq = await house.accepted(device, data="body", body="on_demand")
    house.edge.ack(device.number, seq)
    house.dispatcher.on_fetch(device.number, [])
    await house.advance(4_000)
    assert house.state(seq) is State.ANNOUNCED
    assert house.dispatcher.on_fetch(device.number, []) == (1, False)
    house.edge.disconnect(device.number)
    assert house.state(seq) is State.WAITING
    house.edge.connect(device.number)
    assert [f.more for f in house.frames(device)] == [True, False, False, False]
    house.edge.ack(device.number, seq)
    assert house.state(seq) is State.ACKED


async def test_fetch_tells_that_the_light_form_is_there_before_its_ack(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    seq = await house.accepted(device, data="body", body="on_demand")
    assert house.dispatcher.on_fetch(device.number, [seq]) == (1, False)
    assert [f.more for f in house.frames(device)] == [True, False]
    house.edge.ack(device.number, seq)
    assert house.state(seq) is State.ACKED


async def test_body_that_goes_at_once_is_never_light(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    await house.accepted(device, data=BIG, body="at_once")
    assert [f.more for f in house.frames(device)] == [False]


async def test_fetch_of_anothers_message_gets_nothing(house: House) -> None:
    mine, other = house.directory.add(), house.directory.add()
    house.edge.connect(mine.number, other.number)
    seq = await house.accepted(mine, data="secret", body="on_demand")
    assert house.dispatcher.on_fetch(other.number, [seq, 10**9]) == (0, False)
    assert [f.more for _, f in house.edge.frames] == [True]
    assert house.counted(Metric.ACKS_FOREIGN) == 1


async def test_device_below_its_floor_is_left_alone_until_it_asks(house: House) -> None:
    house.app(fallback=["stub"])
    device = house.directory.add()
    house.edge.floors[device.number] = 2
    house.edge.connect(device.number)
    low = await house.accepted(device, urgency="low")
    normal = await house.accepted(device, urgency="normal")
    await house.advance(2_000)
    assert house.edge.sent_to(device.number) == [normal]
    assert house.state(low) is State.WAITING
    assert not house.stub.calls
    assert house.dispatcher.on_fetch(device.number, []) == (1, False)
    assert house.edge.sent_to(device.number) == [normal, low]


async def test_what_does_not_fit_the_window_waits_and_goes_in_order_when_there_is_room() -> None:
    house = House(window=4)
    house.app()
    device = house.directory.add()
    house.edge.connect(device.number)
    seqs = [await house.accepted(device) for _ in range(11)]
    assert house.edge.sent_to(device.number) == seqs[:4]
    assert {house.state(s) for s in seqs[4:]} == {State.WAITING}
    while house.edge.flights:
        house.edge.ack(device.number, *[seq for _, seq in house.edge.flights])
    assert house.edge.sent_to(device.number) == seqs
    assert {house.state(s) for s in seqs} == {State.ACKED}
    await house.close()


async def test_what_a_device_never_acks_does_not_keep_the_rest_from_it() -> None:
    house = House(window=3)
    house.app()
    device = house.directory.add()
    house.edge.connect(device.number)
    stuck = [await house.accepted(device) for _ in range(6)]
    await house.advance(3_000)
    late = [await house.accepted(device) for _ in range(6)]
    for _ in range(8):
        house.dispatcher.on_ready([device.number])
        house.edge.flush_spilled()
        house.edge.ack(device.number, *[s for _, s in house.edge.flights if s not in stuck[:3]])
    assert {house.state(s) for s in late + stuck[3:]} == {State.ACKED}
    await house.close()


async def test_dead_notifier_gives_way_and_the_history_says_so(house: House) -> None:
    device = house.directory.add(fallback=["stub", "gone", "other"])
    house.stub.expect(Answer.DEAD)
    seq = await house.accepted(device)
    assert len(house.other.calls) == 1
    steps = house.journal.rows[seq].steps
    assert [(s.what, s.channel, s.detail) for s in steps] == [
        ("notifier_failed", "stub", "told to"),
        ("notifier_failed", "gone", "not configured"),
        ("notified", "other", "told to"),
    ]


async def test_last_notifier_that_fails_for_now_is_tried_again_a_bounded_number_of_times(house: House) -> None:
    device = house.directory.add(fallback=["stub"])
    house.stub.answer = Answer.RETRY
    seq = await house.accepted(device)
    assert (len(house.stub.calls), house.state(seq)) == (1, State.WAITING)
    await house.advance(29_000)
    assert len(house.stub.calls) == 1
    await house.advance(9_000)
    assert len(house.stub.calls) == 2
    await house.advance(2_000_000)
    assert len(house.stub.calls) == MAX_TRIES
    house.edge.connect(device.number)
    house.edge.ack(device.number, seq)
    assert house.state(seq) is State.ACKED


async def test_retry_after_of_a_notifier_is_honoured(house: House) -> None:
    device = house.directory.add(fallback=["stub"])
    house.stub.retry_after_ms = 100_000
    house.stub.expect(Answer.RETRY)
    await house.accepted(device)
    await house.advance(99_000)
    assert len(house.stub.calls) == 1
    await house.advance(9_000)
    assert len(house.stub.calls) == 2


async def test_notifier_that_rests_costs_a_delivery_no_try(house: House) -> None:
    first, second = house.directory.add(fallback=["stub"]), house.directory.add(fallback=["stub"])
    house.stub.answer = Answer.RETRY
    house.stub.retry_after_ms = 1_000_000
    await house.accepted(first)
    waiting = await house.accepted(second)
    assert house.state(waiting) is State.WAITING
    assert house.journal.rows[waiting].steps[0].detail == "upstream rests"
    await house.advance(999_000)
    assert [call.registration for call in house.stub.calls] == [first.number]
    house.stub.answer = Answer.OK
    await house.advance(9_000)
    assert house.state(waiting) is State.NOTIFIED


async def test_terminal_that_was_absent_is_tried_again_when_its_network_says_so_and_loses_no_try(house: House) -> None:
    absent, other = house.directory.add(fallback=["stub"]), house.directory.add(fallback=["stub"])
    house.stub.answer = Answer.ABSENT
    seq, unmoved = await house.accepted(absent), await house.accepted(other)
    for tries in range(MAX_TRIES + 2):
        assert len(house.stub.calls) == 2 + tries
        house.dispatcher.on_reachable(absent.number)
        await house.settle_down()
    house.stub.answer = Answer.OK
    house.dispatcher.on_reachable(absent.number)
    house.dispatcher.on_reachable(999)  # gone meanwhile
    await house.settle_down()
    assert (house.state(seq), house.state(unmoved)) == (State.NOTIFIED, State.WAITING)
    calls = len(house.stub.calls)
    house.dispatcher.on_reachable(absent.number)  # nothing waits
    await house.settle_down()
    assert len(house.stub.calls) == calls


async def test_notifier_that_rests_gives_way_to_the_next_of_the_chain(house: House) -> None:
    device = house.directory.add(fallback=["stub", "other"])
    house.stub.answer = Answer.RETRY
    house.stub.retry_after_ms = 1_000_000
    for _ in range(2):
        seq = await house.accepted(device)
        assert house.state(seq) is State.NOTIFIED
    assert (len(house.stub.calls), len(house.other.calls)) == (1, 2)


async def test_full_notifier_queue_is_a_failure_for_now() -> None:
    house = House()
    house.config.delivery.notifier_concurrency = 1
    house.config.delivery.notifier_queue = 1
    house.start()
    house.app(fallback=["stub"])
    house.stub.expect(Answer.HANG)
    device = house.directory.add()
    first = await house.accepted(device)
    queued, refused = await house.accepted(device), await house.accepted(device)
    assert [house.state(s) for s in (first, queued, refused)] == [State.NOTIFIED, State.NOTIFIED, State.WAITING]
    assert house.counted(Metric.NOTIFIER_QUEUE_FULL, "stub") == 1
    house.stub.release()
    await house.settle_down()
    await house.advance(38_000)
    assert {call.notification for call in house.stub.calls} == {first, queued, refused}
    await house.close()


async def test_hanging_notifier_is_cut_off_and_does_not_hold_up_another() -> None:
    house = House()
    house.config.delivery.notifier_concurrency = 1
    house.config.delivery.notifier_timeout_s = 0.05
    house.start()
    house.app()
    house.stub.answer = Answer.HANG
    slow, quick = house.directory.add(fallback=["stub"]), house.directory.add(fallback=["other"])
    hung = await house.accepted(slow)
    notified = await house.accepted(quick)
    assert house.steps(notified) == ["notified"]
    async with asyncio.timeout(30):
        while not house.steps(hung):
            await asyncio.sleep(0.01)
    assert house.journal.rows[hung].steps[0].detail == "timeout"
    assert house.state(hung) is State.WAITING
    await house.close()


async def test_call_that_waits_is_dropped_and_not_used_up_once_the_device_is_back() -> None:
    house = House()
    house.config.delivery.notifier_concurrency = 1
    house.start()
    house.app(fallback=["stub"])
    house.stub.expect(Answer.HANG)
    away, device = house.directory.add(), house.directory.add()
    await house.accepted(away)
    seq = await house.accepted(device)
    house.edge.connect(device.number)
    house.stub.release()
    await house.settle_down()
    assert [call.registration for call in house.stub.calls] == [away.number]
    await house.advance(3_000)
    assert [call.registration for call in house.stub.calls] == [away.number, device.number]
    assert house.state(seq) is State.NOTIFIED
    await house.close()


async def test_result_of_a_notifier_that_was_left_behind_only_enters_the_history(house: House) -> None:
    device = house.directory.add(fallback=["stub", "other"])
    house.stub.expect(Answer.HANG)
    house.other.expect(Answer.HANG)
    seq = await house.accepted(device)
    house.edge.connect(device.number)
    await house.advance(3_000)
    assert len(house.other.calls) == 1
    house.stub.release()
    await house.settle_down()
    assert house.steps(seq) == ["sent", "ack_timeout", "notified"]
    row = house.journal.rows[seq]
    assert row.steps[-1].channel == "stub"
    assert row.timer_ms == row.delivery.expires_s * 1000  # the recheck belongs to the other one's answer
    house.other.release()
    await house.settle_down()
    assert row.timer_ms == house.clock.now_ms + 30_000


async def test_shown_implies_ack_and_a_later_one_amends_the_history(house: House) -> None:
    device, other = house.directory.add(), house.directory.add()
    house.edge.connect(device.number)
    at_once, later = await house.accepted(device), await house.accepted(device)
    house.edge.ack(device.number, at_once, shown=True)
    assert house.steps(at_once) == ["sent", "acked", "shown"]
    house.edge.ack(device.number, later)
    house.edge.ack(device.number, later, shown=True)
    house.edge.ack(other.number, later, shown=True)
    assert house.steps(later) == ["sent", "acked", "shown"]


async def test_a_late_ack_is_meant_for_the_registration_of_its_delivery_alone(house: House) -> None:
    mine, other = house.directory.add(), house.directory.add()
    house.edge.connect(mine.number)
    pending, settled = await house.accepted(mine), await house.accepted(mine)
    house.edge.ack(mine.number, settled)
    both = [other.number, mine.number]
    meant = house.dispatcher.meant
    assert list(meant(pending, both, flags=0)) == [mine.number]
    assert list(meant(settled, both, flags=ACK_SHOWN)) == [mine.number]
    assert not meant(settled, both, flags=0)
    assert not meant(pending, [other.number], flags=ACK_SHOWN)
    assert not meant(settled + 1_000, both, flags=ACK_SHOWN)


async def test_ack_and_shown_in_one_batch_settle_once(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    seq = await house.accepted(device)
    now = house.clock.now_ms
    house.dispatcher.on_acks(
        [Ack(seq, 1, now, now, False, 1), Ack(seq, 1, 0, now, True, 1), Ack(seq, 1, 0, now, True, 1)]
    )
    assert house.steps(seq) == ["sent", "acked", "shown"]
    assert house.counted(Metric.DELIVERIES, "acked") == 1


async def test_large_audience_is_sent_in_slices_that_let_the_loop_breathe(house: House) -> None:
    devices = [house.directory.add(tags=["all"]) for _ in range(1_234)]
    house.edge.connect(*[d.number for d in devices])
    await house.settle_down()
    taken = house.push(TargetRequest(tag="all"))
    assert taken.targeted == 1_234
    assert len(house.edge.frames) == 500
    await taken.done
    await house.settle_down()
    assert len(house.edge.frames) == 1_234
    assert {f.id for _, f in house.edge.frames} == set(range(taken.seq + 1, taken.seq + 1_235))


async def test_after_a_restart_what_is_still_away_goes_to_its_notifier(house: House) -> None:
    device, back = house.directory.add(), house.directory.add()
    seq, other = await house.accepted(device), await house.accepted(back)
    for row in house.journal.rows.values():
        row.delivery = row.delivery._replace(state=State.ACCEPTED, hop=0)
    device.fallback = back.fallback = ["stub"]
    house.start()
    house.edge.connect(back.number)
    await house.advance(29_000)
    assert not [c for c in house.stub.calls if c.registration == device.number]
    await house.advance(2_000)
    assert [c.registration for c in house.stub.calls].count(device.number) == 1
    assert house.state(seq) is State.NOTIFIED
    assert house.edge.sent_to(back.number)[0] == other


async def test_after_a_restart_what_came_since_is_not_looked_at_again(house: House) -> None:
    before, since = house.directory.add(), house.directory.add()
    await house.accepted(before)
    house.start()
    seq = await house.accepted(since)
    assert house.state(seq) is State.WAITING
    before.fallback = since.fallback = ["stub"]
    await house.advance(31_000)
    assert [call.registration for call in house.stub.calls] == [before.number]
    assert house.state(seq) is State.WAITING


async def test_timers_run_by_themselves_once_started(house: House) -> None:
    device = house.directory.add()
    seq = await house.accepted(device, ttl=1)
    house.clock.now_ms += 5_000
    house.dispatcher.start()
    async with asyncio.timeout(30):
        while seq not in house.journal.outcomes:
            await asyncio.sleep(0.01)
    assert house.state(seq) is State.EXPIRED


async def test_a_body_lost_with_its_link_is_told_of_by_a_notifier_where_it_is_not_acked_then(house: House) -> None:
    """An app that fetched it and died before it showed it (B6): its user must hear of it all the same."""
    house.app(fallback=["stub"])
    device = house.directory.add()
    house.edge.connect(device.number)
    seq = await house.accepted(device, data="body", body="on_demand")
    house.edge.ack(device.number, seq)
    house.dispatcher.on_fetch(device.number, [seq])
    await house.advance(1_000)
    assert not house.stub.calls
    house.edge.disconnect(device.number)
    house.edge.connect(device.number)
    await house.advance(house.config.delivery.ack_ms)
    assert house.state(seq) is State.NOTIFIED
    assert len(house.stub.calls) == 1
