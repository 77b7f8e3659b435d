"""Any order of events: each accepted delivery ends exactly once, and nothing goes out after its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from house import House
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.model.errors import GatewayError
from gateway.model.outcome import State
from gateway.notifiers.stub.client import Answer

DEVICES = 3


class Deliveries(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.accepted: list[int] = []
        self.acked: set[int] = set()
        self.frames_at_end: dict[int, int] = {}
        self.recalled: set[int] = set()
        self.run(self.build)

    def run(self, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.loop.run_until_complete(action())

    async def build(self) -> None:
        self.house = House(window=3)
        self.house.app()
        chains: list[list[str]] = [[], ["stub"], ["stub", "other"]]
        for chain in chains:
            self.house.directory.add(fallback=chain)

    def do(self, action: Callable[[], object]) -> None:
        async def act() -> None:
            action()
            await self.house.settle_down()

        self.run(act)

    numbers = st.integers(1, DEVICES)

    @rule(
        number=numbers,
        ttl=st.sampled_from([0, 3, 40, 86_400]),
        light=st.booleans(),
        key=st.sampled_from(["", "a"]),
        urgency=st.sampled_from(["low", "high"]),
        fails=st.sampled_from([False, False, False, True]),
        hold=st.booleans(),
    )
    def push(self, number: int, ttl: int, light: bool, key: str, urgency: str, fails: bool, hold: bool) -> None:
        async def act() -> None:
            house = self.house
            house.journal.hold = hold
            house.journal.fail = fails
            taken = house.push(
                house.directory.records[number],
                ttl=ttl,
                data="body" if light else None,
                body="on_demand",
                collapse_key=key,
                urgency=urgency,
            )
            if hold:
                await house.settle_down()  # the device may have it before the disk
                house.journal.commit()
            try:
                await taken.done
                self.accepted.append(taken.seq)
            except GatewayError:
                assert fails
            house.journal.hold = house.journal.fail = False
            await house.settle_down()

        self.run(act)

    @rule(number=numbers)
    def connect(self, number: int) -> None:
        self.do(lambda: self.house.edge.connect(number))

    @rule(number=numbers)
    def disconnect(self, number: int) -> None:
        self.do(lambda: self.house.edge.disconnect(number))

    @rule(number=numbers, floor=st.integers(0, 3))
    def set_floor(self, number: int, floor: int) -> None:
        def act() -> None:
            self.house.edge.floors[number] = floor
            if self.house.edge.is_connected(number):
                self.house.dispatcher.on_ready([number])

        self.do(act)

    @rule(number=numbers)
    def takeover(self, number: int) -> None:
        """A new link before the loss of the old one is told."""

        def act() -> None:
            edge = self.house.edge
            lost = [key for key in edge.flights if key[0] == number]
            for key in lost:
                del edge.flights[key]
            edge.connect(number)
            for _, seq in lost:
                self.house.dispatcher.on_lost(seq, number, spilled=False)

        self.do(act)

    @rule(data=st.data(), shown=st.booleans())
    def ack(self, data: st.DataObject, shown: bool) -> None:
        sent = sorted({(number, notify.id) for number, notify in self.house.edge.frames})
        if sent:
            number, seq = data.draw(st.sampled_from(sent))
            self.do(lambda: self.house.edge.ack(number, seq, shown=shown))

    @rule(number=numbers, stranger=numbers)
    def ack_of_a_stranger(self, number: int, stranger: int) -> None:
        pending = self.house.journal.pending_of(number)
        if pending and number != stranger:
            before = [self.house.state(seq) for seq in pending]
            self.do(lambda: self.house.edge.ack(stranger, *pending))
            for seq, was in zip(pending, before, strict=True):
                state = self.house.state(seq)
                # what waited for room in a mailbox may have its turn meanwhile, which is no stranger's doing
                assert state is was or (was is State.WAITING and not state.is_final)

    @rule(number=numbers)
    def fetch(self, number: int) -> None:
        self.do(lambda: self.house.dispatcher.on_fetch(number, []))

    @rule(full=st.booleans())
    def fill_mailbox(self, full: bool) -> None:
        self.house.edge.mailbox_full = full

    @rule(answers=st.lists(st.sampled_from(list(Answer)), max_size=3))
    def answer(self, answers: list[Answer]) -> None:
        self.house.stub.expect(*answers)

    @rule()
    def release(self) -> None:
        self.do(self.house.stub.release)

    @rule(ms=st.sampled_from([500, 3_000, 31_000, 120_000]))
    def wait(self, ms: int) -> None:
        self.run(lambda: self.house.advance(ms))

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def recall(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(self.accepted))

        async def act() -> None:
            await self.house.dispatcher.recall("shop", seq)
            assert self.house.state(seq).is_final

        self.run(act)

    @rule(number=numbers)
    def revoke(self, number: int) -> None:
        self.do(lambda: self.house.dispatcher.revoke(number))
        assert not self.house.journal.pending_of(number)

    @invariant()
    def nothing_is_lost_and_nothing_ends_twice(self) -> None:
        journal = self.house.journal
        assert not journal.settled_more_than_once
        for seq in self.accepted:
            assert (seq in journal.rows) != (seq in journal.outcomes)

    @invariant()
    def nothing_goes_out_after_the_end(self) -> None:
        counts: dict[int, int] = {}
        for _, notify in self.house.edge.frames:
            counts[notify.id] = counts.get(notify.id, 0) + 1
        for seq in self.house.journal.outcomes:
            assert self.frames_at_end.setdefault(seq, counts.get(seq, 0)) == counts.get(seq, 0)

    @invariant()
    def what_is_sent_is_known_to_the_link_or_on_its_way_back(self) -> None:
        edge = self.house.edge
        for seq, row in self.house.journal.rows.items():
            if row.delivery.state == State.SENT:
                assert (row.delivery.registration, seq) in edge.flights

    @invariant()
    def a_wanted_message_does_not_wait_for_nothing(self) -> None:
        """On a live link something will send it: room that is to come, or a timer before its expiry."""
        house = self.house
        for row in house.journal.rows.values():
            number = row.delivery.registration
            notification = house.journal.notifications[row.delivery.notification]
            if row.delivery.state == State.WAITING and house.edge.is_connected(number):
                wanted = notification.urgency >= house.edge.urgency_floor(number)
                timer = row.timer_ms < row.delivery.expires_s * 1000
                ends_first = row.delivery.expires_s * 1000 - house.clock.now_ms <= 16 * 30_000
                assert not wanted or timer or ends_first or number in house.edge.wants_ready

    def teardown(self) -> None:
        async def end() -> None:
            house = self.house
            house.edge.mailbox_full = False
            house.stub.release()
            for number in range(1, DEVICES + 1):
                house.edge.floors.pop(number, None)
                house.edge.connect(number)
            for _ in range(60):
                for number, seq in list(house.edge.flights):
                    house.edge.ack(number, seq)
                for number in range(1, DEVICES + 1):
                    house.dispatcher.on_fetch(number, [])
                house.edge.flush_spilled()
                await house.advance(1_000)
            for seq in self.accepted:
                assert house.state(seq).is_final, (seq, house.state(seq), house.steps(seq))
            await house.close()

        self.run(end)
        self.loop.close()


TestDeliveries = Deliveries.TestCase
TestDeliveries.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
