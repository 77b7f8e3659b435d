"""Random outages, full queues, links and restarts: in the end whoever can take a message has it, and nobody twice."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from random import Random

import pytest
from house import House

from gateway.delivery.executor import MAX_TRIES
from gateway.model.notification import Notification
from gateway.model.outcome import State
from gateway.model.ports import NotifierResult
from gateway.model.registration import App, Registration
from gateway.notifiers.stub.client import StubNotifier

DAY_S = 86_400
CHAINS = (["stub"], ["stub", "other"], ["other", "stub"])
RESULTS = {
    "ok": NotifierResult(ok=True),
    "down": NotifierResult(ok=False, is_lanes=True),
    "retry": NotifierResult(ok=False),
    "rests": NotifierResult(ok=False, retry_after_ms=60_000, is_lanes=True),
    "absent": NotifierResult(ok=False, asked=False),
    "dead": NotifierResult(ok=False, dead=True),
}
#: what a notifier does with a call
MOODS = (*RESULTS, "hang", "mixed", "mixed")


class Scene:
    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.house = house = House(window=random.choice((1, 2, 32)))
        settings = house.config.delivery
        settings.notifier_queue = random.choice((3, 6, 20))
        settings.notifier_lane_queue = random.choice((1, 2, 5))
        settings.notifier_concurrency = random.choice((1, 2, 4))
        settings.notifier_lane_concurrency = random.choice((1, 2))
        settings.notifier_lanes = random.choice((2, 3, 8))
        house.start()
        house.app()
        self.moods = {"stub": "ok", "other": "ok"}
        self.said: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
        self.hanging: list[asyncio.Future[None]] = []
        self.under_way: list[tuple[int, str]] = []
        self.is_restarted = False
        self.wrong: list[tuple[int, str, list[tuple[str, str]]]] = []
        has_lanes = random.random() < 0.5
        for notifier in (house.stub, house.other):
            self.play(notifier, has_lanes=has_lanes)
        self.devices = [house.directory.add(fallback=random.choice(CHAINS)) for _ in range(4)]
        self.seqs: list[int] = []

    def play(self, notifier: StubNotifier, *, has_lanes: bool) -> None:
        name, house = notifier.name, self.house

        async def notify(app: App, registration: Registration, notification: Notification) -> NotifierResult:
            said = self.said[notification.seq]
            if (name, "ok") in said or ((name, "dead") in said and not self.is_restarted):
                self.wrong.append((notification.seq, name, list(said)))  # asked again
            if house.journal.get(notification.seq) is None:
                self.wrong.append((notification.seq, name, [("", "over")]))
            call = (notification.seq, name)
            self.under_way.append(call)
            try:
                return await answer(said)
            finally:
                self.under_way.remove(call)

        async def answer(said: list[tuple[str, str]]) -> NotifierResult:
            mood = self.moods[name]
            if mood == "mixed":
                mood = self.random.choice(MOODS[:7])
            if mood == "hang":
                self.hanging.append(asyncio.get_running_loop().create_future())
                await self.hanging[-1]
                mood = self.random.choice(("ok", "down", "retry", "dead"))
            said.append((name, mood))
            return RESULTS[mood]

        notifier.notify = notify  # type: ignore[method-assign]
        if has_lanes:
            notifier.lane = lambda app, registration: str(registration.number)  # type: ignore[method-assign]

    async def release(self) -> None:
        for call in self.hanging:
            if not call.done():
                call.set_result(None)
        self.hanging.clear()
        await self.house.settle_down()

    async def wait(self, ms: int) -> None:
        """In one step: no timer is looked at twice."""
        self.house.clock.now_ms += ms
        await self.house.advance(500)

    async def restart(self) -> None:
        """As the store gives them back."""
        self.is_restarted = True
        house = self.house
        await house.close()
        self.hanging.clear()
        for edge_state in (house.edge.bound, house.edge.flights, house.edge.spilled, house.edge.wants_ready):
            edge_state.clear()
        for row in house.journal.rows.values():
            took = {step.channel for step in row.steps if step.what == "notified"}
            row.delivery = row.delivery._replace(state=State.ACCEPTED, hop=min(row.delivery.hop, len(took)))
            row.timer_ms = row.delivery.expires_s * 1000
        house.start()

    async def act(self, *, restarts: bool) -> None:
        house, random = self.house, self.random
        dice = random.random()
        if dice < 0.3:
            self.seqs.append(await house.accepted(random.choice(self.devices), ttl=5 * DAY_S))
        elif dice < 0.45:
            self.moods = {name: random.choice(MOODS) for name in self.moods}
        elif dice < 0.55:
            await self.release()
        elif dice < 0.65:
            house.edge.connect(random.choice(self.devices).number)
        elif dice < 0.75:
            house.edge.disconnect(random.choice(self.devices).number)
        elif dice < 0.8 and house.edge.flights:
            house.edge.ack(*random.choice(list(house.edge.flights)))
        elif dice < 0.84 and restarts:
            await self.restart()
        elif dice < 0.86:
            device = random.choice(self.devices)
            if device.number not in house.edge.bound:
                device.fallback = random.choice(CHAINS)
                house.dispatcher.look_again(device.number)
        elif dice < 0.88 and house.journal.rows:
            await house.dispatcher.recall("shop", random.choice(list(house.journal.rows)))
        else:
            await self.wait(random.choice((500, 3_500, 31_000, 120_000)))
        await house.settle_down()
        self.check_calls()

    def check_calls(self) -> None:
        """No call waits or is made twice at a time."""
        calls = Counter(self.under_way)
        queues = self.house.dispatcher._executor._queues
        for name, queue in queues.items():
            calls.update((job.seq, name) for lane in queue._lanes.values() for job in lane.jobs)
            calls.update((job.seq, name) for job, _ in queue._returned)
        assert not calls or max(calls.values()) == 1, calls
        known = self.house.dispatcher._executor._under_way
        assert all(name in known.names(seq) for seq, name in calls)
        held = sum(len(queue) + len(queue._returned) + queue._under_way.taken for queue in queues.values())
        assert len(known) <= held

    async def recover(self) -> None:
        """All devices are away, and every notifier takes what it is given."""
        for device in self.devices:
            self.house.edge.disconnect(device.number)
        self.moods = dict.fromkeys(self.moods, "ok")
        await self.release()
        for _ in range(8):
            await self.wait(1_200_000)

    async def end(self) -> None:
        """Nothing is remembered of what is over."""
        await self.wait(10 * DAY_S * 1000)
        await self.wait(500)
        executor = self.house.dispatcher._executor
        assert not self.house.journal.rows
        of_deliveries = (executor._trails, executor._fetched, executor._briefs, executor._under_way)
        assert [len(each) for each in (*of_deliveries, executor.held, executor.unsure)] == [0] * 6

    def check(self) -> None:
        house = self.house
        assert not self.wrong
        for seq in self.seqs:
            row = house.journal.rows.get(seq)
            if row is None:
                continue
            said = self.said[seq]
            chain = house.directory.records[row.delivery.registration].fallback or ()
            dead = {name for name, what in said if what == "dead"}
            told = [(step.what, step.channel, step.detail) for step in row.steps]
            is_over = not set(chain) - dead or Counter(what for _, what in said)["retry"] >= MAX_TRIES
            assert is_over or "ok" in {what for _, what in said}, (seq, chain, said, told)
            assert len(told) < 200
        for queue in house.dispatcher._executor._queues.values():
            assert (len(queue), len(queue._refused), queue._under_way.taken) == (0, 0, 0)
            assert queue._held_lanes.taken == queue.lanes
        self.check_calls()
        assert not house.journal.settled_more_than_once


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("seed", [*range(12), 103, 307, 397, 519, 1092, 5121])
async def test_whoever_can_take_a_message_has_it_in_the_end(seed: int, restarts: bool) -> None:
    scene = Scene(seed)
    for _ in range(60):
        await scene.act(restarts=restarts)
    await scene.recover()
    scene.check()
    await scene.end()
    await scene.house.close()
