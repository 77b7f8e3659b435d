"""A gateway that was alone, with devices, pushes and schedules, becomes a fleet on three real NATS servers: devices and
providers go on where they were, and the import may die at any moment."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bare_device import BareDevice

from gateway.client import Device, MemoryCredentials, Registration
from gateway.client.content import Notification
from gateway.tour.fleet_home import FleetHome, GatewayNode, NotStarted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

APP = "shop"
PARTITIONS = 8
SETTINGS = ("cluster.lease_s=1.5", "cluster.beat_s=0.3")


class Phone:
    """One device over all of it: what its app was shown, and the token it was given."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shown: Counter[str] = Counter()
        self.token = ""
        self._store = MemoryCredentials()
        self._device: Device | None = None
        self._made: Registration

    async def come(self, node: GatewayNode, **labels: Any) -> str:
        self._device = Device(*node.devices, store=self._store, heartbeat=1)
        self._device.start()
        made = await asyncio.wait_for(self._device.register(APP, "1.0", on_message=self._on_message, **labels), 60)
        self._made = made
        self.token = made.token
        return made.token

    def _on_message(self, notification: Notification) -> None:
        self.shown[notification.title] += 1

    async def unregister(self) -> None:
        await self._made.unregister(forget=True)

    async def leave(self) -> None:
        if self._device is not None:
            await self._device.aclose()
            self._device = None

    @property
    def device_id(self) -> str:
        assert self._store.credentials is not None
        return self._store.credentials.device


class Move:
    """A gateway alone and a fleet that is not there yet."""

    def __init__(self, home: FleetHome) -> None:
        self.home = home
        self.alone = GatewayNode("alone", home.folder / "alone", home.nodes[0].host)
        self.key = ""
        self.phones: dict[str, Phone] = {}

    async def open(self) -> None:
        await self.home.start_nats()
        await self.alone.spawn()
        await self.alone.until_serving()
        operator = (self.alone.store / "admin.key").read_text().strip()
        made = await self.ask("POST", "/v1/apps", self.alone, key=operator, json={"name": APP})
        self.key = made["key"]

    async def ask(self, method: str, path: str, node: GatewayNode, key: str = "", **options: Any) -> Any:
        answer = await self.home.http.request(
            method, f"{node.api}{path}", headers={"authorization": f"Bearer {key or self.key}"}, **options
        )
        assert answer.status_code < 300, (path, answer.status_code, answer.text)
        return answer.json() if answer.content else None

    async def batch(self, node: GatewayNode, pushes: list[dict[str, Any]]) -> list[str]:
        """Ids, in the order of the pushes."""
        answer = await self.home.http.post(
            f"{node.api}/v1/push/batch",
            headers={"authorization": f"Bearer {self.key}", "content-type": "application/x-ndjson"},
            content="\n".join(map(json.dumps, pushes)),
        )
        assert answer.status_code == 200, answer.text
        results = [json.loads(line) for line in answer.text.splitlines() if line]
        return [result["id"] for result in sorted(results, key=lambda result: result["index"])]

    async def push(self, node: GatewayNode, title: str, **body: Any) -> str:
        made = await self.ask("POST", "/v1/push", node, json={"title": title, "ttl": 3_600, **body})
        return str(made["id"])

    async def phone(self, name: str, node: GatewayNode, **labels: Any) -> Phone:
        phone = self.phones[name] = self.phones.get(name) or Phone(name)
        await phone.come(node, **labels)
        return phone

    def command(self, *options: str) -> list[str]:
        settings = self.home.nodes[0].settings
        return [
            *(sys.executable, "-m", "gateway.cli", "cluster", "import", str(self.alone.store)),
            *(part for setting in (*settings, *SETTINGS) for part in ("--set", setting)),
            *("--work", str(self.home.folder / "work")),
            *options,
        ]

    async def start_import(self, *options: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(*self.command(*options), stdout=pipe, stderr=pipe)

    async def import_(self, *options: str) -> tuple[int, dict[str, Any], str]:
        """(exit code, what it printed for programs, what it said)."""
        process = await self.start_import("--json", *options)
        out, said = await asyncio.wait_for(process.communicate(), 120)
        return process.returncode or 0, json.loads(out) if out else {}, said.decode()

    async def start_fleet(self) -> None:
        await asyncio.gather(*(node.spawn() for node in self.home.nodes))
        await asyncio.gather(*(node.until_serving() for node in self.home.nodes))
        await self.home.until_ready()

    async def close(self) -> None:
        await asyncio.gather(*(phone.leave() for phone in self.phones.values()), return_exceptions=True)
        await self.alone.kill()
        await self.home.close()


@pytest.fixture
async def move(tmp_path: Path) -> AsyncIterator[Move]:
    home = FleetHome(tmp_path, nodes=2, nats=3, partitions=PARTITIONS, settings=SETTINGS)
    move = Move(home)
    try:
        await move.open()
        yield move
    finally:
        await move.close()


async def until(true: Any, timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await true():
            await asyncio.sleep(0.05)


async def test_devices_and_providers_go_on_in_the_fleet_where_the_gateway_stopped(move: Move) -> None:
    alone = move.alone
    tokens: dict[str, str] = {}
    for at in range(12):
        labels = {"tags": ["all"], "alias": "solo" if at == 5 else f"user-{at % 4}"}
        phone = await move.phone(f"p{at}", alone, **labels)
        if at % 3 == 0:  # a second token of the same triple
            await phone.unregister()
            await phone.leave()
            await phone.come(alone, **labels)
        tokens[phone.name] = phone.token
    ids: dict[str, str] = {}
    ids["live"] = await move.push(alone, "live", target={"token": tokens["p1"]})
    ids["live all"] = await move.push(alone, "live all", target={"tag": "all"})
    ids["live everyone"] = await move.push(alone, "live everyone", target={"everyone": True})
    phones = list(move.phones.values())

    async def all_shown(title: str) -> bool:
        return all(phone.shown[title] for phone in phones)

    await until(lambda: all_shown("live all"))
    await until(lambda: all_shown("live everyone"))
    feed = await move.ask("GET", "/v1/receipts?limit=5", alone)
    cursor = feed["cursor"]
    for phone in phones:
        await phone.leave()
    for name, token in tokens.items():
        ids[f"one {name}"] = await move.push(alone, f"one {name}", target={"token": token})
    batch = [{"target": {"token": token}, "title": f"batch {name}"} for name, token in tokens.items()]
    ids |= zip((f"batch {name}" for name in tokens), await move.batch(alone, batch), strict=True)
    ids["many"] = await move.push(alone, "many", target={"tag": "all"}, idempotency_key="many-1")
    ids["alias"] = await move.push(alone, "alias", target={"alias": "user-1"})
    ids["everyone"] = await move.push(alone, "everyone", target={"everyone": True})
    ids["taken back"] = await move.push(alone, "taken back", target={"tag": "all"})
    ids["one taken back"] = await move.push(alone, "one taken back", target={"token": tokens["p2"]})
    ids["solo"] = await move.push(alone, "solo", target={"alias": "solo"})
    ids["solo taken back"] = await move.push(alone, "solo taken back", target={"alias": "solo"})
    operator = (alone.store / "admin.key").read_text().strip()
    await move.ask("PATCH", f"/v1/apps/{APP}", alone, key=operator, json={"webpush": "open"})
    resources = {}
    for title in ("web", "web taken back"):
        answer = await move.home.http.post(f"{alone.api}/push/{tokens['p7']}", headers={"ttl": "3600"})
        assert answer.status_code == 201, answer.text
        resources[title] = answer.headers["location"].removeprefix(alone.api)
    ids["at once"] = await move.push(alone, "at once", target={"token": tokens["p3"]}, idempotency_key="once-1")
    soon = int(time.time()) + 25
    ids["later"] = await move.push(alone, "later", target={"token": tokens["p4"]}, deliver_at=soon)
    ids["later all"] = await move.push(alone, "later all", target={"tag": "all"}, deliver_at=soon)
    ids["later everyone"] = await move.push(alone, "later everyone", target={"everyone": True}, deliver_at=soon)
    ids["later nobody"] = await move.push(alone, "later nobody", target={"tag": "nobody"}, deliver_at=soon)
    ids["much later one"] = await move.push(
        alone, "much later one", target={"token": tokens["p6"]}, deliver_at=soon + 3_000
    )
    ids["much later"] = await move.push(alone, "much later", target={"tag": "all"}, deliver_at=soon + 3_000)
    before = await move.ask("GET", "/v1/receipts?limit=1000", alone)

    # --- it runs: nothing is touched
    code, _, said = await move.import_()
    assert code != 0
    assert "in use" in said
    await alone.terminate()
    code, dry, said = await move.import_("--dry-run")
    assert code == 0, said
    assert dry["carried"]["registrations"] == 12
    assert dry["is_dry_run"]
    code, done, said = await move.import_()
    assert code == 0, said
    assert done["carried"]["apps"] == 1
    assert done["carried"]["registrations"] == 12
    assert done["carried"]["scheduled"] == 6
    assert done["carried"]["strays"] > 0
    assert not list((move.home.folder / "work").iterdir())
    code, again, said = await move.import_()
    assert code == 0, said
    assert again["was_done"]
    await alone.spawn()
    with pytest.raises(NotStarted, match="imported into the fleet"):
        await alone.until_serving()

    # --- the fleet
    await move.start_fleet()
    first, second = move.home.nodes
    assert (first.store / "admin.key").read_text() == (alone.store / "admin.key").read_text()
    for title in ("taken back", "one taken back", "solo taken back"):
        await move.ask("DELETE", f"/v1/push/{ids[title]}", second)
    gone = await move.home.http.delete(f"{second.api}{resources['web taken back']}")
    assert gone.status_code == 204
    for at, phone in enumerate(phones):
        assert await phone.come(move.home.nodes[at % 2]) == tokens[phone.name]

    def wanted(phone: Phone) -> set[str]:
        at = int(phone.name[1:])
        titles = {f"one {phone.name}", f"batch {phone.name}", "many", "everyone", "later all", "later everyone"}
        titles |= {"live all", "live everyone"} | ({"live"} if at == 1 else set())
        titles |= {"solo"} if at == 5 else set()
        titles |= ({"alias"} if at % 4 == 1 and at != 5 else set()) | ({"at once"} if at == 3 else set())
        return titles | ({"later"} if at == 4 else set())

    async def all_came() -> bool:
        return all(wanted(phone) <= set(phone.shown) for phone in phones)

    try:
        await until(all_came)
    except TimeoutError:
        raise AssertionError({p.name: wanted(p) - set(p.shown) for p in phones}) from None
    # old ids at any node, of every kind
    for title, push_id in ids.items():
        view = await move.ask("GET", f"/v1/push/{push_id}", second)
        assert view["id"] == push_id
        assert await move.ask("GET", f"/v1/push/{push_id}/statistics", first)
        if title.startswith(("one p", "batch", "live", "many", "at once", "later p")):
            await until(lambda view=view, push_id=push_id: _is_over(move, push_id, first))
    assert (await move.ask("GET", f"/v1/push/{ids['many']}", second))["figures"]["acked"] == 12
    assert (await move.ask("GET", f"/v1/push/{ids['everyone']}/statistics", second))["acked"] == 12
    assert (await move.ask("GET", f"/v1/push/{ids['live everyone']}/statistics", second))["targeted"] == 12
    assert (await move.ask("GET", f"/v1/push/{ids['taken back']}", second))["state"] in ("recalled", "done")
    waiting = await move.ask("GET", "/v1/scheduled", first)
    assert {row["id"] for row in waiting["scheduled"]} == {ids["much later"], ids["much later one"]}
    for title in ("much later", "much later one"):
        await move.ask("DELETE", f"/v1/push/{ids[title]}", second)
        assert (await move.ask("GET", f"/v1/push/{ids[title]}", first))["state"] == "recalled"
    assert (await move.ask("GET", "/v1/scheduled", first))["count"] == 0
    # a key that was used is used
    body = {"title": "many", "ttl": 3_600, "target": {"tag": "all"}, "idempotency_key": "many-1"}
    assert (await move.ask("POST", "/v1/push", second, json=body))["id"] == ids["many"]
    body = {"title": "at once", "ttl": 3_600, "target": {"token": tokens["p3"]}, "idempotency_key": "once-1"}
    assert (await move.ask("POST", "/v1/push", first, json=body))["id"] == ids["at once"]
    # the feed goes on behind the cursor its reader had
    old = [receipt["cursor"] for receipt in before["receipts"] if receipt["cursor"] > cursor]
    page = await move.ask("GET", f"/v1/receipts?after={cursor}&limit=1000", second)
    assert [receipt["cursor"] for receipt in page["receipts"]][: len(old)] == old
    # pushes to old tokens go on, whatever their number of tokens before
    for phone in phones:
        await move.push(second, "new", target={"token": tokens[phone.name]})
    batch = [{"target": {"token": token}, "title": "new batch"} for token in tokens.values()]
    assert len(await move.batch(first, batch)) == 12
    await until(lambda: all_shown("new"))
    await until(lambda: all_shown("new batch"))
    late = await move.home.http.delete(f"{first.api}{resources['web']}")
    assert late.status_code == 410  # shown by now
    assert move.phones["p7"].shown[""] == 1
    for phone in phones:
        assert {title for title, count in phone.shown.items() if count > 1} == set(), phone.name
        assert "taken back" not in phone.shown
        assert "one taken back" not in phone.shown
        assert "solo taken back" not in phone.shown
    # and over a restart of all of it
    await asyncio.gather(*(node.kill() for node in move.home.nodes))
    await move.start_fleet()
    await move.push(first, "after", target={"token": tokens["p0"]})
    await until(lambda: _came(move.phones["p0"], "after"))
    assert [node.complaints() for node in move.home.nodes] == [[], []]


async def _came(phone: Phone, title: str) -> bool:
    return bool(phone.shown[title])


async def _is_over(move: Move, push_id: str, node: GatewayNode) -> bool:
    view = await move.ask("GET", f"/v1/push/{push_id}", node)
    return view["state"] in ("done", "live")


async def test_what_was_in_flight_comes_again_under_its_id_and_in_its_order(move: Move) -> None:
    device = BareDevice(move.alone.device_port)
    token = await device.join(APP)
    await device.register(APP, tags=["all"])
    other = BareDevice(move.alone.device_port)
    await other.join(APP)
    await other.register(APP, tags=["all"])
    await move.push(move.alone, "acked", target={"token": token})
    await device.note(ack=True)
    for title, target in (("many", {"tag": "all"}), ("one", {"token": token}), ("more", {"tag": "all"})):
        await move.push(move.alone, title, target=target)
    await move.batch(move.alone, [{"target": {"token": token}, "title": "batch"}])
    sent = [(note["id"], note["title"]) for note in await device.notes(4)]
    assert (await move.ask("GET", "/v1/receipts?wait=20", move.alone))["receipts"]  # the ack is durable
    await move.alone.kill()
    code, _, said = await move.import_()
    assert code == 0, said
    await move.start_fleet()
    device.port = move.home.nodes[1].device_port
    await device.connect()
    assert await device.join(APP) == token
    again = [(note["id"], note["title"]) for note in await device.notes(4, ack=True)]
    assert again == sent
    await device.sync()
    assert not device.waiting()
    device.close()
    other.close()


async def test_an_import_that_is_killed_keeps_nodes_out_and_is_finished_by_another(move: Move) -> None:
    alone = move.alone
    phone = await move.phone("p", alone)
    token = phone.token
    await phone.leave()
    for at in range(30):
        await move.push(alone, f"push {at}", target={"token": token})
    await move.push(alone, "everyone", target={"everyone": True})
    await alone.kill()  # as hard as it gets
    for words in (b"partition 1 of", b"partition 5 of", b"partition 8 of"):
        process = await move.start_import()
        assert process.stderr is not None
        async for line in process.stderr:
            if words in line:
                break
        process.kill()
        await process.wait()
        await move.home.nodes[0].spawn()
        with pytest.raises(NotStarted, match="cluster import"):
            await move.home.nodes[0].until_serving()
    code, done, said = await move.import_()
    assert code == 0, said
    assert done["carried"]["pending"] == 30
    await move.start_fleet()
    assert await phone.come(move.home.nodes[1]) == token

    async def all_came() -> bool:
        return len(phone.shown) == 31

    await until(all_came)
    assert set(phone.shown.values()) == {1}


async def test_a_nats_server_that_dies_in_the_middle_costs_the_import_nothing(move: Move) -> None:
    phone = await move.phone("p", move.alone)
    token = phone.token
    await phone.leave()
    for at in range(20):
        await move.push(move.alone, f"push {at}", target={"token": token})
    await move.alone.terminate()
    process = await move.start_import()
    assert process.stderr is not None
    async for line in process.stderr:
        if b"partition 2 of" in line:
            break
    move.home.signal_nats(0, signal.SIGKILL)
    said = await asyncio.wait_for(process.stderr.read(), 120)
    assert await process.wait() == 0, said.decode()
    move.home.start_nats_server(0)
    await move.home.nats_healthy()
    await move.start_fleet()
    assert await phone.come(move.home.nodes[0]) == token

    async def all_came() -> bool:
        return len(phone.shown) == 20

    await until(all_came)
    assert set(phone.shown.values()) == {1}


async def test_a_fleet_that_has_anything_takes_no_import(move: Move) -> None:
    await move.start_fleet()
    await move.alone.terminate()
    code, _, said = await move.import_()
    assert code != 0
    assert "is not new" in said
    # neither is it one when its nodes are gone, nor is the store marked
    await asyncio.gather(*(node.kill() for node in move.home.nodes))
    code, _, said = await move.import_()
    assert code != 0
    assert "is not new" in said
    await move.alone.spawn()
    await move.alone.until_serving()
    assert (await move.home.http.get(f"{move.alone.api}/healthz")).status_code == httpx.codes.OK
