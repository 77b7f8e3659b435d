"""Providers with an ordinary client, and what they see of a fleet: answers by status, and how long a push waited; must
never do more for a push than such a client does.

One repeats what was answered 503 as `Retry-After` says, with the same idempotency key; the other asks once. Both ask at
their own pace, whether what they asked before is answered or not, and leave a node where it takes no connection, as a
load balancer would lead them, for the next.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter

import httpx

from gateway.tour.fleet_home import GatewayNode
from gateway.tour.fleet_load import TTL_S, FleetLoad, Phone, Promise

#: where a 503 names no time
AGAIN_S = 1.0
#: between two tries of a node, when all were tried
ROUND_S = 0.1
#: pushes of one provider that wait for their answers at once; past it the next one waits, and the pace is lost
MOST_WAITING = 100


class Seen:
    """Of one provider. A push ends with an answer that is not repeated."""

    def __init__(self) -> None:
        #: of single answers, by status; 0: a connection that gave none
        self.answers: Counter[int] = Counter()
        #: connections that gave no answer, by what the client says of it
        self.broken: Counter[str] = Counter()
        #: answers 503 that do not say when to come again
        self.timeless = 0
        #: doors that took no connection
        self.closed = 0
        #: pushes that ended well and otherwise
        self.accepted = 0
        self.failed = 0
        #: seconds from the first try of a push to its end
        self.waits: list[float] = []
        #: of the provider itself
        self.faults: list[BaseException] = []

    def note(self, answer: httpx.Response | None) -> None:
        self.answers[answer.status_code if answer is not None else 0] += 1
        if answer is not None and answer.status_code == 503 and "retry-after" not in answer.headers:
            self.timeless += 1

    @property
    def refused(self) -> int:
        return self.answers[503]

    def wait(self, part: float) -> float:
        """Which a part of all pushes stayed below."""
        waits = sorted(self.waits)
        return waits[min(len(waits) - 1, int(part * len(waits)))] if waits else 0.0


class PlainProvider:
    """`start`, `stop`, and `seen` tells what it saw. `retries`: a 503 and a connection that gave no answer."""

    def __init__(self, load: FleetLoad, *, retries: bool, name: str, pause_s: float) -> None:
        self._load = load
        self._retries = retries
        self._name = name
        self._pause_s = pause_s
        self._place = 0
        self._numbers = itertools.count(1)
        self._chance = random.Random(name)  # noqa: S311 - whom to push to
        self._waiting: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._is_ending = False
        self.seen = Seen()

    def start(self) -> None:
        self._task = asyncio.create_task(self._push_on())

    async def stop(self) -> None:
        """After its last push has ended."""
        self._is_ending = True
        if self._task is not None:
            await self._task
        while self._waiting:
            await asyncio.wait(self._waiting)

    async def _push_on(self) -> None:
        loop = asyncio.get_running_loop()
        next_s = loop.time()
        while not self._is_ending:
            while len(self._waiting) >= MOST_WAITING:
                await asyncio.wait(self._waiting, return_when=asyncio.FIRST_COMPLETED)
                next_s = loop.time()
            pushing = asyncio.create_task(self._push(self._chance.choice(self._load.phones)))
            self._waiting.add(pushing)
            pushing.add_done_callback(self._on_done)
            next_s += self._pause_s
            await asyncio.sleep(max(0.0, next_s - loop.time()))

    def _on_done(self, pushing: asyncio.Task[None]) -> None:
        self._waiting.discard(pushing)
        if not pushing.cancelled() and (error := pushing.exception()) is not None:
            self.seen.faults.append(error)

    async def _push(self, phone: Phone) -> None:
        title = f"{self._name} {next(self._numbers)}"
        body = {"target": {"token": phone.token}, "title": title, "ttl": TTL_S, "idempotency_key": title}
        began = time.monotonic()
        while True:
            answer = await self._ask(body)
            self.seen.note(answer)
            if answer is not None and answer.status_code != 503:
                break
            if not self._retries:
                break
            after = answer.headers.get("retry-after", "") if answer is not None else ""
            await asyncio.sleep(float(after) if after.isdecimal() else AGAIN_S)
        self.seen.waits.append(time.monotonic() - began)
        if answer is not None and answer.status_code in (200, 201, 202):
            self.seen.accepted += 1
            promise = Promise(answer.json()["id"], phone.number, self._place, answer.status_code, began)
            self._load.ledger.promises[title] = promise
        else:
            self.seen.failed += 1

    async def _ask(self, body: object) -> httpx.Response | None:
        """From a node that takes the connection; None: there was no answer on it."""
        nodes: list[GatewayNode] = self._load.home.nodes
        for tries in itertools.count(1):
            place = self._place
            try:
                return await self._load.call(nodes[place], "POST", "/v1/push", json=body)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                self.seen.closed += 1
                if place == self._place:
                    self._place = (place + 1) % len(nodes)
                if tries % len(nodes) == 0:
                    await asyncio.sleep(ROUND_S)
            except httpx.HTTPError as error:
                self.seen.broken[type(error).__name__] += 1
                return None
        raise AssertionError


def what_providers_saw(patient: Seen, other: Seen) -> dict[str, str]:
    """Rows of a table."""
    return {
        "kept in a node's spool (202)": f"{patient.answers[202] + other.answers[202]:,}",
        "of a provider that repeats: pushes, 503s, failed": (
            f"{len(patient.waits):,}, {patient.refused:,}, {patient.failed:,}"
        ),
        "of one that asks once: pushes, 503s, no answer": (
            f"{len(other.waits):,}, {other.refused:,}, {other.answers[0]:,}"
        ),
        "a push waited, half of them, 99 of 100, at most (the first)": (
            f"{patient.wait(0.5):.2f}, {patient.wait(0.99):.2f}, {patient.wait(1):.2f} s"
        ),
        "a push waited, half of them, 99 of 100, at most (the other)": (
            f"{other.wait(0.5):.2f}, {other.wait(0.99):.2f}, {other.wait(1):.2f} s"
        ),
    }
