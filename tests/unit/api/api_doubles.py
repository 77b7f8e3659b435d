"""In-memory ports for the provider door: the same contracts, no store and no network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import httpx
import msgspec
from identity_rig import Scene

from gateway.api.ports import Backend
from gateway.api.server import build_app
from gateway.auth.api_keys import OPERATOR_ID, ApiKeys, build_key_text, hash_secret, issue_key, parse_key
from gateway.auth.service_keys import ServiceKeys
from gateway.config.sections import Api, Config
from gateway.delivery.push_ids import PushIds
from gateway.delivery.quotas import Quotas
from gateway.delivery.request import PushRequest
from gateway.metrics import Metrics
from gateway.model.cohort import Cohort
from gateway.model.errors import GatewayError, UnknownPush, UnknownToken
from gateway.model.notification import Content, Notification, Target
from gateway.model.outcome import Outcome, State, Step
from gateway.model.ports import Death, PushRecord, Receipt
from gateway.model.registration import (
    NO_PROFILE,
    App,
    DeadToken,
    Loss,
    Profile,
    Registration,
    Whereabouts,
    build_token,
)
from gateway.notifiers import build_notifiers


class Taken(NamedTuple):
    seq: int
    done: asyncio.Future[None]
    targeted: int | None


class Apart:
    """A batch in which every push is to be looked at alone."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.first = 0
        self.apart = list(range(count))
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done.set_result(None)

    def result(self, index: int) -> None:
        pass

    def raw(self, index: int) -> bytes:
        raise NotImplementedError


class Floors:
    """Directory, receipts, acceptor, dispatcher and memory in one, with switches for trouble."""

    def __init__(self) -> None:
        self.apps: dict[str, App] = {}
        self.registrations: dict[int, Registration] = {}
        self.connected: set[int] = set()
        self.updates: list[dict[str, Any]] = []
        self.revoked: list[int] = []
        self.pushed: list[tuple[str, PushRequest]] = []
        self.groups: list[int] = []  # sizes of push_many calls
        self.records: dict[int, PushRecord] = {}
        self.feed: list[Receipt] = []
        self.wakes: list[Callable[[], None]] = []
        self.kept: dict[tuple[str, str], tuple[int, bytes, int]] = {}
        #: how far the clock went on, for what is kept
        self.later_s = 0
        self.next_seq = 1000
        self.refuse: GatewayError | None = None
        self.hold: list[asyncio.Future[None]] | None = None  # a list: futures stay open and are put here
        self.durable_first: list[bool] = []
        self.joined: list[bool] = []  # of what was remembered
        self.write_error: GatewayError | None = None
        self.reasons: list[str] = []
        self.loss = Loss.REVOKED

    # Directory
    def app(self, name: str) -> App | None:
        return self.apps.get(name)

    def app_names(self) -> list[str]:
        return list(self.apps)

    async def put_app(self, app: App) -> App:
        await asyncio.sleep(0)
        if self.write_error:
            raise self.write_error
        number = app.number or len(self.apps) + 1
        self.apps[app.name] = msgspec.structs.replace(app, number=number)
        return self.apps[app.name]

    def reach(self, token: str, app: str) -> int:
        return self.find(token, app)

    def find(self, token: str, app: str) -> int:
        for number, r in self.registrations.items():
            if build_token(r.token) == token and r.app == app and not r.revoked_at:
                return number
        return -1

    def app_name(self, number: int) -> str | None:
        return next((app.name for app in self.apps.values() if app.number == number), None)

    def locate(self, token: bytes) -> Whereabouts:
        for number, r in self.registrations.items():
            if r.token == token:
                if not r.revoked_at:
                    return Whereabouts(number)
                return Whereabouts(-1, DeadToken(r.app, r.revoked_at * 1000, self.loss))
        return Whereabouts()

    def registration(self, number: int) -> Registration | None:
        return self.registrations.get(number)

    def by_alias(self, app: str, alias: str) -> list[int]:
        return [n for n, r in self.registrations.items() if r.app == app and r.alias == alias]

    def by_tag(self, app: str, tag: str) -> list[int]:
        return [n for n, r in self.registrations.items() if r.app == app and tag in r.tags]

    async def update(
        self,
        number: int,
        *,
        alias: str | None = None,
        tags: Sequence[str] | None = None,
        addresses: Mapping[str, str] | None = None,
        fallback: Sequence[str] | None = None,
        profile: Profile = NO_PROFILE,
    ) -> Registration:
        if self.write_error:
            raise self.write_error
        changes = {"alias": alias, "tags": tags, "addresses": addresses, "fallback": fallback, **profile._asdict()}
        changes = {k: v for k, v in changes.items() if v is not None}
        self.updates.append(changes)
        self.registrations[number] = msgspec.structs.replace(self.registrations[number], **changes)
        return self.registrations[number]

    async def revoke_number(self, number: int) -> None:
        if self.write_error:
            raise self.write_error
        self.registrations[number] = msgspec.structs.replace(self.registrations[number], revoked_at=1)

    # Acceptor
    def push(self, app: App, request: PushRequest, now_ms: int, *, durable_first: bool = False) -> Taken:
        assert not request.idempotency_key, "keys are settled at the door"
        self.durable_first.append(durable_first)
        if self.refuse:
            raise self.refuse
        if request.target.token and self.find(request.target.token, app.name) < 0:
            raise UnknownToken
        seq = self.next_seq
        self.next_seq += 1
        self.pushed.append((app.name, request))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.hold is None:
            done.set_result(None)
        else:
            self.hold.append(done)
        broadcast = request.target.everyone or bool(request.target.versions)
        self.records[seq] = record(app.name, seq, broadcast=broadcast)
        return Taken(seq, done, None if broadcast else 1)

    # BatchAcceptor: nothing is plain here, so each push comes alone
    def accept(self, app: App, arrays: list[bytes | memoryview], most: int, now_ms: int) -> Apart:
        return Apart(sum(len(msgspec.msgpack.decode(pushes)) for pushes in arrays))

    def push_many(self, app: App, requests: Sequence[PushRequest], now_ms: int) -> list[Taken | GatewayError]:
        self.groups.append(len(requests))
        out: list[Taken | GatewayError] = []
        for request in requests:
            try:
                out.append(self.push(app, request, now_ms))
            except GatewayError as exc:
                out.append(exc)
        return out

    def cohort(self, number: int) -> Cohort:
        return self.registrations[number].cohort

    # Dispatcher
    notifiers = build_notifiers(Config(), Metrics(process=False), PushIds(b"k" * 32))

    async def recall(self, app: str, seq: int) -> int:
        entry = self.records.get(seq)
        if entry is None or not entry.deliveries or State(entry.deliveries[0].state).is_final:
            raise UnknownPush
        return sum(not State(d.state).is_final for d in entry.deliveries)

    # Memory
    def recall_idempotent(self, app: str, key: str) -> tuple[int, bytes] | None:
        seq, body_hash, until_s = self.kept.get((app, key), (0, b"", 0))
        return (seq, body_hash) if until_s > time.time() + self.later_s else None

    def remember(
        self, app: str, key: str, body_hash: bytes, seq: int, expires_s: int, *, joined: bool = False
    ) -> asyncio.Future[None]:
        self.kept[app, key] = (seq, body_hash, expires_s)
        self.joined.append(joined)
        assert expires_s > time.time()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    # Receipts
    def lookup(self, app: str, seq: int, *, offset: int = 0, limit: int = 100) -> PushRecord | None:
        entry = self.records.get(seq)
        if entry is None or entry.notification.app != app:
            return None
        return entry._replace(deliveries=entry.deliveries[offset : offset + limit])

    def after(self, app: str, cursor: int, limit: int) -> list[Receipt]:
        return [r for r in self.feed if r.cursor > cursor and r.outcome.app == app][:limit]

    def last_cursor(self, app: str) -> int:
        return max((row.cursor for row in self.feed if row.outcome.app == app), default=0)

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        self.wakes.append(wake)
        return lambda: self.wakes.remove(wake)

    def settle(self, app: str, *, registration: int = 1, notification: int = 5) -> int:
        cursor = self.feed[-1].cursor + 1 if self.feed else 1
        steps = [Step(7, "sent", "edge"), Step(9, "acked", "edge")]
        outcome = Outcome(notification, notification, registration, app, State.ACKED, 9, steps)
        self.feed.append(Receipt(cursor, outcome))
        for wake in list(self.wakes):
            wake()
        return cursor


class Counts(dict[tuple[int, str, int], int]):
    """Pushes a day; delivery.quotas.DayCounts."""

    def used(self, app: int, key: str, day: int) -> int:
        return self.get((app, key, day), 0)

    def add(self, app: int, key: str, day: int, count: int) -> None:
        self[app, key, day] = self.used(app, key, day) + count


class Kept:
    """Pushes that wait for their time."""

    def __init__(self) -> None:
        self.rows: dict[str, list[tuple[int, int]]] = {}

    def of_app(self, app: str) -> list[tuple[int, int]]:
        return self.rows.get(app, [])


class Dead:
    """The feed of dead tokens."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, Death]] = []

    def after(self, app: str, cursor: int, limit: int) -> list[Death]:
        return [row for name, row in self.rows if name == app and row.cursor > cursor][:limit]


class DirectoryView:
    """`revoke` means one thing in the directory and another in the dispatcher."""

    def __init__(self, floors: Floors) -> None:
        self._floors = floors
        self.revoke = floors.revoke_number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._floors, name)


class DispatcherView:
    def __init__(self, floors: Floors) -> None:
        self.recall = floors.recall
        self.revoke = floors.revoked.append
        self.notifiers = floors.notifiers


def record(app: str, seq: int, *, states: Sequence[int] = (State.SENT,), broadcast: bool = False) -> PushRecord:
    target = Target(everyone=True) if broadcast else Target(tag="t")
    n = Notification(
        seq=seq,
        app=app,
        target=target,
        content=Content(title="secret title"),
        accepted_ms=5,
        expires_s=99,
        ack_ms=3000,
        notifier_ack_ms=30000,
        count=len(states) if len(states) > 1 else 0,
    )
    if broadcast:
        return PushRecord(n, [], {"sent": 3, "acked": 2}, State.ACCEPTED)
    outcomes = [Outcome(seq + i, seq, 1, app, s, 0, [Step(6, "sent", "edge")]) for i, s in enumerate(states)]
    figures: dict[str, int] = {}
    for state in states:
        figures[State(state).name.lower()] = figures.get(State(state).name.lower(), 0) + 1
    return PushRecord(n, outcomes, figures, None)


class Door:
    """A provider door over in-memory floors, and clients of it."""

    def __init__(self, *, heartbeat_s: float = 15.0, **config: Any) -> None:
        self.floors = Floors()
        self.operator_key = build_key_text(OPERATOR_ID)
        parsed = parse_key(self.operator_key)
        assert parsed is not None
        self.config = Api(port=0, **config)
        self.metrics = Metrics(process=False)
        self.keys = ApiKeys(self.floors, hash_secret(parsed.secret))
        self.push_ids = PushIds(b"k" * 32)
        directory: Any = DirectoryView(self.floors)
        self.counts, self.kept, self.dead = Counts(), Kept(), Dead()
        self.backend = Backend(
            config=self.config,
            keys=self.keys,
            directory=directory,
            receipts=self.floors,  # type: ignore[arg-type]
            acceptor=self.floors,
            batches=self.floors,
            dispatcher=DispatcherView(self.floors),
            memory=self.floors,
            quotas=Quotas(self.counts),
            schedules=self.kept,  # type: ignore[arg-type]
            deaths=self.dead,  # type: ignore[arg-type]
            push_ids=self.push_ids,
            metrics=self.metrics,
            is_connected=self.floors.connected.__contains__,
            readiness=lambda: self.floors.reasons,
            identity=Scene().identity,
            service_keys=ServiceKeys(b"s" * 32),
        )
        self.app_key = self.add_app("chat")
        self.other_key = self.add_app("other")
        self.token = self.add_registration(1, "chat", alias="ann", tags=["beta"])
        self.foreign_token = self.add_registration(2, "other")
        self.asgi = build_app(self.backend, heartbeat_s=heartbeat_s)

    def add_app(self, name: str) -> str:
        key, text = issue_key("test")
        self.floors.apps[name] = App(name=name, number=len(self.floors.apps) + 1, keys=[key], created_at=1)
        return text

    def add_registration(self, number: int, app: str, **fields: Any) -> str:
        token = bytes([number & 0xFF, number >> 8]) * 8
        self.floors.registrations[number] = Registration(
            number=number,
            token=token,
            device="very-secret-device",
            app=app,
            **{"version": "1.0", **fields},
            addresses={"webhook": "https://address.example/secret"},
            created_at=3,
        )
        return build_token(token)

    def client(self, key: str | None = None, **options: Any) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        transport = options.pop("transport", None) or httpx.ASGITransport(self.asgi)
        return httpx.AsyncClient(
            transport=transport, base_url="http://door", headers=headers | options.pop("headers", {}), **options
        )

    def provider(self, **options: Any) -> httpx.AsyncClient:
        return self.client(self.app_key, **options)

    def operator(self, **options: Any) -> httpx.AsyncClient:
        return self.client(self.operator_key, **options)

    def to_token(self, **more: Any) -> dict[str, Any]:
        return {"target": {"token": self.token}, "title": "hi", **more}


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of an answer, after a check of its shape."""
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"code", "name", "message", "field", "retry_after_ms"}
    if error["retry_after_ms"] is not None:
        assert int(response.headers["retry-after"]) * 1000 >= error["retry_after_ms"]
    return error
