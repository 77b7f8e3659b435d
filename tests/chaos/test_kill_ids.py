"""`kill -9` while pushes to opaque ids come in: what was answered 201 is there after the start, and a subscriber still
has one registration (C12)."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from chaos_gateway import GatewayProcess

from gateway.paging.sms.local import LocalSmsc

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

KILLS = 5
SUBSCRIBERS = 20


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    smsc = LocalSmsc()
    password = tmp_path / "smpp-password"
    password.write_text(smsc.password)
    password.chmod(0o600)
    settings = (
        f"paging.smscs=smpp://{smsc.system_id}@127.0.0.1:{await smsc.start()}",
        f"paging.smsc_password_file={password}",
        "identity.host=push.example.com",
    )
    async with GatewayProcess(tmp_path / "store", *settings) as gateway:
        yield gateway
    await smsc.close()


async def test_pushes_to_ids_outlive_kills(gateway: GatewayProcess) -> None:
    await gateway.start()
    url = f"http://127.0.0.1:{gateway.api_port}"
    admin = {"authorization": f"Bearer {(gateway.store / 'admin.key').read_text().strip()}"}
    accepted: dict[str, str] = {}  # push → id it was for
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as http:
        made = await http.post("/v1/apps", json={"name": "shop"}, headers=admin)
        key = {"authorization": f"Bearer {made.json()['key']}"}
        ids: list[list[str]] = []
        for number in range(SUBSCRIBERS):
            network = [{"kind": "imsi", "value": f"0010100000{number:05d}"}]
            network.append({"kind": "msisdn", "value": f"+49151{number:07d}"})
            body = {"network_ids": network, "trigger": "attach", "app": "shop"}
            answer = await http.post("/v1/subscribers", json=body, headers=admin)
            ids.append([each["id"] for each in answer.json()["ids"]])

        async def push_on(chosen: random.Random) -> None:
            while True:
                opaque = chosen.choice(chosen.choice(ids))
                body = {"target": {"token": opaque}, "title": "t", "fallback": []}
                answer = await http.post("/v1/push", json=body, headers=key)
                if answer.status_code == 201:
                    accepted[answer.json()["id"]] = opaque

        for kill in range(KILLS):
            pushers = [asyncio.create_task(push_on(random.Random(kill * 10 + n))) for n in range(4)]
            before = len(accepted)
            async with asyncio.timeout(60):
                while len(accepted) < before + 15 + 7 * kill:
                    await asyncio.sleep(0.002)
            await gateway.kill()
            for pusher in pushers:
                pusher.cancel()
            with contextlib.suppress(httpx.HTTPError):
                await asyncio.gather(*pushers, return_exceptions=True)
            await gateway.start()
        tokens: dict[int, set[str]] = {}
        for push, opaque in accepted.items():
            answer = await http.get(f"/v1/push/{push}", headers=key)
            assert answer.status_code == 200, f"a push to an id was answered 201 and is gone: {answer.text}"
            (delivery,) = answer.json()["deliveries"]
            subscriber = next(place for place, both in enumerate(ids) if opaque in both)
            tokens.setdefault(subscriber, set()).add(delivery["token"])
        assert len(tokens) == SUBSCRIBERS
        assert all(len(each) == 1 for each in tokens.values()), "a subscriber has more than one registration"
