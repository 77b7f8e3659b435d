"""Devices at all nodes of a fleet, providers at all nodes, and a ledger of what was promised and what came."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import httpx

from gateway.client import Connection, Device, DeviceState, MemoryCredentials
from gateway.client.content import Notification
from gateway.tour.fleet_home import FleetHome, GatewayNode
from gateway.tour.stage import Failed, check, eventually

APP = "fleet"
#: a provider asks the next node after this
ASK_S = 8.0
AGAIN_S = 0.2
#: of a push; all of it must be over long before
TTL_S = 600
#: states of deliveries that are not over
OPEN = frozenset({"accepted", "sent", "notified", "waiting", "announced"})


class Phone:
    """One device and what its app was shown. It stays the same one over leaving and coming back."""

    def __init__(self, number: int, ledger: Ledger) -> None:
        self.number = number
        self.token = ""
        #: seconds without a link, each time it had lost one
        self.gaps: list[float] = []
        self.ledger = ledger
        self._store = MemoryCredentials()
        self._device: Device | None = None
        self._gone_at = 0.0

    async def come(self, nodes: Sequence[GatewayNode]) -> None:
        """Registered, at any of these nodes."""
        first, *others = nodes
        self._device = Device(
            first.host,
            first.device_port,
            nodes=[f"{node.host}:{node.device_port}" for node in others],
            store=self._store,
            heartbeat=1,
            on_state=self._on_state,
        )
        self._device.start()
        made = await self._device.register(APP, "1.0", on_message=self._on_message)
        self.token = made.token

    async def leave(self) -> None:
        if self._device is not None:
            await self._device.aclose()
            self._device = None
            self._gone_at = 0.0

    @property
    def is_online(self) -> bool:
        return self._device is not None and self._device.state.connection is Connection.ONLINE

    def _on_state(self, state: DeviceState) -> None:
        now = time.monotonic()
        if state.connection is Connection.ONLINE and self._gone_at:
            self.gaps.append(now - self._gone_at)
            self._gone_at = 0.0
        elif state.connection is Connection.WAITING and not self._gone_at:
            self._gone_at = now

    def _on_message(self, notification: Notification) -> None:
        self.ledger.shown[notification.title].append((self.number, time.monotonic()))


class Promise(NamedTuple):
    """A push that was answered with success."""

    push: str
    phone: int
    node: int  # that answered
    status: int
    asked_at: float


class Ledger:
    def __init__(self) -> None:
        self.promises: dict[str, Promise] = {}
        #: title → (phone, when)
        self.shown: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.refused = 0  # answers 503 and no answer, tried again with the same key

    def missing(self) -> list[str]:
        return [title for title, promise in self.promises.items() if not self._came(title, promise)]

    def _came(self, title: str, promise: Promise) -> bool:
        return any(phone == promise.phone for phone, _ in self.shown.get(title, ()))

    def twice(self) -> int:
        """Shown to an app more than once."""
        return sum(len(shown) - 1 for title, shown in self.shown.items() if title in self.promises and len(shown) > 1)

    def astray(self) -> int:
        """Shown to another device."""
        return sum(phone != self.promises[title].phone for title in self.promises for phone, _ in self.shown[title])


class FleetLoad:
    """Phones and providers of one fleet."""

    def __init__(self, home: FleetHome) -> None:
        self.home = home
        self.ledger = Ledger()
        self.phones: list[Phone] = []
        self._key = ""
        self._titles = itertools.count(1)
        self._pushers: list[asyncio.Task[None]] = []
        self._chance = random.Random(1)  # noqa: S311 - whom to push to

    async def open(self, phones: int) -> None:
        """An app, and so many phones on line, spread over the nodes."""
        http, operator = self.home.http, {"authorization": f"Bearer {self.home.admin_key()}"}
        made = await http.post(f"{self.home.nodes[0].api}/v1/apps", headers=operator, json={"name": APP})
        check(made.status_code == 201, f"the app could not be made: {made.status_code} {made.text}")
        self._key = made.json()["key"]
        self.phones = [Phone(number, self.ledger) for number in range(phones)]
        try:
            async with asyncio.timeout(30):
                await asyncio.gather(*(phone.come(self.home.nodes) for phone in self.phones))
        except TimeoutError:
            raise Failed("the devices did not get their tokens") from None

    async def close(self) -> None:
        await self.stop_pushing()
        await asyncio.gather(*(phone.leave() for phone in self.phones), return_exceptions=True)

    # --- pushes

    async def call(self, node: GatewayNode, method: str, path: str, **options: object) -> httpx.Response:
        headers = {"authorization": f"Bearer {self._key}"}
        return await self.home.http.request(
            method,
            f"{node.api}{path}",
            headers=headers,
            timeout=ASK_S,
            **options,  # type: ignore[arg-type]
        )

    async def push(self, phone: Phone, node: GatewayNode, *, key: bool = True) -> httpx.Response:
        """Once; what was answered with success is in the ledger."""
        title = f"push {next(self._titles)}"
        body = {"target": {"token": phone.token}, "title": title, "ttl": TTL_S}
        return await self._offer(title, phone, node, {**body, "idempotency_key": title} if key else body)

    async def _offer(self, title: str, phone: Phone, node: GatewayNode, body: object) -> httpx.Response:
        asked_at = time.monotonic()
        answer = await self.call(node, "POST", "/v1/push", json=body)
        if answer.status_code in (200, 201, 202):
            place = self.home.nodes.index(node)
            self.ledger.promises[title] = Promise(
                answer.json()["id"], phone.number, place, answer.status_code, asked_at
            )
        return answer

    async def accepted(self, phone: Phone, node: int) -> str:
        """At this node, and where it does not take it at the next, until one did; its title."""
        title = f"push {next(self._titles)}"
        body = {"target": {"token": phone.token}, "title": title, "ttl": TTL_S, "idempotency_key": title}
        for place in itertools.cycle([*range(node, len(self.home.nodes)), *range(node)]):
            at = self.home.nodes[place]
            try:
                answer = await self._offer(title, phone, at, body)
            except httpx.HTTPError:
                answer = None
            if title in self.ledger.promises:
                return title
            if answer is not None and answer.status_code != 503:
                raise Failed(f"a push was refused: {answer.status_code} {answer.text}")
            self.ledger.refused += 1
            await asyncio.sleep(AGAIN_S)
        raise AssertionError

    def start_pushing(self, pause_s: float) -> None:
        """A provider at each node, one push after the other to any phone."""
        self._pushers = [asyncio.create_task(self._push_on(node, pause_s)) for node in range(len(self.home.nodes))]

    async def _push_on(self, node: int, pause_s: float) -> None:
        while True:
            await self.accepted(self._chance.choice(self.phones), node)
            await asyncio.sleep(pause_s)

    async def stop_pushing(self) -> None:
        """After what is under way was answered."""
        pushers, self._pushers = self._pushers, []
        for pusher in pushers:
            pusher.cancel()
        for result in await asyncio.gather(*pushers, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    # --- what came of it

    async def all_shown(self, timeout_s: float = 45.0) -> None:
        """Every promise is kept. Failed, which says how many are not."""
        end = time.monotonic() + timeout_s
        while missing := self.ledger.missing():
            if time.monotonic() > end:
                raise Failed(f"{len(missing)} of {len(self.ledger.promises)} accepted pushes did not come")
            await asyncio.sleep(0.05)

    async def settled(self, titles: Sequence[str]) -> dict[str, int]:
        """States of the deliveries of these, once none is open, or as they are after a while."""
        states: dict[str, str] = {}
        open_ones = list(titles)
        done: Counter[str] = Counter()
        for _ in range(10):
            states = await self._states(open_ones)
            done.update(state for state in states.values() if state not in OPEN)
            open_ones = [title for title, state in states.items() if state in OPEN]
            if not open_ones:
                break
            await asyncio.sleep(1.0)
        return dict(done + Counter(states[title] for title in open_ones))

    async def _states(self, titles: Sequence[str]) -> dict[str, str]:
        states: dict[str, str] = {}
        turn = asyncio.Semaphore(16)

        async def look(place: int, title: str) -> None:
            async with turn:
                node = self.home.nodes[place % len(self.home.nodes)]

                async def probe() -> httpx.Response | None:
                    try:
                        answer = await self.call(node, "GET", f"/v1/push/{self.ledger.promises[title].push}")
                    except httpx.HTTPError:
                        return None
                    return answer if answer.status_code == 200 else None

                answer = await eventually(probe, f"the look-up of {title}", 20.0)
                (delivery,) = answer.json()["deliveries"]
                states[title] = delivery["state"]

        await asyncio.gather(*(look(place, title) for place, title in enumerate(titles)))
        return states
