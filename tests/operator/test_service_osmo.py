"""A service page reaches a terminal through real network elements (HLR, SMSC, MSC, paging, SMS-DELIVER); the terminal
looks its AID up and starts the app (C13)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from needs import needs
from sms_scene import OPAQUE, SmsScene, until

from gateway.auth.service_keys import ServiceKeys
from gateway.client.service_pages import Invitation, Outcome, ServicePages
from gateway.model.notification import Content, Notification, Target
from gateway.model.notification import Invitation as Asked
from gateway.model.ports import NotifierResult, Numbers
from gateway.model.registration import App, Registration, build_token
from gateway.model.service_access import is_proved
from gateway.model.service_page import MOST_BYTES, MOST_PARAMS, build_page, parse_page
from gateway.notifiers.upstream import unix_ms
from gateway.paging.guard import Guard
from gateway.paging.service.bearers import SmsPages
from gateway.paging.service.client import ServiceNotifier
from gateway.paging.sms.hlr import OsmoHlr
from gateway.paging.sms.settings import build_source
from gateway.paging.udh import Ports, parse_header
from gateway.paging.waiting import Waiting
from gateway.tour.operator.osmo import NEEDED, Operator
from gateway.tour.operator.terminal import MSISDN, Terminal

pytestmark = [pytest.mark.slow, needs(NEEDED)]

KEYS = ServiceKeys(b"s" * 32)
TOKEN = b"t" * 16
SERVERS = "https://a.example.com/ https://b.example.com/"


@pytest.fixture
async def operator(tmp_path: Path) -> AsyncIterator[Operator]:
    async with Operator(tmp_path) as operator:
        yield operator


class OperatorScene(SmsScene):
    """The bearer before osmo-msc, with the HLR asked first, and the pager service on it."""

    def __init__(self, operator: Operator) -> None:
        super().__init__(0)
        self.operator = operator
        self.register = OsmoHlr(operator.ip, 4259, 5.0)
        self.subscribers.known[OPAQUE, "shop"] = Numbers(MSISDN, "")

    def links(self, ports: Any) -> Any:
        (link,) = super().links([2775])
        return [replace(link, smsc=replace(link.smsc, host=self.operator.ip), answer_s=5.0)]

    async def page(self, seq: int, asked: Asked) -> NotifierResult:
        pager = ServiceNotifier(
            self.config,
            network=SmsPages(self.bearer, build_source("4999"), "service"),
            metrics=self.metrics,
            keys=KEYS,
            guard=Guard(
                self.config.paging,
                self.subscribers,
                Waiting(self.config.paging, self.metrics),
                self.metrics,
                unix_ms,
            ),
        )
        now_s = unix_ms() // 1000
        registration = Registration(
            number=3, token=TOKEN, device="d", app="shop", version="1", addresses={"service": OPAQUE}
        )
        return await pager.notify(
            App(name="shop", notifiers={"service": {"aid": "com.example.chat", "servers": SERVERS}}),
            registration,
            Notification(
                seq=seq,
                app="shop",
                target=Target(tag="vip"),
                content=Content(title="Hi"),
                accepted_ms=now_s * 1000,
                expires_s=now_s + 600,
                ack_ms=1,
                notifier_ack_ms=1,
                service=asked,
            ),
        )


async def test_the_terminal_starts_the_app_of_a_page_from_the_air(operator: Operator) -> None:
    pages, started = ServicePages(), list[Invitation]()
    pages.bind(build_token(TOKEN), "shop", KEYS.page_key(TOKEN), SERVERS.split())
    pages.on_page("shop", started.append, aid="com.example.chat")
    async with Terminal(operator.ip) as terminal, OperatorScene(operator) as scene:
        await terminal.attach()
        longest = b"p" * MOST_PARAMS
        for seq, asked in ((9, Asked(server=1, params=longest)), (10, Asked())):
            result = await scene.page(seq, asked)
            assert result.ok, result
        await until(lambda: len(terminal.delivered) == 2)
        bodies = []
        for sms in terminal.delivered:
            assert sms.has_header
            assert sms.coding & 0x0C == 0x04  # 8-bit data
            header, body = parse_header(sms.data)
            assert header.ports == Ports(16_000, 16_000)
            bodies.append(body)
        assert sorted(map(len, bodies)) == [MOST_BYTES - MOST_PARAMS, MOST_BYTES]  # as it left, to the last byte
        assert [pages.take(body) for body in bodies] == [Outcome.STARTED] * 2
        await until(lambda: len(started) == 2)
        by_server = {invitation.server: invitation for invitation in started}
        assert by_server["https://b.example.com/"].params == longest
        assert by_server["https://a.example.com/"].params == b""
        assert all(is_proved(invitation.request, KEYS.page_key(TOKEN)) for invitation in started)
        assert terminal.pagings >= 1
        await until(lambda: scene.history.words == ["delivered", "delivered"])
        assert {step[3] for step in scene.history.steps} == {"service"}
        # what anybody could send to the port, and the same again
        forged = build_page(parse_page(bodies[0])._replace(counter=unix_ms() * 1000 + 10**9), bytes(32))
        assert pages.take(forged) is Outcome.FORGED
        assert pages.take(bodies[0]) is Outcome.REPLAYED
        assert len(started) == 2
