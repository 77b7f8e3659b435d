"""The whole gateway with an HSS that holds whom an id stands for: a push to an id this gateway never drew reaches the
number the HSS names, and an HSS that is down is no unknown id (C7)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from open_house import House, until
from test_sms import MSISDN as OPENED_MSISDN
from test_sms import away, opaque_id, settings, steps

from gateway.diameter import codes
from gateway.diameter.avps import Avps
from gateway.diameter.codes import Command
from gateway.diameter.local import Behaviour, LocalDiameter, Subscription
from gateway.metrics import Metric
from gateway.paging.app_payload import parse_payload
from gateway.paging.ims.local import LocalCscf
from gateway.paging.sms.local import LocalSmsc

Open = Callable[..., Any]
EXTERNAL_ID, MSISDN, IMSI = "Meter-17.hall@push.example.com", "491517654321", "001010123456789"
IMPU = "sip:bob@ims.example.com"
HANDSET = {"kind": "msisdn", "value": f"+{MSISDN}"}


class Network:
    def __init__(self, house: House, hss: LocalDiameter, smsc: LocalSmsc) -> None:
        self.house, self.hss, self.smsc = house, hss, smsc

    async def operator(self, path: str, body: dict[str, Any]) -> Any:
        key = self.house.gateway.admin_key_file.read_text().strip()
        return await self.house.http.post(
            f"/v1/subscribers{path}", json=body, headers={"authorization": f"Bearer {key}"}
        )


@pytest.fixture
async def network(open_house: Open, tmp_path: Path) -> AsyncIterator[Network]:
    hss, smsc = LocalDiameter(), LocalSmsc()
    hss.by_external_id[EXTERNAL_ID] = Subscription(MSISDN, IMSI)
    house = await open_house(
        {
            **settings(tmp_path, await smsc.start()),
            "diameter.peers": [f"127.0.0.1:{await hss.start()}"],
            "diameter.origin_host": "pushgw.example.net",
            "diameter.origin_realm": "example.net",
            "diameter.reconnect_s": 0.05,
            "diameter.reconnect_max_s": 0.1,
            "identity.mapping": "hss",
            "identity.mapping_cache_s": 0,
            "identity.mapping_unknown_s": 0,
            "paging.coalesce_s": 0,
            "delivery.retry_ms": 100,
        }
    )
    await until(lambda: smsc.is_bound and hss.is_open)
    yield Network(house, hss, smsc)
    await house.gateway.stop()
    await smsc.close()
    await hss.close()
    assert smsc.faults == []
    assert hss.faults == []


async def test_a_push_to_an_external_identifier_reaches_the_number_the_hss_names(network: Network) -> None:
    house = network.house
    token = await away(house, {"sms": EXTERNAL_ID})
    push = await house.shop.push(token, "wake up")
    await until(lambda: len(network.smsc.submissions) == 1)
    assert network.smsc.submissions[0].message.destination.digits == MSISDN
    assert "notified sms" in await steps(house, push)


async def test_an_hss_that_is_down_is_asked_again_and_nothing_is_lost(network: Network) -> None:
    house, hss = network.house, network.hss
    token = await away(house, {"sms": EXTERNAL_ID})
    await hss.close()
    push = await house.shop.push(token, "wake up", fallback=["sms"])
    await until(lambda: house.gateway.metrics.value(Metric.NOTIFIER_OUTCOMES, "sms lookup_failed") >= 1)
    answer = await network.operator("/resolve", {"id": EXTERNAL_ID, "app": "shop"})
    assert (answer.status_code, answer.json()["error"]["name"]) == (503, "mapping_unavailable")
    assert network.smsc.submissions == []
    await hss.start(hss.port)
    await until(lambda: len(network.smsc.submissions) == 1)
    shown = str(await house.shop.delivery(push)) + house.gateway.metrics.render().decode()
    assert not [secret for secret in (MSISDN, IMSI) if secret in shown]


async def test_who_opted_out_here_is_not_paged_by_the_hss_word(network: Network) -> None:
    house = network.house
    answer = await network.operator("/resolve", {"id": EXTERNAL_ID, "app": "shop"})
    assert HANDSET in answer.json()["network_ids"]
    answer = await network.operator("/opt-out", {"network_id": HANDSET, "app": "shop", "out": True})
    assert answer.status_code == 200, answer.text
    token = await away(house, {"sms": EXTERNAL_ID})
    await house.shop.push(token, "wake up")
    await until(lambda: house.gateway.metrics.value(Metric.NOTIFIER_OUTCOMES, "sms unknown_subscriber") == 1)
    assert network.smsc.submissions == []
    answer = await network.operator("/resolve", {"id": EXTERNAL_ID, "app": "shop"})
    assert answer.status_code == 404


@pytest.mark.parametrize("end", ["revoked", "all revoked", "forgotten", "replaced", "lapsed"])
async def test_an_id_that_ended_here_stands_for_nobody_though_the_hss_has_it(network: Network, end: str) -> None:
    house, ids = network.house, [{"kind": "imsi", "value": IMSI}, HANDSET]
    body = {"network_ids": ids, "trigger": "attach", "app": "shop", "validity_s": 1 if end == "lapsed" else 3_600}
    opaque = (await network.operator("", body)).json()["ids"][0]["id"]
    network.hss.by_external_id[opaque] = Subscription(MSISDN, IMSI)
    assert (await network.operator("/resolve", {"id": opaque, "app": "shop"})).status_code == 200
    if end == "revoked":
        await network.operator("/revoke", {"id": opaque})
    elif end == "replaced":
        await network.operator("", body | {"replace": True})
    elif end == "lapsed":
        await asyncio.sleep(1.1)
        house.gateway.store.subscribers.sweep(time.time_ns() // 1_000_000 + 5_000)
        await house.gateway.store.journal.committed()
    else:
        await network.operator("/revoke", {"network_id": ids[0], "forget": end == "forgotten"})
    await house.create_app("other")
    for app in ("shop", "other"):
        assert (await network.operator("/resolve", {"id": opaque, "app": app})).status_code == 404
    token = await away(house, {"sms": opaque})
    await house.shop.push(token, "wake up")
    await until(lambda: house.gateway.metrics.value(Metric.NOTIFIER_OUTCOMES, "sms unknown_subscriber") == 1)
    assert network.smsc.submissions == []


# --- the same network triggers devices over Tsp (C10)


async def test_a_push_goes_out_as_a_device_trigger_and_its_report_stands_in_the_history(
    open_house: Open, tmp_path: Path
) -> None:
    core = LocalDiameter()
    core.by_external_id[EXTERNAL_ID] = Subscription("", IMSI)
    core.behaviour = Behaviour(outcome=0)
    house = await open_house(
        {
            "identity.host": "push.example.com",
            "identity.mapping": "hss",
            "trigger.way": "tsp",
            "trigger.identify": "opaque_id",
            "diameter.peers": [f"127.0.0.1:{await core.start()}"],
            "diameter.origin_host": "pushgw.example.net",
            "diameter.origin_realm": "example.net",
            "diameter.scs_identity": "pushgw",
            "delivery.notifier_ack_ms": 60_000,
        }
    )
    try:
        await until(lambda: core.is_open)
        token = await away(house, {"trigger": EXTERNAL_ID})
        push = await house.shop.push(token, "wake up", fallback=["trigger"])

        async def told() -> bool:
            return "delivered trigger" in await steps(house, push)

        await until(told)
        assert "notified trigger" in await steps(house, push)
        commands = [asked.header.command for asked in core.requests]
        assert commands == [Command.SUBSCRIBER_INFORMATION, Command.DEVICE_ACTION]
        action = core.requests[1].avps.group(codes.DEVICE_ACTION) or Avps()
        assert action.text(codes.EXTERNAL_IDENTIFIER) == EXTERNAL_ID
        data = action.group(codes.TRIGGER_DATA) or Avps()
        assert parse_payload(data.first(codes.PAYLOAD) or b"").title == "wake up"
        shown = str(await house.shop.delivery(push)) + house.gateway.metrics.render().decode()
        assert IMSI not in shown
        assert core.faults == []
    finally:
        await house.gateway.stop()
        await core.close()


async def test_the_hss_is_asked_by_s6c_before_a_short_message(open_house: Open, tmp_path: Path) -> None:
    hss, smsc = LocalDiameter(), LocalSmsc()
    house = await open_house(
        {
            **settings(tmp_path, await smsc.start()),
            "diameter.peers": [f"127.0.0.1:{await hss.start()}"],
            "diameter.origin_host": "pushgw.example.net",
            "diameter.origin_realm": "example.net",
            "diameter.s6c": True,
            "paging.coalesce_s": 0,
        }
    )
    try:
        await until(lambda: smsc.is_bound and hss.is_open)
        token = await away(house, {"sms": await opaque_id(house)})
        await house.shop.push(token, "nobody there")
        await until(lambda: house.gateway.metrics.value(Metric.NOTIFIER_OUTCOMES, "sms hlr_unknown") == 1)
        assert smsc.submissions == []
        hss.by_number.append(Subscription(OPENED_MSISDN.lstrip("+"), IMSI))
        await house.shop.push(token, "there you are")
        await until(lambda: len(smsc.submissions) == 1)
        assert hss.faults == []
    finally:
        await house.gateway.stop()
        await smsc.close()
        await hss.close()


async def test_who_is_called_and_not_known_here_is_asked_for_by_sh(open_house: Open, tmp_path: Path) -> None:
    """C14: the CSCF holds the call, the HSS says the number, the short message goes there."""
    hss, smsc, cscf = LocalDiameter(), LocalSmsc(), LocalCscf()
    hss.by_impu[IMPU] = Subscription(MSISDN, IMSI)
    await cscf.start()
    house = await open_house(
        {
            **settings(tmp_path, await smsc.start()),
            "diameter.peers": [f"127.0.0.1:{await hss.start()}"],
            "diameter.origin_host": "pushgw.example.net",
            "diameter.origin_realm": "example.net",
            "ims.servers": [f"127.0.0.1:{cscf.port}"],
            "ims.app": "shop",
            "ims.refuse_ms": 0,
        }
    )
    try:
        await until(lambda: smsc.is_bound and hss.is_open)
        held = cscf.invite(IMPU)
        async with asyncio.timeout(60):
            await held.paged.wait()
        assert smsc.submissions[0].message.destination.digits == MSISDN
        assert cscf.register(IMPU) == 1
        stranger = cscf.invite("sip:nobody@ims.example.com")
        assert await stranger.ended == "refused"
        assert {asked.header.command for asked in hss.requests} == {Command.USER_DATA}
        assert hss.faults == cscf.faults == []
        assert not [secret for secret in (MSISDN, IMSI, IMPU) if secret in house.gateway.metrics.render().decode()]
    finally:
        await house.gateway.stop()
        await cscf.close()
        await smsc.close()
        await hss.close()
