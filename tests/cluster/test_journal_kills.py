"""Owners and NATS servers killed in the middle of appends: what was promised is there, what was settled is not, and
nothing is there twice."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from journal_rig import JournalFleet, PlainLink, read_all, until
from store_rig import push, register, settle, with_app

from gateway.cluster.jetstream import JetStream, JetStreamError
from gateway.config.cluster_section import Cluster
from gateway.model.errors import GatewayError
from gateway.store import Store
from gateway.store.records import PUT, Db, unpack_u64
from gateway.store.row_codec import parse_rows
from gateway.tour.nats_servers import NatsServer, NatsServers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
P = 9


def pending_in(store: Store) -> set[int]:
    return {seq for number in store.directory.everybody() for each in number for seq in store.journal.pending_of(each)}


class Ledger:
    """What owners said before they died."""

    def __init__(self) -> None:
        self.said: dict[str, set[int]] = {"accepted": set(), "settling": set(), "settled": set(), "begun": set()}

    def hear(self, output: bytes) -> None:
        for line in output.decode().splitlines(keepends=True):
            if line.endswith("\n"):  # the last one may be torn
                what, _, seq = line.partition(" ")
                self.said[what].add(int(seq))

    def check(self, store: Store) -> None:
        pending = pending_in(store)
        lost = self.said["accepted"] - self.said["settling"] - pending
        assert not lost, f"lost: {sorted(lost)}"
        back = pending & self.said["settled"]
        assert not back, f"came back: {sorted(back)}"


async def test_an_owner_killed_again_and_again_loses_nothing(
    tmp_path: Path, fleet_settings: Callable[..., Cluster]
) -> None:
    fleet = JournalFleet(tmp_path, fleet_settings)
    settings = fleet_settings()
    ledger = Ledger()
    luck = random.Random(1)
    here = Path(__file__).parent
    standby = await fleet.node()
    for epoch in range(1, 7):
        # the same folder again, or another node's
        folder = tmp_path / luck.choice(["one", "two"])
        with (tmp_path / f"log{epoch}").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(here / "owner_process.py")),
                *(settings.url, settings.name, str(folder), str(tmp_path / "keys"), str(P), str(epoch)),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent / "unit" / "store")])},
            )
        assert process.stdout is not None
        output = b""
        async with asyncio.timeout(60):
            while b"settled" not in output:
                piece = await process.stdout.read(65_536)
                assert piece, (tmp_path / f"log{epoch}").read_text()
                output += piece
        standby.stores.follow(P)
        with suppress(TimeoutError):
            async with asyncio.timeout(luck.uniform(0.2, 1.5)):
                while piece := await process.stdout.read(65_536):
                    output += piece
        process.kill()
        output += await process.stdout.read()
        await process.wait()
        ledger.hear(output)
    assert len(ledger.said["accepted"]) > 100
    fresh = await (await fleet.node()).adopt(P, 100)
    ledger.check(fresh)
    pending = pending_in(fresh)
    await fresh.close()
    followed = await standby.adopt(P, 101)
    assert pending_in(followed) == pending
    ledger.check(followed)
    await followed.close()
    await fleet.close()


async def leader_of(js: JetStream, stream: str) -> str:
    async with asyncio.timeout(30):
        while True:
            with suppress(JetStreamError):
                said = await js.api(f"STREAM.INFO.{stream}")
                if said.get("cluster", {}).get("leader"):
                    return str(said["cluster"]["leader"])
            await asyncio.sleep(0.05)


async def test_appends_go_on_when_a_nats_server_is_killed_and_nothing_is_lost_or_twice(tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    servers = NatsServers(tmp_path / "nats")
    await servers.start()
    fleet = JournalFleet(
        tmp_path,
        lambda **more: Cluster(
            **{"url": servers.urls, "name": "killed", "stall_s": 1.0, "journal_bytes": 1 << 26, **more}
        ),
    )
    try:
        node = await fleet.node()
        store = await with_app(await node.adopt(P, 1))
        number = register(store, "one")
        await store.committer.flush()
        watcher = await PlainLink().connect(servers.urls)
        accepted: list[int] = []
        refused: list[int] = []
        settled: set[int] = set()
        in_doubt: set[int] = set()

        async def one() -> None:
            with suppress(GatewayError):
                seq, written = push(store, number)
                try:
                    await written
                except GatewayError:
                    refused.append(seq)
                except asyncio.CancelledError:
                    in_doubt.add(seq)  # its commit goes on
                    raise
                else:
                    accepted.append(seq)

        async def keep_on() -> None:
            while True:
                await asyncio.gather(*(one() for _ in range(10)))
                over = [seq for seq in accepted[-200:-50] if seq % 10 and seq not in settled]
                settled.update(over)
                settle(store, *over)
                await asyncio.sleep(0.01)
                if not store.committer.writable:
                    await asyncio.sleep(0.02)
                    await store.committer.probe()

        task = asyncio.create_task(keep_on())
        for round_number in range(3):
            before = len(accepted)
            await until(lambda before=before: len(accepted) > before + 50)  # type: ignore[misc]
            stream = f"killed_J_{P}"
            leader = await leader_of(JetStream(watcher), stream)
            server: NatsServer = next(each for each in servers.servers if each.name == leader)
            server.kill()
            before = len(accepted)
            # on the two that are left
            await until(lambda before=before: len(accepted) > before + 50, 60)  # type: ignore[misc]
            server.start()
            await servers.wait_until_healthy()
            assert not task.done(), round_number
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.committer.flush()
        assert node.ends.said == []

        other = await (await fleet.node()).adopt(P, 2)
        assert set(other.journal.pending_of(number)) - in_doubt == set(accepted) - settled
        assert not set(refused) & pending_in(other)
        # and in the journal itself each is there once
        written = Counter(
            unpack_u64(key)
            for commit in await read_all(JetStream(watcher), f"killed_J_{P}")
            if commit.rows
            for block in parse_rows(commit.rows)
            for operation, db, key, _ in block
            if operation == PUT and db == Db.JOURNAL
        )
        assert set(accepted) <= set(written)
        assert max(written.values()) == 1
        assert not set(refused) & set(written)
        await store.close()
        await other.close()
        await watcher.close()
    finally:
        await fleet.close()
        await servers.close()
