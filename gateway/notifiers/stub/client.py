"""A notifier that reaches nobody: it records what it was asked, and answers as it was told to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from gateway.model.notification import Notification
from gateway.model.ports import NotifierResult
from gateway.model.registration import App, Registration

#: calls remembered; older ones are forgotten
MAX_CALLS = 10_000


class Answer(StrEnum):
    OK = "ok"
    RETRY = "retry"
    DOWN = "down"  # retry, and the upstream is at fault
    DEAD = "dead"
    GONE = "gone"  # dead, and the address with it
    ABSENT = "absent"  # retry, and no try is used up
    HANG = "hang"  # until released or cut off


class StubCall(NamedTuple):
    app: str
    registration: int
    account: str
    notification: int  # its sequence
    title: str


class StubNotifier:
    """Answers OK unless told otherwise. `expect` gives the next answers, in order; `answer` is the one after those."""

    name = "stub"
    secrets: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.calls: deque[StubCall] = deque(maxlen=MAX_CALLS)
        self.answer = Answer.OK
        self.hung = Answer.OK  # of calls that hung
        self.retry_after_ms = 0
        self.hold_ms = 0
        self.gone_at_ms = 0
        self._next: deque[Answer] = deque(maxlen=MAX_CALLS)
        self._released = asyncio.Event()

    def expect(self, *answers: Answer) -> None:
        self._next.extend(answers)

    def release(self) -> None:
        """Let the calls that hang go on."""
        self._released.set()

    def check(self, settings: Mapping[str, str]) -> None:
        """It has no settings, and takes any."""

    def lane(self, app: App, registration: Registration) -> str:  # noqa: ARG002 - the port's signature
        return app.name

    async def notify(self, app: App, registration: Registration, notification: Notification) -> NotifierResult:
        self.calls.append(
            StubCall(app.name, registration.number, registration.account, notification.seq, notification.content.title)
        )
        answer = self._next.popleft() if self._next else self.answer
        if answer is Answer.HANG:
            await self._released.wait()
            answer = self.hung
        if answer is Answer.RETRY:
            return NotifierResult(ok=False, retry_after_ms=self.retry_after_ms, hold_ms=self.hold_ms, detail="told to")
        if answer is Answer.DOWN:
            return NotifierResult(ok=False, detail="told to", is_lanes=True)
        if answer is Answer.ABSENT:
            return NotifierResult(ok=False, detail="told to", asked=False)
        gone = answer is Answer.GONE
        dead, gone_at_ms = gone or answer is Answer.DEAD, self.gone_at_ms if gone else 0
        return NotifierResult(answer is Answer.OK, dead=dead, gone=gone, gone_at_ms=gone_at_ms, detail="told to")

    async def close(self) -> None:
        self._released.set()
