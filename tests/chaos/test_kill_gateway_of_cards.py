"""`kill -9` of a whole gateway in the middle of a campaign over simulated cards, and a drain: every card executes every
command once and in order, every participant has one end, and what was answered 201 is there (E6, E8)."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from chaos_gateway import Deadline, GatewayProcess, find_ports

from gateway.ota.cattp import Limits
from gateway.ota.sim.terminal import Behaviour
from gateway.tour.card_issue import issue
from gateway.tour.card_network import CardNetwork

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

CARDS = 30
KILLS = 5
COMMANDS = [f"00d600{n:02x}20{n:02x}".ljust(74, "0") for n in range(24)]
FINAL = {"done", "noticed", "failed", "stopped", "expired"}


class Scene:
    def __init__(self, network: CardNetwork, gateway: GatewayProcess) -> None:
        self.network, self.gateway = network, gateway
        self.http: httpx.AsyncClient
        self.key: dict[str, str] = {}

    async def begin(self) -> None:
        """A gateway that serves, with an app and every card."""
        await self.gateway.start()
        admin = {"authorization": f"Bearer {(self.gateway.store / 'admin.key').read_text().strip()}"}
        made = await self.http.post("/v1/apps", json={"name": "shop"}, headers=admin)
        self.key = {"authorization": f"Bearer {made.json()['key']}"}
        lines = "\n".join(holder.issued.line() for holder in self.network.holders)
        headers = {**admin, "content-type": "application/x-ndjson"}
        brought = await self.http.post("/v1/cards", content=lines, headers=headers)
        assert brought.json()["imported"] == len(self.network.holders)
        for holder in self.network.holders:
            await self.network.power_on(holder)

    async def call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = await self.http.request(method, path, headers=self.key, **options)
        assert answer.status_code in (200, 201), answer.text
        return dict(answer.json())

    async def executed(self) -> int:
        return sum(len(holder.card.executed) for holder in self.network.holders)

    async def ends(self, campaign: str) -> None:
        """Wait for it; who is not over by then is told."""
        try:
            async with Deadline(90, "the end of the campaign"):
                while (await self.call("GET", f"/v1/campaigns/{campaign}"))["state"] != "done":
                    await asyncio.sleep(0.05)
        except AssertionError as error:
            page = await self.call("GET", f"/v1/campaigns/{campaign}/cards", params={"limit": "1000"})
            late = [each["download"] for each in page["cards"] if each["state"] not in FINAL]
            looks = [await self.call("GET", f"/v1/downloads/{each}") for each in late[:3]]
            raise AssertionError(f"{error}; {len(late)} are late, as {looks}") from None

    async def receipts(self) -> list[dict[str, Any]]:
        return list((await self.call("GET", "/v1/receipts", params={"limit": "1000"}))["receipts"])

    def look_at_cards(self) -> None:
        for holder in self.network.holders:
            assert [command.hex() for command in holder.card.executed] == COMMANDS


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    slow = Behaviour(delay_s=0.01, loss=0.02)
    # a card whose gateway was killed keeps its channel until it has heard nothing for so long
    quick = {"idle_ms": 2_000, "close_wait_ms": 300, "rto_first_ms": 200, "rto_least_ms": 100, "rto_most_ms": 500}
    limits = dataclasses.replace(Limits(), **quick)
    network = CardNetwork(
        [issue(number, b"chaos") for number in range(CARDS)], behave=lambda _: slow, limits=limits, know_terminals=True
    )
    password = tmp_path / "smpp-password"
    password.write_text(network.smsc.password)
    password.chmod(0o600)
    (ota_port,) = find_ports(1)
    settings = (
        f"paging.smscs=smpp://{network.smsc.system_id}@127.0.0.1:{await network.start()}",
        f"paging.smsc_password_file={password}",
        "paging.smsc_reconnect_s=0.05",
        "paging.smsc_rate=0",
        f"ota.port={ota_port}",
        "ota.smsc_rate=0",
        "ota.packet_bytes=128",
        "ota.retry_s=0.1",
        "ota.retry_max_s=1",
        "ota.smsc_retry_s=0.1",
        "ota.rto_first_ms=150",
        "ota.rto_least_ms=100",
        "ota.validity_s=10",
        "ota.idle_s=6",
        "ota.answer_s=5",
        "ota.attempts=100",
        "edge.drain_s=3",
    )
    async with GatewayProcess(tmp_path / "store", *settings) as gateway:
        scene = Scene(network, gateway)
        url = f"http://127.0.0.1:{gateway.api_port}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as scene.http:
            yield scene
    await network.close()


async def test_a_campaign_outlives_kills(scene: Scene) -> None:
    await scene.begin()
    chosen = random.Random(6)
    body = {"name": "chaos", "commands": COMMANDS, "query": "all", "at_once": 12, "canary": {"share": 0.1}}
    campaign = (await scene.call("POST", "/v1/campaigns", json=body))["id"]
    for _ in range(KILLS):
        before, more = await scene.executed(), chosen.randrange(5, 120)
        async with Deadline(60, "what a card executes"):
            while await scene.executed() < min(before + more, CARDS * len(COMMANDS)):
                await asyncio.sleep(0.002)
        await scene.gateway.kill()
        await scene.gateway.start()
    await scene.ends(campaign)
    found = await scene.call("GET", f"/v1/campaigns/{campaign}")
    assert found["results"] == {"done": CARDS}, found
    scene.look_at_cards()
    lines = await scene.receipts()
    assert len(lines) == len({line["download"] for line in lines}) == CARDS
    assert {line["state"] for line in lines} == {"acked"}
    assert scene.gateway.complaints() == []


async def test_downloads_outlive_a_drain(scene: Scene) -> None:
    await scene.begin()
    campaign = (await scene.call("POST", "/v1/campaigns", json={"name": "c", "commands": COMMANDS, "query": "all"}))[
        "id"
    ]
    async with Deadline(60, "what a card executes"):
        while await scene.executed() < 100:
            await asyncio.sleep(0.002)
    assert await scene.gateway.terminate() == 0
    after = await scene.executed()
    await scene.gateway.start()
    await scene.ends(campaign)
    assert 100 <= after <= CARDS * len(COMMANDS)
    scene.look_at_cards()
    assert len(await scene.receipts()) == CARDS
    assert scene.gateway.complaints() == []
