"""Apps are rows of partition 0; here they are copied into all other partitions and into the books of all nodes. A
change must never be answered before it is durable wherever it can be, nor an older record take the place of a newer.

The owner of partition 0 tells each node of a change and waits until its cores have it. A node that could not be reached
then finds out by itself: it compares one number with partition 0 every PULL_S, which is the sum of all apps' changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from urllib.parse import unquote

import msgspec
import structlog

from gateway.fleet.app_book import AppBook, mark_of
from gateway.fleet.calls import Answered, Asked
from gateway.fleet.owners import Owners
from gateway.fleet.ports import Core
from gateway.metrics import Metric, Metrics
from gateway.model.errors import AcceptTimeout, BadRequest, GatewayError, NodeUnreachable, StoreUnavailable
from gateway.model.registration import App

log = structlog.get_logger("gateway.fleet")

#: the partition whose apps are copied
SOURCE = 0
PULL_S = 1.0
#: a book that was not compared for so many of them may lack a key
FRESH_PULLS = 4
#: records in one message
PAGE = 200
_PUT, _MARK, _AFTER, _MAKE = "apps.put", "apps.mark", "apps.after", "apps.make"
_CHANGING = frozenset({"POST", "PATCH", "PUT", "DELETE"})
_encode = msgspec.msgpack.Encoder().encode
_decode_records = msgspec.msgpack.Decoder(list[bytes]).decode


def parse_records(raw: bytes) -> list[bytes]:
    """BadRequest."""
    try:
        return _decode_records(raw)
    except (msgspec.DecodeError, ValueError) as error:
        raise BadRequest("these are no records of apps") from error


class AppCopies:
    """Control thread only."""

    def __init__(self, owners: Owners, book: AppBook, metrics: Metrics, *, pull_s: float = PULL_S) -> None:
        self._owners = owners
        self._book = book
        self._metrics = metrics
        self._pull_s = pull_s
        self._pulling: asyncio.Task[None] | None = None
        #: being adopted, by partition
        self._coming: dict[int, Core] = {}
        #: is the book as partition 0 had it, once since the start?
        self.is_filled = asyncio.Event()
        self._pulled_at = float("-inf")  # monotonic
        owners.bus.serve(_PUT, self._on_put)
        owners.serve(_MARK, self._on_mark)
        owners.serve(_AFTER, self._on_after)
        owners.serve(_MAKE, self._on_make)

    def is_fresh(self) -> bool:
        """The book had a moment ago what partition 0 has."""
        return time.monotonic() - self._pulled_at < FRESH_PULLS * self._pull_s

    def start(self) -> None:
        self._pulling = asyncio.get_running_loop().create_task(self._pull_on(), name="copies of apps")

    async def close(self) -> None:
        if self._pulling is not None:
            self._pulling.cancel()
            await asyncio.gather(self._pulling, return_exceptions=True)

    # --- at the owner of partition 0

    async def hear(self, core: Core, asked: Asked, answered: Answered) -> None:
        """Its door has answered: where an app was changed, all have it when this returns."""
        parts = asked.path.split("/")
        if core.partition != SOURCE or asked.method not in _CHANGING or parts[1:3] != ["v1", "apps"]:
            return
        if not 200 <= answered.status < 300:
            return
        if len(parts) > 3:
            await self.spread(core, parts[3])
            return
        location = dict(answered.headers).get(b"location", b"").decode()
        await self.spread(core, unquote(location.removeprefix("/v1/apps/")))

    async def spread(self, source: Core, name: str) -> None:
        """Into every node's book and every partition that can be reached."""
        raw = source.apps.export_app(name)
        if raw is None:
            return
        body, bus = _encode([raw]), self._owners.bus
        others = [member.number for member in self._owners.members.all() if member.number != bus.number]
        # half of what the provider's own node waits for us
        waits_s = self._owners.timeout_s / 2
        told = await asyncio.gather(
            self._take([raw]),
            *(bus.ask(number, _PUT, body, timeout_s=waits_s) for number in others),
            return_exceptions=True,
        )
        late = sum(isinstance(result, BaseException) for result in told)
        if late:
            self._metrics.count(Metric.FLEET_APPS_LATE, late)
            log.warning("a change of an app has not reached all nodes yet", nodes=late)

    async def _on_make(self, core: Core, body: bytes) -> bytes:
        try:
            name = body.decode()
        except UnicodeDecodeError as error:
            raise BadRequest("this is no name of an app") from error
        if core.apps.app(name) is None:
            await core.apps.put_app(App(name=name, created_at=time.time_ns() // 1_000_000_000))
            core.backend.app_changes += 1
        await self.spread(core, name)
        return b""

    def _on_mark(self, core: Core, _: bytes) -> bytes:
        apps = [app for name in core.apps.app_names() if (app := core.apps.app(name)) is not None]
        return _encode(mark_of(apps))

    def _on_after(self, core: Core, body: bytes) -> bytes:
        after = body.decode("utf-8", "replace")
        names = sorted(name for name in core.apps.app_names() if name > after)[:PAGE]
        return _encode([raw for name in names if (raw := core.apps.export_app(name)) is not None])

    # --- at every node

    def _on_put(self, sender: int, body: bytes) -> Awaitable[bytes]:  # noqa: ARG002
        return self._put(parse_records(body))

    async def _put(self, records: list[bytes]) -> bytes:
        await self._take(records)
        return b""

    async def _take(self, records: list[bytes]) -> None:
        """Into the book first, so that a core adopted meanwhile finds them there; durable in all cores when it
        returns."""
        for raw in records:
            self._book.put(raw)
        await self._catch_up_all()

    async def _catch_up_all(self) -> None:
        """Those that are being adopted too. Raises what went wrong with one, when the others have it."""
        cores = self._owners.cores
        self._coming = {p: core for p, core in self._coming.items() if cores.get(p) is not core}
        wrong: GatewayError | None = None
        for core in (*cores.values(), *self._coming.values()):
            try:
                await self.catch_up(core)
            except GatewayError as error:
                wrong = wrong or error
                if self._coming.get(core.partition) is core:  # it came to nothing
                    del self._coming[core.partition]
        if wrong is not None:
            raise wrong

    async def welcome(self, core: Core) -> None:
        """A partition is being adopted: it has all apps when this returns, and gets what changes before it answers."""
        self._coming[core.partition] = core
        await self.catch_up(core)

    async def catch_up(self, core: Core) -> None:
        """Give a core what it lacks."""
        if core.partition == SOURCE:
            return
        writing = []
        for name in self._book.app_names():
            app, known = self._book.app(name), core.apps.app(name)
            if app is not None and (known is None or known.changes < app.changes):
                writing.append(core.apps.import_app(self._book.raw(name)))
        for written in writing:
            app = await written
            core.backend.keys.update(app)
            core.backend.app_changes += 1

    async def make(self, name: str) -> None:
        """An app without a key, where it is not there; as soon as partition 0 has an owner."""
        while True:
            try:
                await self._owners.ask(SOURCE, _MAKE, name.encode())
                return
            except (NodeUnreachable, StoreUnavailable, AcceptTimeout):
                await asyncio.sleep(self._pull_s)

    async def _pull_on(self) -> None:
        while True:
            # said by the metric of unreachable partitions; it goes on until it works
            with contextlib.suppress(GatewayError, ValueError):
                await self.pull()
            await asyncio.sleep(self._pull_s)

    async def pull(self) -> None:
        """Compare with partition 0, and take what is newer there. GatewayError, ValueError."""
        asked_at = time.monotonic()
        raw = await self._owners.ask(SOURCE, _MARK, b"")
        mark = msgspec.msgpack.decode(raw, type=int)
        if mark != self._book.mark:
            after = ""
            while records := parse_records(await self._owners.ask(SOURCE, _AFTER, after.encode())):
                for record in records:
                    self._book.put(record)
                after = max(self._name(record) for record in records)
        await self._catch_up_all()
        self.is_filled.set()
        self._pulled_at = asked_at

    def _name(self, record: bytes) -> str:
        return msgspec.msgpack.decode(record, type=_Named).name


class _Named(msgspec.Struct):
    name: str
