"""`inspect device` and `backup` beside a store that another process holds open."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli import run
from gateway.config.sections import Store as StoreConfig
from gateway.metrics import Metrics
from gateway.model.registration import App
from gateway.store import Store

ROOT = Path(__file__).parents[3]


async def fill(folder: Path) -> Store:
    store = await Store.open(StoreConfig(path=str(folder), max_bytes=1 << 26), Metrics(process=False))
    await store.directory.put_app(App(name="demo"))
    for account in ("anna", "ben"):
        _, _, written = store.directory.register(
            "phone", "demo", "1.2", account, addresses={"webhook": "https://SENSITIVE"}
        )
        assert written is not None
        await written
    return store


def heliograph(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from gateway.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )


async def test_both_work_while_the_store_is_open_and_being_written(tmp_path: Path) -> None:
    store = await fill(tmp_path / "store")
    try:
        done = await asyncio.to_thread(heliograph, "inspect", "device", "phone", "--store", str(store.path), "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert [(row["app"], row["account"], row["notifiers"]) for row in found] == [
            ("demo", "anna", ["webhook"]),
            ("demo", "ben", ["webhook"]),
        ]
        assert "SENSITIVE" not in done.stdout
        assert store.directory.find(found[0]["token"], "demo") >= 0
        copy = tmp_path / "copy"
        done = await asyncio.to_thread(heliograph, "backup", str(copy), "--store", str(store.path))
        assert done.returncode == 0, done.stderr
        _, _, written = store.directory.register("phone", "demo", "1.2", "carl")
        assert written is not None
        await written
    finally:
        await store.close()
    restored = await Store.open(StoreConfig(path=str(copy), max_bytes=1 << 26), Metrics(process=False))
    try:
        assert len(restored.directory.device_registrations("phone")) == 2
        assert restored.directory.find(found[0]["token"], "demo") >= 0, "the keys are in the copy"
    finally:
        await restored.close()


async def test_an_unknown_device_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await (await fill(tmp_path)).close()
    assert await asyncio.to_thread(run, ["inspect", "device", "nobody", "--store", str(tmp_path)]) == 1
    assert "no registration" in capsys.readouterr().err
    assert await asyncio.to_thread(run, ["inspect", "device", "phone", "--store", str(tmp_path)]) == 0
    assert "anna" in capsys.readouterr().out


async def test_a_folder_in_use_is_not_overwritten_by_a_backup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await (await fill(tmp_path / "store")).close()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "mine").write_text("x")
    command = ["backup", str(tmp_path / "copy"), "--store", str(tmp_path / "store")]
    assert await asyncio.to_thread(run, command) == 2
    assert "not empty" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "copy").iterdir()] == ["mine"]


def test_a_node_of_a_fleet_has_no_backup_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "node" / "partitions").mkdir(parents=True)
    assert run(["backup", str(tmp_path / "copy"), "--store", str(tmp_path / "node")]) == 2
    assert "NATS" in capsys.readouterr().err
