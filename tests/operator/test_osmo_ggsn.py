"""osmo-ggsn with a context that sgsnemu opens: who has one is on line at its address, and off line when it is gone
(C11)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from ip_scene import OPAQUE, IpScene, subscriber, until
from needs import needs

from gateway.metrics import Metric
from gateway.paging.app_payload import parse_payload
from gateway.paging.ip.ggsn import OsmoGgsn
from gateway.paging.ip.online import OFF_LINE
from gateway.tour.operator.ggsn import IMSI, MSISDN, NAME, NEEDED, VTY_PORT, Ggsn, why_not

TUN = pytest.mark.skipif(bool(why_not()), reason=f"NOT TESTED: {why_not()}, beside apt install osmo-ggsn")
pytestmark = [pytest.mark.slow, needs(NEEDED), TUN]


@pytest.fixture
async def ggsn(tmp_path: Path) -> AsyncIterator[Ggsn]:
    async with Ggsn(tmp_path) as ggsn:
        yield ggsn


async def test_on_line_with_its_address_and_off_line_again(ggsn: Ggsn) -> None:
    register = OsmoGgsn(ggsn.ip, VTY_PORT, NAME, 5.0)
    who = subscriber(imsi=IMSI)
    assert await register.look_up(who) == OFF_LINE
    ggsn.attach(3)
    async with asyncio.timeout(60):
        while (where := await register.look_up(who)) == OFF_LINE:
            await asyncio.sleep(0.05)
    assert where is not None
    assert re.fullmatch(rf"{ggsn.pool}\.\d+", str(where.addresses[0]))
    assert await OsmoGgsn(ggsn.ip, VTY_PORT, NAME, 5.0, ["ims"]).look_up(who) == (True, ())
    assert await register.look_up(subscriber(imsi="240010123456780")) == OFF_LINE
    assert await register.look_up(subscriber(msisdn=f"+{MSISDN}")) is None
    with pytest.raises(ValueError, match="refuses"):
        await OsmoGgsn(ggsn.ip, VTY_PORT, "another", 5.0).look_up(who)
    async with asyncio.timeout(30):
        while await register.look_up(who) != OFF_LINE:
            await asyncio.sleep(0.1)


async def test_who_is_off_line_is_asked_for_until_the_context_is_there(ggsn: Ggsn, tmp_path: Path) -> None:
    settings = {"ggsn": f"{ggsn.ip}:{VTY_PORT}", "networks": [f"{ggsn.pool}.0/24"], "loopback": False, "ack_s": 0.3}
    async with IpScene(tmp_path, listens=False, ip=settings) as scene:
        scene.subscribers.known[OPAQUE] = subscriber(imsi=IMSI)
        assert (await scene.push()).detail == "later"
        await until(lambda: scene.metrics.value(Metric.IP_REQUERIES, "off_line") >= 1)
        ggsn.attach(6)
        await until(lambda: scene.backs == [3])
        # it is sent to the address in the pool; nobody listens there
        result = await scene.push()
        assert (result.ok, result.detail) == (False, "no_ack")
        assert scene.metrics.value(Metric.IP_DATAGRAMS) == 2
    assert ip_address(f"{ggsn.pool}.1").is_private


async def test_a_datagram_goes_through_the_tunnel_to_the_app_on_the_mobile(ggsn: Ggsn, tmp_path: Path) -> None:
    settings = {"ggsn": f"{ggsn.ip}:{VTY_PORT}", "networks": [f"{ggsn.pool}.0/24"], "loopback": False}
    async with IpScene(tmp_path, listens=False, ip=settings) as scene:
        scene.subscribers.known[OPAQUE] = subscriber(imsi=IMSI)
        assert (await scene.push()).detail == "later"
        await ggsn.attach_listening(60, scene.config.ip.port)
        await until(lambda: scene.backs == [3])
        result = await scene.push()
        assert (result.ok, result.detail) == (True, "ok")
        (payload,) = map(parse_payload, ggsn.woken)
        assert payload.title == "Hi"
