"""The pager service: what it puts into a page, which bearer takes it, and what becomes of it (C13)."""

from __future__ import annotations

import time
from typing import Any, Self

import pytest
from sms_scene import MSISDN, OPAQUE, SmsScene, until

from gateway.auth.service_keys import ServiceKeys
from gateway.config.check import conflicts
from gateway.config.sections import Config
from gateway.metrics import Metric
from gateway.model.errors import BadRequest
from gateway.model.notification import Content, Invitation, Notification, Target
from gateway.model.ports import Notifier, NotifierResult
from gateway.model.registration import App, Registration
from gateway.model.service_page import MOST_BYTES, MOST_PARAMS, hash_aid, hash_id, is_signed, parse_page
from gateway.notifiers.upstream import unix_ms
from gateway.paging import pagers_of
from gateway.paging.guard import Guard
from gateway.paging.service.bearers import SmsPages
from gateway.paging.service.client import LEAST_VALIDITY_S, ServiceNotifier
from gateway.paging.sms.local import Behaviour
from gateway.paging.sms.pdu import Status
from gateway.paging.sms.settings import build_source
from gateway.paging.udh import Ports, parse_header
from gateway.paging.waiting import Waiting

KEYS = ServiceKeys(b"s" * 32)
TOKEN = b"t" * 16
TWO = "https://a.example.com/ https://b.example.com/"


class FakeLinks:
    """DevicePages: says what it is told to."""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.pages: list[bytes] = []

    async def page(self, registration: int, page: bytes, within_s: float) -> bool:
        assert registration == 3
        self.pages.append(page)
        return self.answers.pop(0) if self.answers else False


class ServiceScene:
    """The pager before an SMSC that runs here. As a context manager."""

    def __init__(self, *, has_network: bool = True, **paging: Any) -> None:
        self.sms = SmsScene(paging=paging)
        self.has_network = has_network
        self.settings: dict[str, str] = {}
        self.links = FakeLinks()

    async def __aenter__(self) -> Self:
        await self.sms.__aenter__()
        scene = self.sms
        network = SmsPages(scene.bearer, build_source("4999"), "service")
        self.notifier = ServiceNotifier(
            scene.config,
            network=network if self.has_network else None,
            metrics=scene.metrics,
            keys=KEYS,
            guard=Guard(
                scene.config.paging,
                scene.subscribers,
                Waiting(scene.config.paging, scene.metrics),
                scene.metrics,
                unix_ms,
            ),
        )
        self.notifier.use_links(self.links)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.notifier.close()
        await self.sms.__aexit__()
        self.sms.assert_strict()

    async def push(self, *, address: str = OPAQUE, seq: int = 9, **changes: Any) -> NotifierResult:
        now_s = int(time.time())
        values: dict[str, Any] = {
            "seq": seq,
            "app": "shop",
            "target": Target(tag="vip"),
            "content": Content(title="Hi", text="there"),
            "accepted_ms": now_s * 1000,
            "expires_s": now_s + 3_600,
            "ack_ms": 1,
            "notifier_ack_ms": 1,
        }
        addresses = {"service": address} if address else {}
        registration = Registration(number=3, token=TOKEN, device="d", app="shop", version="1", addresses=addresses)
        app = App(name="shop", notifiers={"service": self.settings})
        return await self.notifier.notify(app, registration, Notification(**{**values, **changes}))

    @property
    def sent(self) -> list[bytes]:
        """What came to the port of the terminal."""
        return [parse_header(submission.message.message)[1] for submission in self.sms.smsc.submissions]


async def test_a_page_says_what_the_push_and_the_apps_settings_say() -> None:
    async with ServiceScene() as scene:
        assert (await scene.push()).ok
        scene.settings = {"aid": "com.example.chat", "servers": TWO, "port": "16123"}
        assert (await scene.push(service=Invitation(server=1, params=b"table=7"))).ok
        assert (await scene.push(service=Invitation(aid="paper"))).ok
        assert (await scene.push(service=Invitation(aid=""))).ok
        pages = [parse_page(data) for data in scene.sent]
        aids = [hash_aid(aid, KEYS.page_key(TOKEN)) for aid in ("shop", "com.example.chat", "paper", "")]
        assert [page.aid for page in pages] == aids
        assert {page.id for page in pages} == {hash_id(TOKEN)}
        assert (pages[1].server, pages[1].params) == (1, b"table=7")
        assert all(is_signed(data, KEYS.page_key(TOKEN)) for data in scene.sent)
        assert [page.counter for page in pages] == sorted({page.counter for page in pages})
        header, _ = parse_header(scene.sms.smsc.submissions[1].message.message)
        assert header.ports == Ports(16_123, 16_123)
        ticket = KEYS.parse_ticket("shop", pages[1].ticket, "com.example.chat", 1)
        assert ticket is not None
        assert (ticket.push, ticket.registration) == (9, 3)
        assert b"Hi" not in scene.sent[0]
        assert scene.sms.metrics.value(Metric.SERVICE_PAGES, "sms") == 4


async def test_the_longest_page_fits_into_one_short_message() -> None:
    async with ServiceScene() as scene:
        assert (await scene.push(service=Invitation(params=b"p" * MOST_PARAMS))).ok
        assert [len(data) for data in scene.sent] == [MOST_BYTES]


async def test_a_push_that_is_now_or_never_leaves_the_page_a_moment() -> None:
    async with ServiceScene() as scene:
        now_s = int(time.time())
        assert (await scene.push(expires_s=now_s)).ok
        assert parse_page(scene.sent[0]).expires_s >= now_s + LEAST_VALIDITY_S


async def test_a_second_try_has_the_same_ticket_and_another_counter() -> None:
    async with ServiceScene() as scene:
        expires_s = int(time.time()) + 600
        for _ in range(2):
            assert (await scene.push(expires_s=expires_s)).ok
        first, second = map(parse_page, scene.sent)
        assert first.ticket == second.ticket
        assert first.counter < second.counter


async def test_a_second_try_of_a_short_lived_push_has_the_same_ticket_too() -> None:
    async with ServiceScene() as scene:
        accepted_ms = int(time.time()) * 1000
        for passed_ms in (0, 8_000):
            scene.notifier._clock = lambda passed_ms=passed_ms: accepted_ms + passed_ms
            assert (await scene.push(accepted_ms=accepted_ms, expires_s=accepted_ms // 1000 + 20)).ok
        first, second = map(parse_page, scene.sent)
        assert first.ticket == second.ticket


async def test_the_link_is_first_and_the_same_page_goes_by_sms_where_it_is_silent() -> None:
    async with ServiceScene() as scene:
        scene.links.answers = [True, False]
        taken = await scene.push()
        assert (taken.ok, taken.detail) == (True, "link")
        assert scene.sent == []
        assert (await scene.push()).ok
        assert scene.sent == [scene.links.pages[1]]
        await until(lambda: scene.sms.history.words == ["delivered"])
        assert scene.sms.history.steps[0][3] == "service"  # its receipt is the pager's


@pytest.mark.parametrize(("address", "reason"), [("", "no_address"), ("who", "unknown_subscriber")])
async def test_who_is_not_known_gets_nothing_and_the_next_of_the_chain_is_asked(address: str, reason: str) -> None:
    async with ServiceScene() as scene:
        result = await scene.push(address=address)
        assert (result.dead, result.detail) == (True, reason.replace("_", " "))
        assert scene.sent == []


async def test_without_an_smsc_a_silent_link_is_the_end() -> None:
    async with ServiceScene(has_network=False) as scene:
        result = await scene.push()
        assert (result.ok, result.dead, result.detail) == (False, True, "no bearer")


async def test_a_server_that_the_app_has_not_named_is_no_page() -> None:
    async with ServiceScene() as scene:
        assert (await scene.push(service=Invitation(server=7))).ok  # the app on the terminal has a list of its own
        scene.links.pages.clear()
        scene.settings = {"servers": TWO}
        result = await scene.push(service=Invitation(server=2))
        assert (result.dead, result.detail) == (True, "no server")
        assert scene.links.pages == []


async def test_one_page_stands_for_another_only_where_it_asks_for_the_same() -> None:
    async with ServiceScene(coalesce_s=60.0) as scene:
        asked = [None, None, Invitation(aid="paper"), Invitation(params=b"7"), Invitation(params=b"7")]
        results = [await scene.push(seq=20 + at, service=each) for at, each in enumerate(asked)]
        assert all(result.ok for result in results)
        assert len(scene.sent) == 3
        assert scene.sms.metrics.value(Metric.NOTIFIER_OUTCOMES, "service coalesced") == 2


async def test_a_subscriber_is_paged_no_oftener_than_the_guard_allows() -> None:
    async with ServiceScene(subscriber_per_hour=1.0, subscriber_burst=2) as scene:
        results = [await scene.push(seq=20 + at) for at in range(4)]
        assert [result.ok for result in results] == [True, True, False, False]
        assert not results[2].asked


@pytest.mark.parametrize(
    ("behaviour", "reason", "dead"),
    [
        (Behaviour(status=Status.RINVDSTADR), "RINVDSTADR", True),
        (Behaviour(status=Status.RTHROTTLED), "RTHROTTLED", False),
        (Behaviour(status=Status.RSYSERR), "RSYSERR", False),
        (Behaviour(closes=True), "link_lost", False),
    ],
)
async def test_what_the_smsc_says_is_what_became_of_it(behaviour: Behaviour, reason: str, dead: bool) -> None:
    async with ServiceScene() as scene:
        scene.sms.smsc.behaviour = behaviour
        result = await scene.push()
        assert (result.ok, result.dead) == (False, dead)
        assert scene.sms.metrics.value(Metric.NOTIFIER_OUTCOMES, f"service {reason}") == 1
        assert scene.sms.metrics.value(Metric.SERVICE_PAGES, "sms") == 0
        assert MSISDN not in str(result)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"aid": "a" * 65}, "aid"),
        ({"aid": "a\x00"}, "aid"),
        ({"port": "80"}, "port"),
        ({"servers": "http://example.com"}, "servers"),
        ({"servers": "https://a " * 9}, "servers"),
        ({"mode": "text"}, "mode"),
    ],
)
async def test_a_setting_that_can_not_be_used_is_refused_without_its_value(settings: dict[str, str], key: str) -> None:
    async with ServiceScene() as scene:
        with pytest.raises(BadRequest) as caught:
            scene.notifier.check(settings)
        assert caught.value.field == f"notifiers.service.{key}"
        scene.notifier.check({"aid": "chat", "servers": TWO, "port": "16001"})


def test_a_link_is_not_waited_for_until_the_pager_is_cut_off() -> None:
    config = Config()
    assert conflicts(config) == []
    config.service.link_answer_s = 10.0
    assert [field for field, _ in conflicts(config)] == ["service.link_answer_s"]


async def test_who_has_an_opaque_id_and_never_registered_is_not_sent_what_it_can_not_check() -> None:
    async with ServiceScene() as scene:
        notifiers: dict[str, Notifier] = {"sms": scene.sms.notifier, "service": scene.notifier}
        assert pagers_of(notifiers) == ["sms"]
