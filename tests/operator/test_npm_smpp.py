"""The notifier `sms` before an SMSC of another implementation, npm's smpp, and receipts it writes (C8)."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from needs import needs
from sms_scene import SmsScene, until

from gateway.metrics import Metric
from gateway.model.notification import Content
from gateway.paging.app_payload import parse_payload

NODE = needs({"node": "nodejs", "npm": "npm"})
pytestmark = [pytest.mark.slow, NODE]
ROOT = Path(__file__).parents[2]


class NodeSmsc:
    """The script, running."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process, self.port = process, port
        self.submitted: list[dict[str, Any]] = []

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.submitted.append(json.loads(line))


@pytest.fixture
async def smsc() -> AsyncIterator[NodeSmsc]:
    folder = ROOT / "build" / "node-smpp"
    if not (folder / "node_modules" / "smpp").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", ".", "smpp@0.5.1"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=100)
    script = folder / "smsc.js"
    script.write_text(Path(__file__).with_name("smsc.js").read_text())
    process = await asyncio.create_subprocess_exec("node", str(script), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(60):
        server = NodeSmsc(process, json.loads(await process.stdout.readline())["port"])
    reading = asyncio.create_task(server.read())
    yield server
    process.terminate()
    await process.wait()
    await reading


class NodeScene(SmsScene):
    def __init__(self, smsc: NodeSmsc) -> None:
        super().__init__(0)
        self._port = smsc.port

    def links(self, ports: Any) -> Any:
        return [replace(link, answer_s=5.0) for link in super().links([self._port])]


async def test_ports_parts_receipts_throttle_and_a_binary_message_back(smsc: NodeSmsc) -> None:
    async with NodeScene(smsc) as scene:
        assert (await scene.push(seq=1)).ok
        await until(lambda: scene.history.words == ["delivered"])
        first = smsc.submitted[0]
        assert (first["esm"], first["coding"], first["npi"]) == (0x40, 4, 1)
        assert any(part.endswith("3e803e80") for part in first["udh"])
        assert parse_payload(bytes.fromhex(first["message"])).title == "Hi"
        await until(lambda: len(scene.incoming) == 1)
        assert scene.incoming[0] == bytes.fromhex("0605043e820000") + b"\x01\x02\xff"

        scene.settings = {"mode": "text"}
        throttled = await scene.push(seq=2, content=Content(text="я" * 100))
        assert (throttled.ok, throttled.dead, throttled.detail) == (False, False, "RTHROTTLED")
        assert throttled.retry_after_ms > 0
        await asyncio.sleep(0.25)
        assert (await scene.push(seq=2, content=Content(text="я" * 100))).ok
        await until(lambda: len(scene.history.words) == 4)
        # part 1 was taken twice, by both tries
        assert sorted(scene.history.words[1:]) == ["delivered 1/2", "delivered 1/2", "delivered 2/2"]
        assert scene.metrics.value(Metric.SMS_RECEIPTS, "delivered") == 4
