"""A fleet's device key is rotated with `heliograph keys` while real nodes serve devices: nobody is refused, whatever is
paused, killed or started in between, and no key is shown."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.client import Device
from gateway.client.credentials import Credentials, MemoryCredentials
from gateway.tour.fleet_home import FleetHome, GatewayNode, Loopback

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
LEASE_S = 1.0
SETTINGS = (f"cluster.lease_s={LEASE_S}", "cluster.beat_s=0.2")


class Older(Loopback):
    """g2 runs a program from before rotation."""

    def command(self, name: str) -> Sequence[str]:
        return [sys.executable, str(Path(__file__).with_name("older_program.py"))] if name == "g2" else ()


class Said(NamedTuple):
    code: int
    out: str
    err: str


class Keys:
    """`heliograph keys` and `cluster status`, as an operator at the first node would run them."""

    def __init__(self, home: FleetHome) -> None:
        self.home = home
        self.said = ""

    async def spawn(self, *words: str) -> asyncio.subprocess.Process:
        command = [sys.executable, "-m", "gateway.cli", *words]
        for setting in self.home.nodes[0].settings:
            command += ["--set", setting]
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)

    async def end(self, process: asyncio.subprocess.Process) -> Said:
        async with asyncio.timeout(90):
            out, err = await process.communicate()
        self.said += out.decode() + err.decode()
        assert process.returncode is not None
        return Said(process.returncode, out.decode(), err.decode())

    async def run(self, *words: str) -> Said:
        return await self.end(await self.spawn(*words))

    async def rotate(self, *words: str) -> dict[str, object]:
        said = await self.run("keys", "rotate", "--json", *words)
        assert said.code == 0, said.err
        answer: dict[str, object] = json.loads(said.out)
        return answer

    async def list(self) -> dict[int, str]:
        said = await self.run("keys", "list", "--json")
        assert said.code == 0, said.err
        return {
            row["id"]: "current" if row["current"] else "next" if row["next"] else "old" for row in json.loads(said.out)
        }

    async def until_listed(self, wanted: dict[int, str]) -> None:
        async with asyncio.timeout(30):
            while await self.list() != wanted:
                pass

    async def known(self) -> dict[str, bool]:
        """Node → has it the keys of now?"""
        said = await self.run("cluster", "status", "--json")
        found = json.loads(said.out)
        assert found["keys"] > 0
        return {member["name"]: member["keys"] == found["keys"] for member in found["members"]}


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[tuple[FleetHome, Keys]]]]:
    homes: list[FleetHome] = []

    async def build(nodes: int = 2, ground: Loopback | None = None, nats: int = 1) -> tuple[FleetHome, Keys]:
        home = FleetHome(tmp_path, nodes=nodes, nats=nats, partitions=4, settings=SETTINGS, ground=ground)
        homes.append(home)
        await home.start()
        return home, Keys(home)

    yield build
    for home in homes:
        await home.close()


Start = Callable[..., Awaitable[tuple[FleetHome, Keys]]]


class Shop:
    """An app, a provider at any node, and a device whose secret is kept."""

    def __init__(self, home: FleetHome, key: str) -> None:
        self.home = home
        self._key = {"authorization": f"Bearer {key}"}

    @classmethod
    async def open(cls, home: FleetHome) -> Shop:
        operator = {"authorization": f"Bearer {home.admin_key()}"}
        made = await home.http.post(f"{home.nodes[0].api}/v1/apps", headers=operator, json={"name": "shop"})
        assert made.status_code == 201, made.text
        return cls(home, made.json()["key"])

    async def meet(self, at: GatewayNode, store: MemoryCredentials, entry: GatewayNode) -> str:
        """The device comes to a node, registers and gets a push that enters at another; its token."""
        seen: asyncio.Queue[str] = asyncio.Queue()
        async with Device(*at.devices, store=store) as device, asyncio.timeout(30):
            registered = await device.register("shop", "1.0", on_message=lambda message: seen.put_nowait(message.title))
            push = {"target": {"token": registered.token}, "title": f"at {at.name}"}
            answer = await self.home.http.post(f"{entry.api}/v1/push", headers=self._key, json=push)
            assert answer.status_code == 201, answer.text
            while await seen.get() != push["title"]:
                pass  # one from before, whose ack nobody heard
            return registered.token


async def key_of(store: MemoryCredentials) -> int:
    known: Credentials | None = await store.load()
    assert known is not None
    return known.secret[0]


def secrets_of(home: FleetHome) -> list[str]:
    found = [home.admin_key()]
    for node in home.nodes:
        record = json.loads((node.store / "keys.json").read_text())
        found += [record["token_key"], record["push_id_key"], record["hash_key"], *record["device_keys"].values()]
    return found


def assert_nothing_shown(home: FleetHome, keys: Keys) -> None:
    texts = [keys.said, *(node.log_file.read_text(errors="replace") for node in home.nodes)]
    assert not [secret for secret in secrets_of(home) if any(secret in text for text in texts)]


async def test_all_nodes_use_a_new_key_without_a_restart_and_devices_get_new_secrets(start: Start) -> None:
    home, keys = await start(nodes=3)
    g1, g2, g3 = home.nodes
    shop = await Shop.open(home)
    old, new = MemoryCredentials(), MemoryCredentials()
    token = await shop.meet(g1, old, g3)
    assert await key_of(old) == 1
    lives = [node.life for node in home.nodes]

    assert await keys.rotate() == {"id": 2, "current": True, "silent": []}
    assert await keys.list() == {1: "old", 2: "current"}
    assert await keys.known() == {"g1": True, "g2": True, "g3": True}
    for node in (g2, g3, g1):
        fresh = MemoryCredentials()
        await shop.meet(node, fresh, g1)
        assert await key_of(fresh) == 2
    assert await shop.meet(g2, old, g1) == token  # with the old secret, for the last time
    assert await key_of(old) == 2
    assert await shop.meet(g3, old, g2) == token

    # a second time, dropped, and over a restart of all
    assert (await keys.rotate())["id"] == 3
    said = await keys.run("keys", "drop", "1", "--yes")
    assert said.code == 0, said.err
    assert await keys.list() == {2: "old", 3: "current"}
    assert await shop.meet(g1, old, g2) == token
    assert [node.life for node in home.nodes] == lives
    for number in range(3):
        assert await home.nodes[number].terminate() == 0
        await home.nodes[number].spawn()
        await home.nodes[number].until_serving()
    await home.until_ready()
    await shop.meet(g3, new, g1)
    assert await key_of(new) == 3
    assert await shop.meet(g2, old, g3) == token
    assert [node.complaints() for node in home.nodes] == [[], [], []]
    assert_nothing_shown(home, keys)


async def test_a_device_with_a_new_secret_is_not_refused_by_a_node_that_slept_meanwhile(start: Start) -> None:
    home, keys = await start()
    awake, asleep = home.nodes
    shop = await Shop.open(home)
    asleep.pause()
    assert await keys.rotate() == {"id": 2, "current": True, "silent": ["g2"]}
    await home.until_ready()  # the other has its partitions
    store = MemoryCredentials()
    token = await shop.meet(awake, store, awake)
    assert await key_of(store) == 2
    for _ in range(2):  # what waits in its sockets is read before it has heard anything of the fleet
        meeting = asyncio.create_task(shop.meet(asleep, store, awake))
        await asyncio.sleep(0.5)  # its HELLO lies there
        asleep.resume()
        assert await meeting == token
        asleep.pause()
        await keys.rotate()
        await shop.meet(awake, store, awake)
    asleep.resume()
    await home.until_ready()
    assert await keys.known() == {"g1": True, "g2": True}


async def test_a_rotation_that_was_killed_is_finished_and_everything_works_in_between(start: Start) -> None:
    home, keys = await start()
    g1, g2 = home.nodes
    shop = await Shop.open(home)
    store = MemoryCredentials()
    token = await shop.meet(g1, store, g2)

    process = await keys.spawn("keys", "rotate")
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while b"is made" not in await process.stderr.readline():
            pass
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert await keys.list() == {1: "current", 2: "next"}
    await home.restart(1)
    await home.until_ready()
    assert await shop.meet(g2, store, g1) == token
    assert await key_of(store) == 1

    said = await keys.run("keys", "rotate")
    assert said.code == 1
    assert "--finish" in said.err
    said = await keys.run("keys", "drop", "1", "--yes")
    assert said.code == 2
    assert await keys.rotate("--finish") == {"id": 2, "current": True, "silent": []}
    assert await keys.list() == {1: "old", 2: "current"}
    assert (await keys.rotate("--finish"))["id"] == 2  # again: nothing is to be done
    assert await shop.meet(g1, store, g2) == token
    assert await key_of(store) == 2


async def test_of_two_rotations_at_once_one_gets_a_clear_error_and_one_key_is_made(start: Start) -> None:
    home, keys = await start()
    both = await asyncio.gather(keys.run("keys", "rotate"), keys.run("keys", "rotate"))
    won, lost = sorted(both, key=lambda said: said.code)
    assert (won.code, lost.code) == (0, 1)
    assert "conflict" in lost.err
    assert await keys.list() == {1: "old", 2: "current"}
    assert await keys.known() == {"g1": True, "g2": True}
    assert_nothing_shown(home, keys)


async def test_a_node_of_an_older_program_is_named_and_no_key_is_made_before_it_is_upgraded(start: Start) -> None:
    home, keys = await start(ground=Older())
    said = await keys.run("keys", "rotate")
    assert said.code == 1
    assert "'g2'" in said.err
    assert "'g1'" not in said.err
    assert await keys.list() == {1: "current"}
    assert await keys.known() == {"g1": True, "g2": False}
    older = home.nodes[1]
    await older.kill()  # and not heard of for ever: its record still stands against it
    assert (await keys.run("keys", "rotate")).code == 1
    home.nodes[1] = upgraded = GatewayNode("g2", older.folder, older.host)
    upgraded.settings = older.settings
    await upgraded.spawn()
    await upgraded.until_serving()
    assert (await keys.rotate())["id"] == 2


async def test_an_older_key_is_not_dropped_while_a_silent_node_may_use_it(start: Start) -> None:
    home, keys = await start()
    home.nodes[1].pause()
    await keys.rotate()
    said = await keys.run("keys", "drop", "1", "--yes")
    assert said.code == 1
    assert "'g2'" in said.err
    assert await keys.list() == {1: "old", 2: "current"}
    home.nodes[1].resume()
    await home.until_ready()
    said = await keys.run("keys", "drop", "1", "--yes")
    assert said.code == 0, said.err
    assert await keys.list() == {2: "current"}


async def test_nats_servers_that_die_meanwhile_refuse_no_device_and_stop_no_rotation(start: Start) -> None:
    home, keys = await start(nats=3)
    assert home.nats is not None
    shop = await Shop.open(home)
    stores = [MemoryCredentials() for _ in range(4)]
    tokens = [await shop.meet(home.nodes[0], store, home.nodes[1]) for store in stores]
    is_over = asyncio.Event()

    async def roam(number: int) -> int:
        """From node to node, with what the last one gave: refused once is refused for good."""
        rounds = 0
        while not is_over.is_set():
            async with Device(*home.nodes[(number + rounds) % 2].devices, store=stores[number]) as device:
                async with asyncio.timeout(60):
                    assert (await device.register("shop", "1.0")).token == tokens[number]
            rounds += 1
        return rounds

    roaming = [asyncio.create_task(roam(number)) for number in range(4)]
    try:
        for server in range(3):
            rotating = asyncio.create_task(keys.rotate())
            await asyncio.sleep(1.5)
            home.signal_nats(server, signal.SIGKILL)
            await asyncio.sleep(1.0)
            home.start_nats_server(server)
            assert (await rotating)["id"] == server + 2
            await home.nats_healthy()
            await home.until_ready()
    finally:
        is_over.set()
        rounds = await asyncio.gather(*roaming)
    assert min(rounds) > 3
    assert await keys.list() == {1: "old", 2: "old", 3: "old", 4: "current"}
    for number, store in enumerate(stores):
        assert await shop.meet(home.nodes[1], store, home.nodes[0]) == tokens[number]
        assert await key_of(store) == 4
    assert_nothing_shown(home, keys)
