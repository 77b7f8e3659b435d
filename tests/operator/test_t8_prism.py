"""The notifier `trigger` before a server of another implementation: npm's Prism, which checks each request against an
OpenAPI description of T8 and posts the reports (C10)."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from needs import needs
from trigger_scene import MSISDN, NAI, OPAQUE, TriggerScene, until

from gateway.metrics import Metric
from gateway.model.ports import NotifierResult

pytestmark = [pytest.mark.slow, needs({"node": "nodejs", "npm": "npm"})]
ROOT = Path(__file__).parents[2]
PACKAGE = "@stoplight/prism-cli@5.16.0"


class Prism:
    """The server, running; `said` is its log."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process, self.root = process, f"http://127.0.0.1:{port}"
        self.said: list[str] = []
        self.is_up = asyncio.Event()

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(re.sub(r"\x1b\[[0-9;]*m", "", line.decode("utf-8", "replace")).rstrip())
            if "listening on" in self.said[-1]:
                self.is_up.set()

    def count(self, words: str) -> int:
        return sum(words in line for line in self.said)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def prism() -> AsyncIterator[Prism]:
    folder = ROOT / "build" / "node-prism"
    program = folder / "node_modules" / ".bin" / "prism"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", ".", PACKAGE]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=100)
    port, description = free_port(), Path(__file__).with_name("t8_openapi.json")
    process = await asyncio.create_subprocess_exec(
        "node",
        str(program),
        "mock",
        "--errors",
        "--multiprocess=false",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        str(description),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    server = Prism(process, port)
    reading = asyncio.create_task(server.read())
    try:
        async with asyncio.timeout(60):
            await server.is_up.wait()
        yield server
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reading


async def pushed(scene: TriggerScene, **changes: object) -> NotifierResult:
    async with asyncio.timeout(20):
        return await scene.push(**changes)


def scene_of(prism: Prism, folder: Path, **trigger: object) -> TriggerScene:
    scene = TriggerScene(t8=prism.root, auth="bearer", **trigger)
    scene.set_secret("token_file", folder, "t0p")
    return scene


async def test_a_trigger_is_taken_by_a_strict_server_and_its_report_is_heard(prism: Prism, tmp_path: Path) -> None:
    for identify in ("msisdn", "external_id", "opaque_id"):
        async with scene_of(prism, tmp_path, identify=identify, test_notification=True) as scene:
            result = await pushed(scene)
            assert (result.ok, result.detail) == (True, "ok")
            await until(lambda scene=scene: scene.history.words == ["delivered"])  # type: ignore[misc]
    assert prism.count("Violation") == 0


async def test_it_is_replaced_by_a_newer_one(prism: Prism, tmp_path: Path) -> None:
    async with scene_of(prism, tmp_path) as scene:
        # the server knows one report, a final one: as if it had not come yet
        scene.notifier._way._hear = lambda _transaction, _report: None  # type: ignore[attr-defined]
        assert (await pushed(scene, seq=1)).detail == "ok"
        assert (await pushed(scene, seq=2)).detail == "replaced"
        assert scene.history.words == ["replaced"]
    assert prism.count("Violation") == 0


async def test_a_device_that_is_away_is_watched_until_it_is_back(prism: Prism, tmp_path: Path) -> None:
    async with scene_of(prism, tmp_path, watch_reachability=True) as scene:
        known = await scene.subscribers.resolve(OPAQUE, "shop")
        assert known is not None
        scene.waiting.add(known, 3)
        await scene.notifier._way.watch(known, "")  # type: ignore[attr-defined]
        await until(lambda: scene.backs == [3])
        assert scene.metrics.value(Metric.TRIGGER_WATCHES, "reachable") == 1
    assert prism.count("Violation") == 0


async def test_the_server_is_strict_and_a_refusal_names_nobody(prism: Prism, tmp_path: Path) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        url = f"{prism.root}/3gpp-device-triggering/v1/pushgw/transactions"
        headers = {"authorization": "Bearer t0p"}
        body = {"msisdn": MSISDN, "externalId": NAI, "validityPeriod": 1}
        assert (await client.post(url, json=body, headers=headers)).status_code == 422
        assert (await client.post(url, json=body)).status_code in (401, 422)
    scene = TriggerScene(t8=prism.root)
    async with scene:
        result = await pushed(scene)
        assert (result.ok, result.detail) == (False, "401 unauthorized")
    async with scene_of(prism, tmp_path, scs_as_id="somebody-else") as scene:
        result = await pushed(scene)
        assert not result.ok
        assert MSISDN not in repr(result)
