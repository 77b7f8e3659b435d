"""A push to an opaque id reaches a terminal through real network elements: HLR, SMSC, MSC, paging, SMS-DELIVER, and the
receipt comes back (C8)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from needs import needs
from sms_scene import OPAQUE, SmsScene, until

from gateway.metrics import Metric
from gateway.model.notification import Content
from gateway.model.ports import Numbers
from gateway.paging.app_payload import parse_payload
from gateway.paging.gsm7 import parse_septets, unpack
from gateway.paging.sms.hlr import OsmoHlr
from gateway.paging.udh import Ports, parse_header
from gateway.tour.operator.osmo import NEEDED, Operator
from gateway.tour.operator.terminal import IMSI, MSISDN, Terminal

pytestmark = [pytest.mark.slow, needs(NEEDED)]


@pytest.fixture
async def operator(tmp_path: Path) -> AsyncIterator[Operator]:
    async with Operator(tmp_path) as operator:
        yield operator


class OperatorScene(SmsScene):
    """The notifier before osmo-msc, with the HLR asked first."""

    def __init__(self, operator: Operator, **changes: Any) -> None:
        super().__init__(0, **changes)
        self.operator = operator
        self.register = OsmoHlr(operator.ip, 4259, 5.0)
        self.subscribers.known[OPAQUE, "shop"] = Numbers(MSISDN, "")

    def links(self, ports: Any) -> Any:
        (link,) = super().links([2775])
        return [replace(link, smsc=replace(link.smsc, host=self.operator.ip), answer_s=5.0)]


async def test_a_push_reaches_the_terminal_and_its_receipt_the_history(operator: Operator) -> None:
    async with Terminal(operator.ip) as terminal, OperatorScene(operator) as scene:
        await terminal.attach()
        result = await scene.push()
        assert result.ok, result
        await until(lambda: len(terminal.delivered) == 1)
        sms = terminal.delivered[0]
        assert sms.has_header
        assert sms.coding & 0x0C == 0x04  # 8-bit data
        header, body = parse_header(sms.data)
        assert header.ports == Ports(16_000, 16_000)
        payload = parse_payload(body)
        assert (payload.title, payload.text) == ("Hi", "there")
        assert terminal.pagings >= 1
        await until(lambda: scene.history.words == ["delivered"])
        # by IMSI, where there is no MSISDN
        scene.register = None
        scene.subscribers.known[OPAQUE, "shop"] = Numbers("", IMSI)
        scene.bearer._register = None
        assert (await scene.push(seq=10)).ok
        await until(lambda: len(terminal.delivered) == 2)
        await until(lambda: len(scene.history.words) == 2)
        assert scene.history.words == ["delivered", "delivered"]
        # a text for the user
        scene.settings = {"mode": "text"}
        assert (await scene.push(seq=11, content=Content(text="Hällo {€}"))).ok
        await until(lambda: len(terminal.delivered) == 3)
        sms = terminal.delivered[2]
        assert parse_septets(unpack(sms.data, sms.length)) == "Hällo {€}"
        assert scene.metrics.value(Metric.SMS_INCOMING, "malformed") == 0


async def test_who_the_hlr_does_not_know_is_dead_and_no_message_leaves(operator: Operator) -> None:
    async with OperatorScene(operator) as scene:
        scene.subscribers.known[OPAQUE, "shop"] = Numbers("4930999999", "")
        result = await scene.push()
        assert (result.dead, result.detail) == (True, "hlr_unknown")
        assert scene.metrics.value(Metric.SMS_PARTS) == 0


async def test_the_hlr_says_what_is_missing(operator: Operator) -> None:
    hlr = OsmoHlr(operator.ip, 4259, 5.0)
    assert await hlr.look_up(Numbers(MSISDN, "")) == Numbers(MSISDN, IMSI)
    assert await hlr.look_up(Numbers("", IMSI)) == Numbers(MSISDN, IMSI)
    assert await hlr.look_up(Numbers("", "001019999999999")) is None


async def test_a_subscriber_that_comes_back_is_told(operator: Operator) -> None:
    async with Terminal(operator.ip) as terminal, OperatorScene(operator) as scene:
        assert (await scene.push()).ok  # it is away: the SMSC keeps the message
        await terminal.attach()
        await until(lambda: bool(scene.backs) and bool(terminal.delivered))
        assert scene.backs[0] == Numbers(MSISDN)
