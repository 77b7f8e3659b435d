"""A delivery floor on memory ports with a clock of its own."""

from __future__ import annotations

import asyncio
from typing import Any

from memory_ports import Clock, MemoryBroadcasts, MemoryDirectory, MemoryEdge, MemoryJournal, MemorySchedules

from gateway.config.sections import Config
from gateway.delivery.accept import Accepted, Acceptor
from gateway.delivery.dispatcher import Dispatcher
from gateway.delivery.request import PushRequest, TargetRequest
from gateway.delivery.scheduler import Scheduler
from gateway.metrics import Metric, Metrics
from gateway.model.frames import Notify
from gateway.model.outcome import Outcome, State
from gateway.model.registration import App, Registration, build_token
from gateway.notifiers.stub.client import StubNotifier


class Other(StubNotifier):
    name = "other"


class House:
    """Everything a scenario needs; `advance` lets time pass."""

    def __init__(self, *, window: int = 32, config: Config | None = None) -> None:
        self.clock = Clock()
        self.config = config or Config()
        self.config.edge.window = window
        self.directory = MemoryDirectory()
        self.journal = MemoryJournal(self.clock)
        self.broadcasts = MemoryBroadcasts(self.journal, self.directory, self.clock)
        self.schedules = MemorySchedules(self.journal)
        self.edge = MemoryEdge(self.clock, self.directory, window)
        self.stub = StubNotifier()
        self.other = Other()
        self.metrics = Metrics(process=False)
        self.start()

    def start(self) -> None:
        """(Re)build the floor on what the ports hold."""
        self.dispatcher = Dispatcher(
            edge=self.edge,
            journal=self.journal,
            broadcasts=self.broadcasts,
            schedules=self.schedules,
            directory=self.directory,
            notifiers={"stub": self.stub, "other": self.other},
            config=self.config,
            metrics=self.metrics,
            clock=self.clock,
        )
        self.edge.events = self.dispatcher
        self.acceptor = Acceptor(
            directory=self.directory,
            journal=self.journal,
            schedules=self.schedules,
            dispatcher=self.dispatcher,
            config=self.config,
            metrics=self.metrics,
        )
        self.scheduler = Scheduler(
            schedules=self.schedules,
            directory=self.directory,
            acceptor=self.acceptor,
            backlog=self.dispatcher.backlog,
            metrics=self.metrics,
            clock=self.clock,
        )

    async def settle_down(self) -> None:
        """Let callbacks, queues and slices run."""
        for _ in range(12):
            await asyncio.sleep(0)
        await self.dispatcher.backlog.wait_idle()
        self.edge.flush_spilled()
        self.edge.answer_room()
        for _ in range(4):
            await asyncio.sleep(0)

    async def advance(self, ms: int) -> None:
        end = self.clock.now_ms + ms
        while self.clock.now_ms < end:
            self.clock.now_ms = min(end, self.clock.now_ms + 500)
            self.edge.fire_timeouts()
            self.scheduler.tick()
            self.dispatcher.tick()
            await self.settle_down()

    def app(self, **options: Any) -> App:
        return self.directory.add_app(**options)

    def push(self, target: Registration | TargetRequest, *, app: str = "shop", **options: Any) -> Accepted:
        if isinstance(target, Registration):
            target = TargetRequest(token=build_token(target.token))
        found = self.directory.app(app)
        assert found
        return self.acceptor.push(found, PushRequest(target=target, **options), self.clock.now_ms)

    async def accepted(self, target: Registration | TargetRequest, **options: Any) -> int:
        taken = self.push(target, **options)
        await taken.done
        await self.settle_down()
        return taken.seq

    def state(self, seq: int) -> State:
        outcome = self.journal.outcomes.get(seq)
        if outcome is not None:
            return State(outcome.state)
        delivery = self.journal.get(seq)
        assert delivery
        return State(delivery.state)

    def steps(self, seq: int) -> list[str]:
        row = self.journal.rows.get(seq)
        steps = row.steps if row else self.journal.outcomes[seq].steps
        return [step.what for step in steps]

    def outcome(self, seq: int) -> Outcome:
        return self.journal.outcomes[seq]

    def frames(self, registration: Registration) -> list[Notify]:
        return [notify for number, notify in self.edge.frames if number == registration.number]

    def counted(self, metric: Metric, label: str = "") -> float:
        return self.metrics.value(metric, label)

    async def close(self) -> None:
        await self.dispatcher.close()
