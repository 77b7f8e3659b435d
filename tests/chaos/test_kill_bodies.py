"""`kill -9` while a device has a body (B2) that it has not confirmed: when its user sees it, the delivery is acked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from chaos_gateway import Deadline, GatewayProcess

from gateway.client import Device
from gateway.client.content import AckPolicy, Notification

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    async with GatewayProcess(tmp_path / "store") as gateway:
        yield gateway


@pytest.mark.parametrize("seen", ["while the gateway is down", "after its start"])
async def test_a_body_that_a_kill_left_unconfirmed_is_acked_after_it(gateway: GatewayProcess, seen: str) -> None:
    await gateway.start()
    admin = {"authorization": f"Bearer {(gateway.store / 'admin.key').read_text().strip()}"}
    url = f"http://127.0.0.1:{gateway.api_port}"
    shown: asyncio.Queue[Notification] = asyncio.Queue()
    async with (
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as http,
        Device("127.0.0.1", gateway.device_port, sleep=lambda s: asyncio.sleep(min(s, 0.2))) as device,
    ):
        made = await http.post("/v1/apps", json={"name": "mail"}, headers=admin)
        key = {"authorization": f"Bearer {made.json()['key']}"}
        registration = await device.register("mail", "1", ack=AckPolicy.DISPLAY, on_message=shown.put_nowait)
        request = {"target": {"token": registration.token}, "title": "t", "data": {"a": 1}, "body": "on_demand"}
        pushed = (await http.post("/v1/push", json=request, headers=key)).json()["id"]
        async with Deadline(20, "the body"):
            message = await shown.get()
        assert message.data == {"a": 1}
        await gateway.kill()
        if seen == "while the gateway is down":
            message.shown()
        await gateway.start()
        async with Deadline(20, "the device"):
            while device.counters.links == 1:
                await asyncio.sleep(0.02)
        if seen == "after its start":
            message.shown()
        async with Deadline(20, "the ack"):
            state = ""
            while state != "acked":
                answer = await http.get(f"/v1/push/{pushed}", headers=key)
                state = answer.json()["deliveries"][0]["state"]
                await asyncio.sleep(0.05)
        assert shown.empty()
