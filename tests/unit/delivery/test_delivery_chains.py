"""Which notifier is asked, how often and for how long: outages, dead ones, chains that are changed meanwhile."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Awaitable, Callable

import pytest
from house import House

from gateway.delivery.chain import used_up
from gateway.delivery.executor import MAX_TOLD
from gateway.metrics import Metric
from gateway.model.notification import Notification
from gateway.model.outcome import State, Step
from gateway.model.ports import NotifierResult
from gateway.model.registration import App, Registration
from gateway.notifiers.stub.client import Answer


async def test_a_notifier_whose_upstream_is_down_is_tried_as_long_as_the_message_lives(house: House) -> None:
    device = house.directory.add(fallback=["stub"])
    house.stub.answer = Answer.DOWN
    seq = await house.accepted(device, ttl=86_400)
    await house.advance(3 * 3_600_000)
    calls = len(house.stub.calls)
    assert 3 * 6 <= calls <= 3 * 8 + 6  # pauses of 8 to 10 minutes in the end
    house.stub.answer = Answer.OK
    await house.advance(600_000)
    assert len(house.stub.calls) == calls + 1
    assert house.steps(seq)[: MAX_TOLD + 1] == ["notifier_failed"] * MAX_TOLD + ["notified"]


async def test_what_an_outage_held_up_is_not_tried_all_at_once(house: House) -> None:
    devices = [house.directory.add(fallback=["stub"]) for _ in range(40)]
    house.stub.answer = Answer.DOWN
    for device in devices:
        await house.accepted(device)
    house.stub.answer = Answer.OK
    timers = sorted(row.timer_ms - house.clock.now_ms for row in house.journal.rows.values())
    assert 30_000 <= timers[0] <= 31_000
    assert 36_000 <= timers[-1] < 37_500
    assert max(later - sooner for sooner, later in itertools.pairwise(timers)) < 1_000


async def test_a_notifier_that_failed_for_now_is_tried_again_where_the_rest_of_the_chain_is_dead(house: House) -> None:
    device = house.directory.add(fallback=["stub", "other", "gone"])
    house.stub.answer, house.other.answer = Answer.DOWN, Answer.DEAD
    seq = await house.accepted(device, ttl=86_400)
    assert house.state(seq) is State.WAITING
    await house.advance(200_000)
    assert (len(house.stub.calls), len(house.other.calls)) == (3, 1)
    house.stub.answer = Answer.OK
    await house.advance(200_000)
    assert (len(house.stub.calls), house.steps(seq)[-2:]) == (4, ["notified", "recheck"])


async def test_all_of_a_chain_that_failed_for_now_are_tried_again_in_order(house: House) -> None:
    device = house.directory.add(fallback=["gone", "stub", "other"])
    house.stub.answer = house.other.answer = Answer.DOWN
    seq = await house.accepted(device, ttl=86_400)
    await house.advance(200_000)
    assert (len(house.stub.calls), len(house.other.calls)) == (3, 3)
    assert [step.channel for step in house.journal.rows[seq].steps] == ["gone"] + ["stub", "other"] * 3
    house.stub.answer = Answer.OK  # the last of them stays down
    await house.advance(200_000)
    assert (len(house.stub.calls), house.steps(seq).count("notified")) == (4, 1)


@pytest.mark.parametrize("last", [Answer.DEAD, Answer.DOWN])
async def test_a_notifier_that_failed_for_now_is_tried_again_where_the_next_had_no_room_and_fails_then(
    last: Answer,
) -> None:
    house = House()
    house.config.delivery.notifier_lane_queue = house.config.delivery.notifier_lane_concurrency = 1
    house.start()
    house.app(fallback=["stub"])
    house.stub.expect(Answer.HANG)
    for _ in range(2):  # one is under way, one waits
        await house.accepted(house.directory.add(), ttl=86_400)
    house.other.answer, house.stub.answer = Answer.DOWN, last
    seq = await house.accepted(house.directory.add(fallback=["other", "stub"]), ttl=86_400)
    assert house.state(seq) is State.WAITING
    house.stub.release()
    await house.settle_down()
    assert (len(house.other.calls), [call.notification for call in house.stub.calls][-1]) == (1, seq)
    house.other.answer = Answer.OK
    await house.advance(60_000)
    assert house.steps(seq)[:4] == ["notifier_failed"] * 3 + ["notified"]
    await house.close()


async def test_a_notifier_whose_call_still_waited_when_the_delivery_went_on_is_tried_where_the_rest_is_dead() -> None:
    house = House()
    house.config.delivery.notifier_lane_concurrency = 1
    house.start()
    house.app(fallback=["stub"])
    house.stub.expect(Answer.HANG)
    house.other.answer = Answer.DEAD
    await house.accepted(house.directory.add(), ttl=86_400)
    device = house.directory.add(fallback=["stub", "other"])
    seq = await house.accepted(device, ttl=86_400)  # its call waits
    house.edge.connect(device.number)
    await house.settle_down()
    house.edge.disconnect(device.number)
    await house.settle_down()
    assert (house.state(seq), len(house.other.calls)) == (State.WAITING, 1)
    house.stub.release()
    await house.settle_down()
    await house.advance(40_000)
    assert [call.notification for call in house.stub.calls][-1] == seq
    await house.close()


async def test_a_call_under_way_is_not_made_again_though_its_notifier_failed_before_a_restart(house: House) -> None:
    device = house.directory.add(fallback=["stub", "other"])
    house.stub.answer = Answer.DOWN
    house.other.expect(Answer.DOWN, Answer.HANG)
    seq = await house.accepted(device, ttl=86_400)
    await house.advance(40_000)
    assert [step.channel for step in house.journal.rows[seq].steps] == ["stub", "other", "stub"]
    await house.close()
    row = house.journal.rows[seq]
    row.delivery = row.delivery._replace(state=State.ACCEPTED, hop=0)
    house.stub.expect(Answer.HANG)
    house.start()
    await house.advance(31_000)
    house.edge.connect(device.number)
    await house.advance(3_000)  # no ack
    assert (len(house.stub.calls), len(house.other.calls)) == (3, 3)


async def test_one_that_is_dead_is_not_asked_again_while_a_call_of_another_is_under_way(house: House) -> None:
    device = house.directory.add(fallback=["stub", "other"])
    house.stub.expect(Answer.HANG)
    house.other.answer = Answer.DEAD
    await house.accepted(device, ttl=86_400)
    for _ in range(3):
        house.edge.connect(device.number)
        await house.settle_down()
        house.edge.disconnect(device.number)
        await house.settle_down()
    assert (len(house.stub.calls), len(house.other.calls)) == (1, 1)


async def test_after_a_restart_one_that_is_dead_is_asked_once_and_the_last_is_not_left_out(house: House) -> None:
    device = house.directory.add(fallback=["stub", "gone", "other"])
    house.stub.answer = house.other.answer = Answer.DOWN
    seq = await house.accepted(device, ttl=86_400)
    await house.close()
    row = house.journal.rows[seq]
    assert [step.channel for step in row.steps] == ["stub", "gone", "other"]
    row.delivery = row.delivery._replace(state=State.ACCEPTED, hop=0)
    house.start()
    house.stub.answer, house.other.answer = Answer.DEAD, Answer.OK
    await house.advance(31_000)
    assert [step.channel for step in row.steps[3:]] == ["stub", "gone", "other"]
    assert (len(house.stub.calls), house.steps(seq)[-1]) == (2, "notified")


async def test_a_call_that_was_not_made_for_the_device_was_back_uses_up_nobody() -> None:
    house = House()
    house.config.delivery.notifier_lane_concurrency = 1
    house.start()
    house.app(fallback=["other"])
    house.stub.expect(Answer.HANG)
    house.other.expect(Answer.HANG)
    await house.accepted(house.directory.add(), ttl=86_400)
    device = house.directory.add(fallback=["stub", "other"])
    seq = await house.accepted(device, ttl=86_400)
    for flap in (house.edge.connect, house.edge.disconnect, house.edge.connect):
        flap(device.number)
        await house.settle_down()
    house.stub.hung, house.stub.answer = Answer.DOWN, Answer.DEAD
    house.stub.release()  # its failure opens it again, while a call to the other waits
    await house.settle_down()
    house.other.release()
    await house.settle_down()
    house.edge.disconnect(device.number)
    await house.settle_down()
    assert (house.state(seq), [call.notification for call in house.other.calls][-1]) == (State.NOTIFIED, seq)
    await house.close()


async def test_a_notifier_that_takes_it_while_it_waits_for_another_is_given_its_time(house: House) -> None:
    device = house.directory.add(fallback=["stub", "other"])
    house.stub.expect(Answer.HANG)
    house.other.answer = Answer.DOWN
    seq = await house.accepted(device, ttl=86_400)
    house.edge.connect(device.number)
    await house.settle_down()
    house.edge.disconnect(device.number)
    await house.settle_down()
    assert (house.state(seq), len(house.other.calls)) == (State.WAITING, 1)
    house.stub.release()
    await house.settle_down()
    assert (house.state(seq), house.journal.rows[seq].timer_ms) == (State.NOTIFIED, house.clock.now_ms + 30_000)


async def test_a_notifier_that_took_it_is_not_asked_again_where_another_fails(house: House) -> None:
    device = house.directory.add(fallback=["stub", "other", "gone"])
    house.other.answer = Answer.DOWN
    seq = await house.accepted(device, ttl=86_400)
    await house.advance(31_000)
    assert house.state(seq) is State.WAITING
    await house.advance(200_000)
    assert (len(house.stub.calls), len(house.other.calls)) == (1, 3)


async def test_a_notifier_that_failed_for_now_is_tried_again_where_the_next_took_it_and_no_ack_came(
    house: House,
) -> None:
    device = house.directory.add(fallback=["stub", "other"])
    house.stub.answer = Answer.DOWN
    seq = await house.accepted(device, ttl=86_400)
    await house.advance(31_000)
    assert (house.state(seq), house.steps(seq)) == (State.WAITING, ["notifier_failed", "notified", "recheck"])
    house.stub.answer = Answer.OK
    await house.advance(200_000)
    assert (len(house.stub.calls), len(house.other.calls)) == (2, 1)
    assert house.steps(seq)[3:] == ["notified", "recheck"]


async def test_a_notifier_that_failed_for_now_is_tried_again_where_the_one_that_is_waited_for_has_left_the_chain() -> (
    None
):
    house = House()
    house.config.delivery.notifier_lane_queue = house.config.delivery.notifier_lane_concurrency = 1
    house.start()
    house.app(fallback=["other"])
    house.stub.answer, house.other.answer = Answer.DOWN, Answer.HANG
    for _ in range(2):  # one is under way, one waits
        await house.accepted(house.directory.add(), ttl=86_400)
    device = house.directory.add(fallback=["stub", "other"])
    seq = await house.accepted(device, ttl=86_400)
    device.fallback = ["stub"]
    house.dispatcher.look_again(device.number)
    house.stub.answer = Answer.OK
    await house.advance(100_000)
    assert house.steps(seq)[-2:] == ["notified", "recheck"]
    house.other.release()
    await house.close()


@pytest.mark.parametrize("chain", [["stub", "other"], ["other", "stub"]])
async def test_a_notifier_that_failed_for_now_is_tried_again_where_the_tries_of_its_delivery_were_forgotten(
    monkeypatch: pytest.MonkeyPatch, chain: list[str]
) -> None:
    monkeypatch.setattr("gateway.delivery.executor.MAX_TRAILS", 1)
    house = House()
    house.app(fallback=chain)
    house.stub.answer, house.other.answer = Answer.DOWN, Answer.DEAD
    seqs = [await house.accepted(house.directory.add(), ttl=86_400) for _ in range(3)]
    house.stub.answer = Answer.OK
    await house.advance(100_000)
    assert [house.steps(seq).count("notified") for seq in seqs] == [1, 1, 1]
    await house.close()


async def test_a_chain_changed_while_one_of_it_is_asked_blames_nobody_else_and_passes_nobody_over(house: House) -> None:
    device = house.directory.add(fallback=["stub"])
    house.stub.expect(Answer.HANG)
    house.stub.hung = Answer.DEAD
    seq = await house.accepted(device)
    device.fallback = ["other", "stub"]
    house.stub.release()
    await house.settle_down()
    assert [(s.what, s.channel) for s in house.journal.rows[seq].steps] == [
        ("notifier_failed", "stub"),
        ("notified", "other"),
    ]
    await house.advance(31_000)  # no ack: neither is asked twice
    assert (len(house.stub.calls), len(house.other.calls)) == (1, 1)


async def test_after_a_restart_a_changed_chain_goes_on_behind_those_its_history_names(house: House) -> None:
    device = house.directory.add(fallback=["stub"])
    seq = await house.accepted(device)
    row = house.journal.rows[seq]
    row.delivery = row.delivery._replace(state=State.ACCEPTED)
    device.fallback = ["other", "stub"]
    house.start()
    await house.advance(31_000)
    assert (len(house.stub.calls), len(house.other.calls)) == (1, 1)


async def test_a_burst_past_a_lanes_queue_goes_out_without_a_timer() -> None:
    house = House()
    house.config.delivery.notifier_concurrency = 2
    house.config.delivery.notifier_lane_queue = 4
    house.start()
    house.app(fallback=["stub", "gone"])
    alone, several = house.directory.add(fallback=["stub"]), house.directory.add()
    house.stub.expect(Answer.HANG, Answer.HANG)
    seqs = [await house.accepted(device) for _ in range(30) for device in (alone, several)]
    assert [house.state(seq) for seq in seqs].count(State.WAITING) == 60 - 2 - 4
    house.stub.release()
    async with asyncio.timeout(30):
        while len(house.stub.calls) < 60:
            await house.settle_down()
    await house.settle_down()
    assert {call.notification for call in house.stub.calls} == set(seqs)
    assert {house.state(seq) for seq in seqs} == {State.NOTIFIED}
    await house.close()


async def test_what_waits_for_room_in_a_queue_and_is_over_meanwhile_is_not_called() -> None:
    house = House()
    house.config.delivery.notifier_concurrency = 1
    house.config.delivery.notifier_lane_queue = 1
    house.start()
    house.app(fallback=["stub"])
    house.stub.expect(Answer.HANG)
    away, back, lapsed = (house.directory.add() for _ in range(3))
    for _ in range(2):
        await house.accepted(away)
    sent, over = await house.accepted(back), await house.accepted(lapsed, ttl=1)
    house.edge.connect(back.number)
    await house.advance(1_500)
    house.stub.release()
    await house.settle_down()
    assert [call.registration for call in house.stub.calls] == [away.number, away.number]
    assert (house.state(sent), house.state(over)) == (State.SENT, State.EXPIRED)
    await house.close()


async def test_nothing_overtakes_what_waits_for_room_however_often_it_was_tried() -> None:
    house = House()
    house.config.delivery.notifier_concurrency = house.config.delivery.notifier_lane_concurrency = 1
    house.config.delivery.notifier_lane_queue = 4
    house.start()
    house.app(fallback=["stub"])
    house.stub.answer = Answer.DOWN
    tried = await house.accepted(house.directory.add(), ttl=86_400)
    calls: deque[asyncio.Future[NotifierResult]] = deque()
    order: list[int] = []

    async def notify(app: App, registration: Registration, notification: Notification) -> NotifierResult:
        order.append(notification.seq)
        calls.append(asyncio.get_running_loop().create_future())
        return await calls[-1]

    house.stub.notify = notify  # type: ignore[method-assign]
    seqs = [await house.accepted(house.directory.add(), ttl=86_400) for _ in range(8)]
    await house.advance(40_000)  # its pause is over, and the lane is full
    assert house.state(tried) is State.WAITING
    for _ in range(20):  # one ends, one comes: the lane never is empty
        calls.popleft().set_result(NotifierResult(ok=True))
        seqs.append(await house.accepted(house.directory.add(), ttl=86_400))
    assert order[:21] == [*seqs[:8], tried, *seqs[8:20]]
    await house.close()


async def test_what_waits_for_a_free_lane_costs_no_turns_and_no_lines_until_one_is_free() -> None:
    house = House()
    house.config.delivery.notifier_lanes = 4
    house.start()
    house.app(fallback=["stub"])
    house.stub.lane = lambda app, registration: str(registration.number)  # type: ignore[method-assign]
    house.stub.answer = Answer.HANG
    seqs = [await house.accepted(house.directory.add()) for _ in range(5)]
    for _ in range(20):
        await house.settle_down()
    assert [house.state(seq) for seq in seqs[3:]] == [State.WAITING] * 2  # three quarters of the lanes are one app's
    assert [house.steps(seq) for seq in seqs[3:]] == [["notifier_failed"]] * 2
    assert house.counted(Metric.NOTIFIER_BOUNDS, "stub lanes") == 2
    house.stub.answer = Answer.OK
    house.stub.release()
    await house.settle_down()
    assert [house.steps(seq)[-1] for seq in seqs] == ["notified"] * 5
    await house.close()


async def test_what_waits_for_room_is_told_of_it_where_those_before_it_went_elsewhere() -> None:
    house = House()
    house.config.delivery.notifier_concurrency = house.config.delivery.notifier_lane_concurrency = 1
    house.config.delivery.notifier_lane_queue = 2
    house.start()
    house.app(fallback=["stub"])
    house.stub.answer = Answer.HANG
    first, back, last = (house.directory.add() for _ in range(3))
    for _ in range(3):
        await house.accepted(first)
    sent = [await house.accepted(back) for _ in range(6)]
    later = [await house.accepted(last) for _ in range(2)]
    house.edge.connect(back.number)
    await house.settle_down()
    house.stub.release()
    for _ in range(5):  # a call at a time
        await house.settle_down()
    assert [house.state(seq) for seq in (*sent, *later)] == [State.SENT] * 6 + [State.NOTIFIED] * 2
    assert house.steps(later[-1])[-1] == "notified"
    await house.close()


@pytest.mark.parametrize(
    ("history", "hop", "asked", "used"),
    [
        ([], 1, "a", ["a"]),  # it has not answered yet
        ([("a", "notifier_failed")], 0, "", []),  # failed for now, and is open again
        ([("a", "notifier_failed")], 1, "", ["a"]),
        ([("a", "notified"), ("b", "notifier_failed")], 1, "", ["a"]),
        ([("b", "notifier_failed"), ("a", "notified")], 1, "", ["a"]),
        ([("a", "notifier_failed")], 2, "b", ["b", "a"]),
        ([("b", "notifier_failed")], 1, "a", ["a"]),  # the dead one is asked once more, never "a" at once
        ([("a", "notifier_failed"), ("b", "notifier_failed")], 1, "b", ["b"]),  # "a" failed before the restart
        ([("gone", "notified")], 2, "a", ["a", "gone"]),
        ([("edge", "sent"), ("edge", "ack_timeout")], 0, "", []),
    ],
)
def test_names_that_are_used_up_by_the_history(
    history: list[tuple[str, str]], hop: int, asked: str, used: list[str]
) -> None:
    assert used_up([Step(0, what, name) for name, what in history], hop, [asked] if asked else []) == used


def test_names_that_are_used_up_as_the_trail_knows_them() -> None:
    history = [Step(0, "notifier_failed", name) for name in "abca"]
    assert used_up(history, 1, ["a"], opened=["b", "c"]) == ["a"]
    assert used_up(history, 2, ["b"], failed=["a", "b"], opened=["c"]) == ["b", "a"]
    assert used_up(history, 1, opened=["b", "c"]) == ["a"]  # it was dead before the trail began
    assert used_up(history, 2, ["a"], failed=["c"], opened=["a", "b"]) == ["a", "c"]  # "a" is asked again
    assert used_up(history, 1, ["d"], opened=["a", "b", "c"]) == ["d"]


async def test_with_more_in_trouble_than_are_remembered_no_notifier_is_asked_round_and_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who failed before is forgotten then; without a pause they would take turns for as long as both are down."""
    monkeypatch.setattr("gateway.delivery.executor.MAX_TRAILS", 100)
    house = House()
    delivery = house.config.delivery
    delivery.notifier_queue = delivery.notifier_lane_queue = 50
    delivery.notifier_concurrency = delivery.notifier_lane_concurrency = 8
    house.start()
    house.app()
    asked: Counter[int] = Counter()

    async def fail(app: App, registration: Registration, notification: Notification) -> NotifierResult:
        asked[notification.seq] += 1
        await asyncio.sleep(0)
        return NotifierResult(ok=False, is_lanes=True)

    house.stub.notify = house.other.notify = fail  # type: ignore[method-assign]
    for _ in range(160):
        house.push(house.directory.add(fallback=["stub", "other"]), ttl=86_400)
    for _ in range(3_000):
        await asyncio.sleep(0)
    assert len(asked) == 160
    assert max(asked.values()) <= 4
    await house.close()


async def test_a_notifier_that_fails_after_another_took_the_message_takes_its_recheck_not_away(house: House) -> None:
    device = house.directory.add(fallback=["stub", "other"])
    calls: dict[str, asyncio.Future[NotifierResult]] = {}

    def hang(name: str) -> Callable[..., Awaitable[NotifierResult]]:
        async def notify(app: App, registration: Registration, notification: Notification) -> NotifierResult:
            calls[name] = asyncio.get_running_loop().create_future()
            return await calls[name]

        return notify

    house.stub.notify, house.other.notify = hang("stub"), hang("other")  # type: ignore[method-assign]
    seq = await house.accepted(device)
    for _ in range(2):  # back, and away again while a call is under way: the next is asked
        house.edge.connect(device.number)
        await house.settle_down()
        house.edge.disconnect(device.number)
        await house.settle_down()
    assert set(calls) == {"stub", "other"}
    assert house.state(seq) == State.WAITING
    calls["stub"].set_result(NotifierResult(ok=True))
    await house.settle_down()
    calls["other"].set_result(NotifierResult(ok=False))
    await house.settle_down()
    assert house.state(seq) == State.NOTIFIED
