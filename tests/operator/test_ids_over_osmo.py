"""An opaque id in the place of a token, through real network elements: a device trigger (T8) becomes a short message of
osmo-msc, the terminal shows what it got, and from then on the id leads to its connection (C1, C8, C12)."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from needs import needs
from open_house import House
from open_house import until as until_answer
from sms_scene import until

from gateway.model.registration import build_token
from gateway.paging.app_payload import parse_payload
from gateway.paging.udh import parse_header
from gateway.tour.operator.osmo import NEEDED, Operator
from gateway.tour.operator.terminal import IMSI, MSISDN, Terminal

pytestmark = [pytest.mark.slow, needs(NEEDED)]
EVERY = "/3gpp-device-triggering/v1/shop/transactions"


@pytest.fixture
async def operator(tmp_path: Path) -> AsyncIterator[Operator]:
    async with Operator(tmp_path) as operator:
        yield operator


@pytest.fixture
async def house(operator: Operator, tmp_path: Path) -> AsyncIterator[House]:
    file = tmp_path / "smpp-password"
    file.write_text("secret")
    file.chmod(0o600)
    settings: dict[str, Any] = {
        "paging.smscs": [f"smpp://pushgw@{operator.ip}:2775"],
        "paging.smsc_password_file": str(file),
        "paging.smsc_reconnect_s": 0.1,
        "paging.hlr": f"{operator.ip}:4259",
        "paging.coalesce_s": 0,
        "identity.host": "push.example.com",
    }
    async with House(tmp_path / "house", settings) as house:
        yield house


async def test_a_trigger_by_an_opaque_id_reaches_the_terminal(operator: Operator, house: House) -> None:
    admin = {"authorization": f"Bearer {house.gateway.admin_key_file.read_text().strip()}"}
    network = [{"kind": "msisdn", "value": f"+{MSISDN}"}]  # the HLR knows the rest
    body = {"network_ids": network, "trigger": "attach", "app": "shop"}
    opaque = (await house.http.post("/v1/subscribers", json=body, headers=admin)).json()["ids"][0]["id"]
    asked = {
        "externalId": opaque,
        "validityPeriod": 600,
        "priority": "PRIORITY",
        "applicationPortId": 16000,
        "triggerPayload": base64.b64encode(b"connect, please").decode(),
        "notificationDestination": "https://app.example.com/reports",
    }
    async with Terminal(operator.ip) as terminal:
        await terminal.attach()
        made = await house.shop.call("POST", EVERY, json=asked)
        assert made.status_code == 201, made.text
        await until(lambda: len(terminal.delivered) == 1)
        payload = parse_payload(parse_header(terminal.delivered[0].data)[1])
        assert payload.text == "connect, please"

        async def is_told() -> bool:
            found = (await house.shop.call("GET", made.headers["location"])).json()
            return bool(found["deliveryResult"] == "SUCCESS")

        await until_answer(is_told)
        device = house.device()
        await device.login()
        await device.register(addresses={"sms": opaque, "claim": build_token(payload.token)})
        push = await house.shop.push(opaque, "over the link")
        assert (await device.note(ack=True))["title"] == "over the link"
        await house.shop.reaches(push, "acked")
        assert len(terminal.delivered) == 1
    shown = (await house.http.get("/metrics")).text + (await house.shop.call("GET", f"/v1/push/{push}")).text
    assert not [secret for secret in (IMSI, MSISDN) if secret in shown]
