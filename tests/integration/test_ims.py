"""The whole gateway with a SIP server's side that runs here: who is called is paged by a short message or over the
channel, and what is held outlives a gateway (C14)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from open_house import House, until

from gateway.metrics import Metric
from gateway.paging.ims.contact import PushParams, build_push_params
from gateway.paging.ims.local import Held, LocalCscf
from gateway.paging.sms.local import LocalSmsc

Open = Callable[..., Any]
IMPU, MSISDN = "sip:bob@ims.example.com", "+491511234567"


class Operator:
    def __init__(self, folder: Path) -> None:
        self.smsc, self.cscf = LocalSmsc(), LocalCscf()
        self._file = folder / "smpp-password"

    async def start(self) -> None:
        self._file.write_text("secret\n")
        self._file.chmod(0o600)
        await self.smsc.start()
        await self.cscf.start()

    def settings(self) -> dict[str, Any]:
        return {
            "paging.smscs": [f"smpp://pushgw@127.0.0.1:{self.smsc.port}"],
            "paging.smsc_password_file": str(self._file),
            "paging.smsc_reconnect_s": 0.05,
            "identity.host": "push.example.com",
            "ims.servers": [f"127.0.0.1:{self.cscf.port}"],
            "ims.app": "shop",
            "ims.reconnect_s": 0.05,
            "ims.reconnect_max_s": 0.1,
            "ims.retry_ms": 50,
        }


@pytest.fixture
async def operator(tmp_path: Path) -> AsyncIterator[Operator]:
    operator = Operator(tmp_path)
    await operator.start()
    yield operator
    await operator.cscf.close()
    await operator.smsc.close()
    assert operator.cscf.faults == operator.smsc.faults == []


async def attach(house: House) -> str:
    """Bob is known; returns an opaque id of his."""
    key = house.gateway.admin_key_file.read_text().strip()
    ids = [{"kind": "impu", "value": IMPU}, {"kind": "msisdn", "value": MSISDN}]
    answer = await house.http.post(
        "/v1/subscribers",
        json={"network_ids": ids, "trigger": "attach", "app": "shop"},
        headers={"authorization": f"Bearer {key}"},
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["ids"][0]["id"])


async def opt_out(house: House) -> None:
    key = house.gateway.admin_key_file.read_text().strip()
    answer = await house.http.post(
        "/v1/subscribers/opt-out",
        json={"network_id": {"kind": "impu", "value": IMPU}, "app": "shop"},
        headers={"authorization": f"Bearer {key}"},
    )
    assert answer.status_code == 200, answer.text


async def paged(held: Held) -> None:
    async with asyncio.timeout(60):
        await held.paged.wait()


async def test_who_is_called_gets_a_short_message_whether_registered_here_or_not(
    open_house: Open, operator: Operator
) -> None:
    house = await open_house(operator.settings() | {"paging.coalesce_s": 0})
    opaque = await attach(house)
    for params in ("", build_push_params(PushParams("heliograph", "shop", opaque))):
        count = len(operator.smsc.submissions)
        held = operator.cscf.invite(IMPU, params=params)
        await paged(held)
        assert len(operator.smsc.submissions) == count + 1
        assert operator.cscf.register(IMPU) == 1
    assert operator.smsc.submissions[0].message.destination.digits == MSISDN[1:]
    await opt_out(house)
    held = operator.cscf.invite(IMPU)
    assert await held.ended == "refused"
    assert held.told == ["refused unpageable"]


async def test_a_token_in_the_contact_is_an_ordinary_push_that_is_taken_back_at_the_end(
    open_house: Open, operator: Operator
) -> None:
    house = await open_house(operator.settings())
    device = house.device()
    await device.login()
    token = str(await device.register(fallback=[]))
    params = build_push_params(PushParams("heliograph", None, token))
    device.close()

    async def is_away() -> bool:
        return not await house.shop.is_connected(token)

    await until(is_away)
    journal = house.gateway.store.journal
    held = operator.cscf.invite(IMPU, params=params)
    await paged(held)
    assert journal.pending_count() == 1
    operator.cscf.cancel(held)
    await until(lambda: journal.pending_count() == 0)
    assert operator.smsc.submissions == []
    # over the channel, where it is there
    await device.login()
    assert await device.register(fallback=[]) == token
    held = operator.cscf.invite(IMPU, params=params)
    await paged(held)
    assert (await device.note())["data"] == {"ims": "INVITE"}


async def test_what_is_held_while_a_gateway_starts_anew_is_paged_by_the_next(
    open_house: Open, operator: Operator, tmp_path: Path
) -> None:
    house = await open_house(operator.settings())
    await attach(house)
    await house.gateway.drain()
    await until(lambda: not operator.cscf.is_connected)
    held = operator.cscf.invite(IMPU, left_s=30)
    await house.restart()
    await paged(held)
    assert house.gateway.metrics.value(Metric.IMS_CALLS, "paged") == 1


async def test_without_a_server_there_is_no_ims_paging(open_house: Open) -> None:
    house = await open_house()
    assert house.gateway.operator.ims.links == []


async def test_a_server_that_is_away_does_not_keep_the_gateway_from_starting(
    open_house: Open, operator: Operator
) -> None:
    port = operator.cscf.port
    await operator.cscf.close()
    house = await open_house(operator.settings())
    await attach(house)
    await until(lambda: house.gateway.metrics.value(Metric.IMS_LINKS_ENDED, "connection") > 0)
    await operator.cscf.start(port)
    await until(lambda: operator.cscf.is_connected)
    await paged(operator.cscf.invite(IMPU))
