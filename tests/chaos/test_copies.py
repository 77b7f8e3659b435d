"""Stores of other times: a copy made under load, and one that a newer version wrote."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import lmdb
import pytest
from chaos_crowd import Temper
from chaos_gateway import Deadline, GatewayProcess, NotStarted
from chaos_provider import Provider
from chaos_scene import Scene

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]


async def backup(store: Path, destination: Path) -> tuple[int, str]:
    """`heliograph backup`, from outside the gateway's process; exit code and what it said."""
    command = [sys.executable, "-m", "gateway.cli", "backup", str(destination), "--store", str(store)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_a_backup_under_load_holds_what_was_accepted_before_it_began(tmp_path: Path) -> None:
    async with Scene(tmp_path / "store", "delivery.ack_ms=300") as scene:
        for number in range(60):
            temper = (Temper.PROMPT, Temper.PROMPT, Temper.FITFUL, Temper.SLEEPER)[number % 4]
            scene.crowd.add(temper=temper, alias=f"user {number // 3}", tags=("all",))
        await scene.crowd.register_all()
        sleepers = [device for device in scene.crowd.devices if device.temper is Temper.SLEEPER]
        for device in sleepers:
            await scene.leave(device)
        scene.crowd.start()
        waiting = [await scene.accept(device) for device in sleepers for _ in range(5)]
        provider = Provider(scene.gateway, scene.door, scene.crowd, scene.ledger, random.Random(11))
        provider.start()
        async with Deadline(30, "load"):
            while scene.ledger.counts["answered"] < 300:
                await asyncio.sleep(0.01)
        before = [push.answered for push in scene.ledger.pushes.values() if push.answered]
        code, said = await backup(tmp_path / "store", tmp_path / "copy")
        assert code == 0, said
        after = scene.ledger.counts["answered"]
        async with Deadline(30, "an answer after the copy"):
            while scene.ledger.counts["answered"] == after:
                await asyncio.sleep(0.01)
        assert {path.stat().st_mode & 0o077 for path in (tmp_path / "copy").iterdir()} == {0}, "others can read it"
        code, said = await backup(tmp_path / "store", tmp_path / "copy")
        assert code != 0
        assert "not empty" in said
        await provider.stop()
        await scene.crowd.stop()
        assert await scene.gateway.terminate() == 0
        assert not scene.gateway.complaints()
        # the copy, served on the same ports to the same devices and the same provider
        scene.gateway.store = tmp_path / "copy"
        await scene.gateway.start()
        for push_id in before:
            await scene.door.look(push_id)
        for device in sleepers:
            device.obedient = True
            await device.connect(scene.gateway)
            await device.drain()
        for push in waiting:
            assert push.recall_asked or push.received == push.expected


async def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    store = tmp_path / "store"
    async with Scene(store) as scene:
        device = await scene.device()
        await scene.accept(device)
        assert await scene.gateway.terminate() == 0
    with lmdb.open(str(store), max_dbs=64) as environment:
        meta = environment.open_db(b"meta", create=False)
        with environment.begin(write=True) as transaction:
            transaction.put(b"schema", (4_711).to_bytes(4, "big"), db=meta)
    data = (store / "data.mdb").read_bytes()
    async with GatewayProcess(store) as gateway:
        with pytest.raises(NotStarted) as refused:
            await gateway.start()
    assert gateway.exit_code == 2
    assert "schema 4711" in str(refused.value)
    assert "newer version" in str(refused.value)
    assert "Traceback" not in str(refused.value)
    assert (store / "data.mdb").read_bytes() == data
