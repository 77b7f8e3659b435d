"""A provider under load: every kind of push, repeated where no answer came, and a record of what was answered."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import httpx
from chaos_crowd import APP, ChaosDevice, Crowd, Temper
from chaos_gateway import GatewayProcess
from chaos_ledger import Ledger, Push

#: an alias nobody has: a push to it is answered after its commit, and reaches nobody
NOBODY = "nobody"
_VERSIONS = {"": None, ">=2.0": ("2.0", "3.1"), "<2": ("1.0", "1.5"), "==1.5": ("1.5",)}


class Door:
    """The provider door over HTTP. What raises httpx.TransportError was not answered."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self._http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{gateway.api_port}",
            timeout=20,
            trust_env=False,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=64),
        )

    async def __aenter__(self) -> Door:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def create_app(self) -> None:
        admin = (self._gateway.store / "admin.key").read_text().strip()
        answer = await self._http.post("/v1/apps", headers={"authorization": f"Bearer {admin}"}, json={"name": APP})
        assert answer.status_code == 201, answer.text
        self._http.headers["authorization"] = f"Bearer {answer.json()['key']}"

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self._http.request(method, path, **options)

    async def push(self, target: dict[str, Any], title: str, **fields: Any) -> httpx.Response:
        return await self.call("POST", "/v1/push", json={"target": target, "title": title, **fields})

    async def accept(self, target: dict[str, Any], title: str, **fields: Any) -> str:
        """Push what must be taken; returns the push id."""
        answer = await self.push(target, title, **fields)
        assert answer.status_code == 201, f"{answer.status_code} {answer.text}"
        return str(answer.json()["id"])

    async def look(self, push_id: str) -> dict[str, Any]:
        answer = await self.call("GET", f"/v1/push/{push_id}")
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        return dict(answer.json())

    async def ready(self) -> tuple[int, list[str]]:
        answer = await self.call("GET", "/readyz")
        return answer.status_code, list(answer.json()["reasons"])

    async def receipts(self, after: int, *, limit: int = 500, wait: int = 0) -> list[dict[str, Any]]:
        answer = await self.call("GET", f"/v1/receipts?after={after}&limit={limit}&wait={wait}")
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        return list(answer.json()["receipts"])

    async def two_commits(self) -> None:
        """Everything the gateway processed before this is durable when it returns: see chaos_ledger."""
        for _ in range(2):
            await self.accept({"alias": NOBODY}, "proof")

    async def stream_batch(self, items: Sequence[dict[str, Any]], answers: list[dict[str, Any]]) -> None:
        """Results go into `answers` as they come, also where the rest never comes."""
        body = b"".join(json.dumps(item).encode() + b"\n" for item in items)
        headers = {"content-type": "application/x-ndjson"}
        async with self._http.stream("POST", "/v1/push/batch", content=body, headers=headers) as answer:
            async for line in answer.aiter_lines():
                if line.endswith("}"):
                    answers.append(json.loads(line))


class Provider:
    """Workers that push while the gateway is there, and write down what became of it."""

    def __init__(self, gateway: GatewayProcess, door: Door, crowd: Crowd, ledger: Ledger, rng: random.Random) -> None:
        self._gateway = gateway
        self._door = door
        self._crowd = crowd
        self._ledger = ledger
        self._rng = rng
        self._made = 0
        self._requests: dict[str, dict[str, Any]] = {}  # of pushes with a key: what to repeat
        self._unanswered: list[Push] = []  # with a key
        self._recent: list[Push] = []
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        aliases: dict[str, set[int]] = {}
        tags: dict[str, set[int]] = {}
        for device in crowd.devices:
            aliases.setdefault(device.alias, set()).add(device.number)
            for tag in device.tags:
                tags.setdefault(tag, set()).add(device.number)
        aliases.pop("", None)
        self._aliases = {alias: frozenset(numbers) for alias, numbers in aliases.items()}
        self._tags = {tag: frozenset(numbers) for tag, numbers in tags.items()}
        self._sleepers = [device for device in crowd.devices if device.temper is Temper.SLEEPER]

    # --- life

    def start(self, workers: int = 8) -> None:
        work = [self._work, self._work_batches, self._repeat, self._recall, self._prove, self._follow]
        self._tasks = [asyncio.create_task(self._go_on(one)) for one in [*work, *[self._work] * (workers - 1)]]

    async def stop(self) -> None:
        """No new pushes; returns when the last request is answered or given up."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _go_on(self, one: Any) -> None:
        while not self._stopping:
            await self._gateway.serving.wait()
            try:
                await one()
            except httpx.TransportError:
                await asyncio.sleep(0.01)

    # --- pushes

    def _choose(self) -> tuple[Push, dict[str, Any]]:
        """A push of some kind, with the request that asks for it; written down."""
        rng = self._rng
        self._made += 1
        mark = f"p{self._made}"
        kind = rng.choices(("token", "away", "tag", "alias", "versions"), (60, 10, 6, 20, 4))[0]
        target: dict[str, Any]
        if kind in ("token", "away"):
            device: ChaosDevice = rng.choice(self._sleepers if kind == "away" else self._crowd.devices)
            target, expected = {"token": device.token}, frozenset((device.number,))
        elif kind == "tag":
            tag = rng.choice(sorted(self._tags))
            # the same people, found one by one
            target = {"tag": tag} if rng.random() < 0.5 else {"where": {"any": [{"tag": tag}, {"tag": "none"}]}}
            expected = self._tags[tag]
        elif kind == "alias":
            alias = rng.choice(sorted(self._aliases))
            target, expected = {"alias": alias}, self._aliases[alias]
        else:
            versions = rng.choice(sorted(_VERSIONS))
            wanted = _VERSIONS[versions]
            target = {"versions": versions} if versions else {"everyone": True}
            expected = frozenset(d.number for d in self._crowd.devices if wanted is None or d.version in wanted)
        request: dict[str, Any] = {"target": target, "title": mark}
        if rng.random() < 0.3:
            request["data"] = {"filling": "x" * rng.randrange(1, 2_000)}
            if kind != "versions" and rng.random() < 0.3:
                request["body"] = "on_demand"
        is_kept = "where" in target
        if rng.random() < 0.2:
            is_kept = True
            request["deliver_at"] = int(time.time()) + rng.randrange(3)
        key = f"key {mark}" if rng.random() < 0.35 else ""
        push = self._ledger.intend(Push(mark, kind, expected, kind == "versions", key, kept=is_kept))
        if key:
            self._requests[mark] = request
        return push, request

    async def _work(self) -> None:
        push, request = self._choose()
        await self._send(push, request)

    async def _send(self, push: Push, request: dict[str, Any]) -> None:
        headers = {"idempotency-key": push.key} if push.key else None
        try:
            answer = await self._door.call("POST", "/v1/push", json=request, headers=headers)
        except BaseException:
            self._give_up(push)
            raise
        self._note(push, answer.status_code, answer.json())

    def _note(self, push: Push, status: int, answer: dict[str, Any]) -> None:
        if status in (200, 201):
            self._ledger.accepted(push, answer["id"], replay=status == 200, targeted=answer.get("targeted"))
            self._recent.append(push)
            del self._recent[:-200]
        else:
            self._ledger.violate(f"{push.mark} ({push.kind}) was refused: {status} {answer}")

    def _give_up(self, push: Push) -> None:
        self._ledger.counts["not answered"] += 1
        if push.key:
            self._unanswered.append(push)

    async def _work_batches(self) -> None:
        chosen = [self._choose() for _ in range(self._rng.randrange(5, 30))]
        items = [{**request, "idempotency_key": push.key} if push.key else request for push, request in chosen]
        answers: list[dict[str, Any]] = []
        try:
            await self._door.stream_batch(items, answers)
        finally:
            for (push, _), answer in zip(chosen, answers, strict=False):
                self._note(push, answer["status"], answer)
            for push, _ in chosen[len(answers) :]:
                self._give_up(push)

    async def _repeat(self) -> None:
        """What was not answered is sent again with its key; and now and then what was."""
        if self._unanswered:
            push = self._unanswered.pop()
            self._ledger.counts["repeated with its key"] += 1
            await self._send(push, self._requests[push.mark])
            return
        answered = [push for push in self._recent if push.key]
        if answered:
            push = self._rng.choice(answered)
            await self._send(push, self._requests[push.mark])
        await asyncio.sleep(0.02)

    async def _recall(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.01, 0.1))
        candidates = [push for push in self._recent if not push.recalled_at]
        if not candidates:
            return
        push = self._rng.choice(candidates)
        if push.broadcast and self._rng.random() < 0.5:
            return
        self._ledger.recall_asked(push)
        answer = await self._door.call("DELETE", f"/v1/push/{push.answered}")
        if answer.status_code == 200:
            self._ledger.recalled(push)
        elif answer.status_code != 404 or push.key or len(push.expected) != 1 or push.broadcast:
            self._ledger.violate(f"the recall of {push.mark} ({push.kind}) was refused: {answer.status_code}")

    # --- proofs

    async def _prove(self) -> None:
        """What was processed before two commits is durable."""
        generation = self._gateway.generation
        pairs = self._ledger.unproved(generation)
        await self._door.two_commits()
        if self._gateway.generation == generation:
            self._ledger.durable(pairs)
        await asyncio.sleep(0.05)

    async def _follow(self) -> None:
        await self.follow_once(wait=1)

    async def follow_once(self, *, wait: int = 0) -> int:
        """The next page of the feed after the last cursor seen, over all restarts."""
        rows = await self._door.receipts(self._ledger.cursor, wait=wait)
        for row in rows:
            self._ledger.receipt(row["cursor"], row["push"], row["delivery"], row["state"], row["token"] or "")
        return len(rows)

    # --- the end

    async def settle(self) -> None:
        """Everything with a key gets its answer, and everything that waits for its time is on its way."""
        while self._unanswered:
            push = self._unanswered.pop()
            await self._send(push, self._requests[push.mark])
        async with asyncio.timeout(60):
            while (await self._door.call("GET", "/v1/scheduled?limit=0")).json()["count"]:
                await asyncio.sleep(0.05)
        await self._door.two_commits()

    async def follow_to_the_end(self) -> None:
        await self._door.two_commits()
        while await self.follow_once():
            pass

    async def read_whole_feed(self) -> list[tuple[int, str, int]]:
        feed: list[tuple[int, str, int]] = []
        while rows := await self._door.receipts(feed[-1][0] if feed else 0, limit=1_000):
            feed += [(row["cursor"], row["push"], row["delivery"]) for row in rows]
        return feed
