"""Providers of a fleet: they push at every node, come again with the same key where no answer came, recall now and
then, and follow the receipts; all of it is written into the history.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import zip_longest
from typing import Any

import httpx
from fleet_crowd import COLOURS, VERSIONS, FleetCrowd
from fleet_history import Answered, Asked, Became, History, Looked, RecallAsked, Recalled, Receipted, Tried

from gateway.client.provider import Provider, PushResult
from gateway.model.errors import GatewayError
from gateway.tour.fleet_home import FleetHome, GatewayNode

APPS = ("shop", "mail")
_REQUEST_S = 8.0
_STREAM_LOGIN_S = 5.0
#: a request to a node that is not there is given up so soon
_CONNECT_S = 1.0
_RANGES: dict[str, tuple[str, ...]] = {">=2.0": ("2.0", "3.1"), "<2": ("1.0", "1.5"), "": VERSIONS}
#: receipts of a page, of as many as the feed gives
_PAGE = 500
_REPEATERS = 3
_SETTLERS = 16
#: pushes of a stream at once
_STREAMED = 10


class _Row:
    """A push that may be tried again: only with a key."""

    def __init__(self, op: str, app: str, request: dict[str, Any], key: str) -> None:
        self.op = op
        self.app = app
        self.request = {**request, "idempotency_key": key} if key else request
        self.has_key = bool(key)
        self.id = ""


class FleetProvider:
    def __init__(self, home: FleetHome, crowd: FleetCrowd, history: History, rng: random.Random) -> None:
        self._home = home
        self._crowd = crowd
        self._history = history
        self._rng = rng
        self._keys: dict[str, str] = {}
        self._http = httpx.AsyncClient(
            trust_env=False,
            timeout=httpx.Timeout(_REQUEST_S, connect=_CONNECT_S),
            limits=httpx.Limits(max_connections=128, max_keepalive_connections=64),
        )
        self._made = 0
        self._doubts: deque[_Row] = deque()  # with a key: to be tried again
        self._taken: deque[_Row] = deque(maxlen=300)
        self._ids: dict[str, tuple[str, str]] = {}  # op → app, id
        self._spooled: dict[str, tuple[str, str]] = {}  # the same, of those in a node's spool
        self._cursors = dict.fromkeys(APPS, 0)
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._reg_of: dict[str, str] = {}
        self.counts: Counter[str] = Counter()

    # --- life -----------------------------------------------------------------------------------------------------

    async def create_apps(self) -> None:
        """With a key each, that all nodes know when it returns."""
        admin = {"authorization": f"Bearer {self._home.admin_key()}"}
        node = self._home.nodes[0]
        for app in APPS:
            answer = await self._http.post(f"{node.api}/v1/apps", headers=admin, json={"name": app})
            assert answer.status_code == 201, answer.text
            self._keys[app] = answer.json()["key"]
        end = time.monotonic() + 15
        for app in APPS:
            for node in self._home.nodes:
                while (await self._call(node, app, "GET", "/v1/receipts?after=0&limit=1&wait=0")).status_code != 200:
                    assert time.monotonic() < end, f"{node.name} does not know {app}"
                    await asyncio.sleep(0.05)

    def start(self, workers: int, pause_s: float) -> None:
        """`workers` push, each with such a pause between two."""

        async def push() -> None:
            await self._push_one()
            await asyncio.sleep(self._rng.uniform(0, 2 * pause_s))

        async def batch() -> None:
            await self._push_batch()
            await asyncio.sleep(self._rng.uniform(0, 8 * pause_s))

        others = [batch, *[self._repeat] * _REPEATERS, self._recall, *(self._follower(app) for app in APPS)]
        others += [self._streamer(node) for node in self._home.nodes]
        self._tasks = [asyncio.create_task(self._go_on(one)) for one in [*[push] * workers, *others]]

    async def stop(self) -> None:
        """No new pushes; returns when the last request is answered or given up."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    async def _go_on(self, one: Callable[[], Awaitable[None]]) -> None:
        while not self._stopping:
            try:
                await one()
            except httpx.HTTPError:
                await asyncio.sleep(0.05)

    def _choose_node(self) -> GatewayNode:
        """Any: a provider does not know which are dead."""
        return self._rng.choice(self._home.nodes)

    async def _call(self, node: GatewayNode, app: str, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self._keys[app]}", **options.pop("headers", {})}
        return await self._http.request(method, f"{node.api}{path}", headers=headers, **options)

    # --- pushes ---------------------------------------------------------------------------------------------------

    def _compose(self, *, single: bool = False) -> _Row:
        """A push of some kind, written down before its first try."""
        rng = self._rng
        self._made += 1
        op = f"p{self._made}"
        kinds = ("token", "brief", "alias", "tag", "versions", "scheduled")
        kind = "token" if single else rng.choices(kinds, (70, 4, 10, 4, 4, 8))[0]
        request: dict[str, Any] = {"title": op}
        asked = Asked(op=op, kind=kind, app="shop", wanted=[])
        if kind in ("token", "brief", "scheduled"):
            device = rng.choice(self._crowd.devices)
            name = rng.choice(sorted(device.tokens))
            asked.app, asked.wanted = name.split("/")[1], [name]
            request["target"] = {"token": device.tokens[name]}
            if kind == "brief":
                asked.ttl_s = request["ttl"] = rng.randrange(1, 4)
            elif kind == "scheduled":
                asked.kept = True
                request["deliver_at"] = int(time.time()) + rng.randrange(1, 5)
        elif kind == "alias":
            alias = rng.choice(self._crowd.devices).alias
            asked.kept = True
            asked.wanted = [n for d in self._crowd.devices if d.alias == alias for n in d.names if "/shop/" in n]
            request["target"] = {"alias": alias}
        elif kind == "tag":
            tag = rng.choice(COLOURS)
            asked.kept = True
            asked.wanted = [n for d in self._crowd.devices if d.colour == tag for n in d.names if "/shop/" in n]
            request["target"] = {"tag": tag}
        else:
            versions = rng.choice(sorted(_RANGES))
            asked.broadcast = True
            asked.wanted = [d.of_app("shop") for d in self._crowd.devices if d.version in _RANGES[versions]]
            request["target"] = {"versions": versions} if versions else {"everyone": True}
        if rng.random() < 0.3:
            request["data"] = {"filling": "x" * rng.randrange(1, 2_000)}
            if not asked.broadcast and rng.random() < 0.3:
                request["body"] = "on_demand"
        if kind == "token" and rng.random() < 0.05:
            asked.collapse = True
            request["collapse_key"] = "news"
        asked.key = rng.random() < 0.6
        self._history.note(asked)
        return _Row(op, asked.app, request, f"key {op}" if asked.key else "")

    async def _push_one(self) -> None:
        await self._try(self._compose(), self._choose_node())

    async def _try(self, row: _Row, node: GatewayNode) -> None:
        with contextlib.suppress(httpx.HTTPError, ValueError):
            await self._send(row, node)

    async def _send(self, row: _Row, node: GatewayNode) -> httpx.Response:
        self._history.note(Tried(op=row.op, node=node.name))
        try:
            answer = await self._call(node, row.app, "POST", "/v1/push", json=row.request)
            told = answer.json()
        except (httpx.HTTPError, ValueError):
            self._note(row, node, 0, {})
            raise
        self._note(row, node, answer.status_code, told, retry_after="retry-after" in answer.headers)
        return answer

    async def push_as(
        self, op: str, app: str, request: dict[str, Any], node: GatewayNode, *, key: str = ""
    ) -> httpx.Response:
        """One try of a push that was written down; httpx.HTTPError where nothing came of it."""
        return await self._send(_Row(op, app, request, key), node)

    def _note(
        self, row: _Row, node: GatewayNode, status: int, told: dict[str, Any], *, retry_after: bool = False
    ) -> None:
        error = told.get("error", {})
        name = error.get("name", "") if isinstance(error, dict) else str(error)
        self.counts[f"{status} {name}".strip()] += 1
        taken = status in (200, 201, 202)
        row.id = told["id"] if taken else row.id
        self._history.note(
            Answered(
                op=row.op,
                node=node.name,
                status=status,
                id=row.id if taken else "",
                error=name,
                retry_after=retry_after or "retry_after_ms" in (error if isinstance(error, dict) else told),
            )
        )
        if taken:
            (self._spooled if status == 202 else self._ids)[row.op] = row.app, row.id
            self._taken.append(row)
        elif row.has_key and status in (0, 503):
            self._doubts.append(row)

    async def _push_batch(self) -> None:
        app = "shop"
        rows = [row for _ in range(self._rng.randrange(5, 25)) if (row := self._compose()).app == app]
        node = self._choose_node()
        results: list[dict[str, Any]] = []
        for row in rows:
            self._history.note(Tried(op=row.op, node=node.name))
        body = b"".join(json.dumps(row.request).encode() + b"\n" for row in rows)
        headers = {"authorization": f"Bearer {self._keys[app]}", "content-type": "application/x-ndjson"}
        whole: dict[str, Any] = {}
        try:
            url = f"{node.api}/v1/push/batch"
            async with self._http.stream("POST", url, content=body, headers=headers) as answer:
                lines = [line async for line in answer.aiter_lines()]
                if answer.status_code == 200:
                    results = [json.loads(line) for line in lines if line.endswith("}")]
                else:
                    whole = {"status": answer.status_code, "retry_after": "retry-after" in answer.headers}
                    whole["told"] = json.loads("\n".join(lines))
        except (httpx.HTTPError, ValueError):
            pass
        for row, result in zip(rows, results, strict=False):
            self._note(row, node, result.get("status", 0), result)
        for row in rows[len(results) :]:
            told, retry_after = whole.get("told", {}), bool(whole.get("retry_after"))
            self._note(row, node, whole.get("status", 0), told, retry_after=retry_after)

    def _streamer(self, node: GatewayNode) -> Callable[[], Awaitable[None]]:
        """The SDK's provider stream to one node, anew after each failure."""

        async def stream() -> None:
            await asyncio.sleep(self._rng.uniform(0.2, 1.0))
            provider = Provider(*node.devices, key=self._keys["shop"])
            try:
                async with asyncio.timeout(_STREAM_LOGIN_S):
                    await provider.__aenter__()
                while not self._stopping:
                    await self._push_stream(provider, node)
                    await asyncio.sleep(self._rng.uniform(0.2, 1.0))
            except (OSError, TimeoutError, GatewayError):
                await asyncio.sleep(0.5)
            finally:
                await provider.close()

        return stream

    async def _push_stream(self, provider: Provider, node: GatewayNode) -> None:
        """Raises where the stream is to be made anew."""
        rows = [row for _ in range(self._rng.randrange(1, _STREAMED)) if (row := self._compose()).app == "shop"]
        for row in rows:
            self._history.note(Tried(op=row.op, node=node.name))
        results: list[PushResult | GatewayError] = []
        try:
            async with asyncio.timeout(_REQUEST_S):
                results = await provider.push_many([row.request for row in rows])
        finally:
            for row, result in zip_longest(rows, results):
                self._note_result(row, node, result)

    def _note_result(self, row: _Row, node: GatewayNode, result: PushResult | GatewayError | None) -> None:
        if isinstance(result, PushResult):
            self.counts["by a stream"] += 1
            self._note(row, node, 201, {"id": result.id})
        elif result is None:  # the stream was cut
            self._note(row, node, 0, {})
        else:
            self._note(row, node, result.status, {"error": {"name": result.name}}, retry_after=result.after_ms > 0)

    async def _repeat(self) -> None:
        """What is in doubt is sent again, and now and then what is not, at any node."""
        await asyncio.sleep(0.05)
        if self._doubts:
            row = self._doubts.popleft()
            await self._try(row, self._choose_node())
            if not row.id:
                await asyncio.sleep(0.2)
            return
        known = [row for row in self._taken if row.has_key]
        if known and self._rng.random() < 0.2:
            await self._try(self._rng.choice(known), self._choose_node())

    async def _recall(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.1, 0.6))
        if not self._taken:
            return
        row = self._rng.choice(self._taken)
        self._history.note(RecallAsked(op=row.op))
        node = self._choose_node()
        try:
            answer = await self._call(node, row.app, "DELETE", f"/v1/push/{row.id}")
            self._history.note(Recalled(op=row.op, status=answer.status_code))
        except httpx.HTTPError:
            self._history.note(Recalled(op=row.op, status=0))

    # --- receipts -------------------------------------------------------------------------------------------------

    def _follower(self, app: str) -> Callable[[], Awaitable[None]]:
        async def follow() -> None:
            if not await self._follow(app, wait=1):
                await asyncio.sleep(0.05)

        return follow

    async def _follow(self, app: str, *, wait: int) -> int:
        rows = await self._page(app, self._cursors[app], wait)
        for row in rows:
            self._note_receipt(app, row)
        if rows:
            self._cursors[app] = rows[-1]["cursor"]
        return len(rows)

    async def _page(self, app: str, after: int, wait: int) -> list[dict[str, Any]]:
        path = f"/v1/receipts?after={after}&limit={_PAGE}&wait={wait}"
        answer = await self._call(self._choose_node(), app, "GET", path)
        self.counts[f"receipts {answer.status_code} {answer.headers.get('heliograph-feed', '')}".strip()] += 1
        if answer.status_code != 200:
            await asyncio.sleep(0.1)
            return []
        return list(answer.json()["receipts"])

    def _name(self, token: str | None) -> str:
        """The registration's; empty where it is nobody's."""
        if not self._reg_of:
            self._reg_of = {token: name for d in self._crowd.devices for name, token in d.tokens.items()}
        return self._reg_of.get(token or "", "")

    def _note_receipt(self, app: str, row: dict[str, Any], *, whole: bool = False) -> None:
        self._history.note(
            Receipted(
                app=app,
                cursor=row["cursor"],
                push=row["push"] or "",
                delivery=row["delivery"],
                reg=self._name(row["token"]),
                state=row["state"],
                whole=whole,
            )
        )

    # --- the end --------------------------------------------------------------------------------------------------

    async def settle(self, timeout_s: float) -> None:
        """Everything with a key has its answer. TimeoutError."""

        async def settle() -> None:
            while self._doubts:
                row = self._doubts.popleft()
                await self._try(row, self._choose_node())
                if not row.id:
                    await asyncio.sleep(0.1)

        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*(settle() for _ in range(_SETTLERS)))

    async def empty_spools(self, timeout_s: float) -> None:
        """What nodes kept is taken in, or over. TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while self._spooled:
                for op, (app, spool_id) in list(self._spooled.items()):
                    answer = await self._call(self._choose_node(), app, "GET", f"/v1/push/{spool_id}")
                    told = answer.json()
                    if answer.status_code == 200:
                        self._ids[op] = app, told["id"]
                        self._history.note(Became(op=op, id=told["id"]))
                    elif answer.status_code != 202 or told["state"] == "spooled":
                        await asyncio.sleep(0.1)
                        continue
                    else:
                        self._history.note(Became(op=op, state=told["state"]))
                    del self._spooled[op]

    async def follow_to_the_end(self, quiet_s: float = 3.0) -> None:
        """Until nothing came for a while."""
        for app in APPS:
            end = time.monotonic() + quiet_s
            while time.monotonic() < end:
                if await self._follow(app, wait=0):
                    end = time.monotonic() + quiet_s
                else:
                    await asyncio.sleep(0.1)

    async def read_whole_feeds(self) -> None:
        for app in APPS:
            after = 0
            while rows := await self._page(app, after, 0):
                for row in rows:
                    self._note_receipt(app, row, whole=True)
                after = rows[-1]["cursor"]

    async def look_up(self, ops: Sequence[str], at_once: int = 16) -> None:
        """Where is my push? At any node."""
        gate = asyncio.Semaphore(at_once)

        async def look(op: str) -> None:
            app, push_id = self._ids[op]
            async with gate:
                node = self._choose_node()
                answer = await self._call(node, app, "GET", f"/v1/push/{push_id}?limit=200")
            looked = Looked(op=op, node=node.name, status=answer.status_code)
            if answer.status_code == 200:
                told = answer.json()
                looked.state = told["state"]
                looked.deliveries = [(self._name(one["token"]), one["state"]) for one in told["deliveries"]]
            self._history.note(looked)

        await asyncio.gather(*(look(op) for op in ops))

    def ids_of(self, ops: Sequence[str]) -> list[str]:
        return [self._ids[op][1] for op in ops]

    @property
    def taken(self) -> list[str]:
        """Every push that was answered 201, by its op."""
        return list(self._ids)
