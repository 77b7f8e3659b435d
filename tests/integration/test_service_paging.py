"""The whole gateway invites a terminal to start an app that does not run (C13): by the device's own link or by a short
message; the app connects to its server, which asks the gateway and answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from open_house import House, until

from gateway.client import AckPolicy, Device, FileCredentials, FilePages, Invitation, Registration, ServicePages
from gateway.client.service_access import AccessFailed, AccessReply, AccessVerifier, request_access
from gateway.client.service_pages import Outcome
from gateway.metrics import Metric
from gateway.model.frames import FrameType
from gateway.model.service_access import AccessAnswer, build_access
from gateway.model.service_page import build_page, parse_page
from gateway.paging.sms.local import Behaviour, LocalSmsc
from gateway.paging.sms.pdu import Status
from gateway.paging.udh import Ports, parse_header

Open = Callable[..., Any]
MSISDN = "+491511234567"
AID = "com.example.chat"


class AppServer:
    """The app's server: takes service access requests, and serves who the gateway says was invited."""

    def __init__(self) -> None:
        self.served: list[AccessAnswer] = []
        self.refused = 0
        self.bodies: list[bytes] = []
        self.verifier: AccessVerifier

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/access"

    async def close(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"POST /access HTTP/1.1\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        body = await reader.readexactly(length)
        self.bodies.append(body)
        invited = await self.verifier.verify(body)
        if invited is None:
            self.refused += 1
        else:
            self.served.append(invited)
        status, answer = (b"200 OK", b"welcome") if invited else (b"403 Forbidden", b"")
        writer.write(
            b"HTTP/1.1 %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (status, len(answer), answer)
        )
        await writer.drain()
        writer.close()


class Terminal:
    """What stays on the terminal while its apps do not run: table, keys, and whoever hands it short messages."""

    def __init__(self) -> None:
        self.pages: ServicePages
        self.started: list[Invitation] = []
        self.replies: list[AccessReply] = []

    async def start_app(self, invitation: Invitation) -> None:
        self.started.append(invitation)
        self.replies.append(await request_access(invitation, timeout_s=5))


class Scene:
    def __init__(self, house: House, smsc: LocalSmsc, server: AppServer, terminal: Terminal, token: str) -> None:
        self.house, self.smsc, self.server, self.terminal, self.token = house, smsc, server, terminal, token

    async def push(self, **fields: Any) -> str:
        return await self.house.shop.push(self.token, "secret title", fallback=["service"], **fields)

    def short_message(self, index: int = -1) -> bytes:
        """What the terminal reads of the app port."""
        header, body = parse_header(self.smsc.submissions[index].message.message)
        assert header.ports == Ports(16_000, 16_000)
        return body


async def opaque_id(house: House) -> str:
    """Of a subscriber that attached a moment ago."""
    key = house.gateway.admin_key_file.read_text().strip()
    answer = await house.http.post(
        "/v1/subscribers",
        json={"network_ids": [{"kind": "msisdn", "value": MSISDN}], "trigger": "attach", "app": "shop"},
        headers={"authorization": f"Bearer {key}"},
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["ids"][0]["id"])


async def enrol(house: House, folder: Path, terminal: Terminal) -> str:
    """The device registers once, over its authenticated link, and leaves."""
    opaque = await opaque_id(house)
    terminal.pages = await ServicePages.open(FilePages(folder / "pages"))
    terminal.pages.on_page("shop", terminal.start_app, aid=AID)
    async with Device("127.0.0.1", house.port, pages=terminal.pages, store=FileCredentials(folder / "id")) as device:
        registration = await device.register("shop", "1.0", account="ann", addresses={"service": opaque})
        await until((folder / "id").exists)  # else it would be another device the next time
    await terminal.pages.aclose()

    async def is_away() -> bool:
        return not await house.shop.is_connected(registration.token)

    await until(is_away)
    return str(registration.token)


@pytest.fixture
async def scene(open_house: Open, tmp_path: Path) -> AsyncIterator[Scene]:
    smsc, server, terminal = LocalSmsc(), AppServer(), Terminal()
    file = tmp_path / "smpp-password"
    file.write_text("secret\n")
    file.chmod(0o600)
    url = await server.start()
    house = await open_house(
        {
            "paging.smscs": [f"smpp://pushgw@127.0.0.1:{await smsc.start()}"],
            "paging.smsc_password_file": str(file),
            "paging.smsc_reconnect_s": 0.05,
            "paging.coalesce_s": 0.0,
            "paging.jitter_s": 0.0,
            "delivery.ack_ms": 50,
            "delivery.retry_ms": 100,
            "delivery.notifier_ack_ms": 60_000,
            "service.link_answer_s": 0.3,
            "identity.host": "push.example.com",
        },
        apps={"shop": {"notifiers": {"service": {"aid": AID, "servers": url}}}, "other": {}},
    )
    try:
        await until(lambda: smsc.is_bound)
        server.verifier = AccessVerifier(str(house.http.base_url), house.shop.key)
        token = await enrol(house, tmp_path, terminal)
        yield Scene(house, smsc, server, terminal, token)
        assert smsc.faults == []
    finally:
        await server.close()
        await smsc.close()


async def test_a_short_message_starts_the_app_and_its_server_serves_it_once(scene: Scene) -> None:
    push = await scene.push(service={"params": "table=7"})
    await until(lambda: scene.smsc.submissions)
    assert scene.terminal.pages.take(scene.short_message()) is Outcome.STARTED
    await until(lambda: scene.terminal.replies)
    (invitation,) = scene.terminal.started
    assert (invitation.app, invitation.aid, invitation.params) == ("shop", AID, b"table=7")
    assert scene.terminal.replies == [AccessReply(200, b"welcome")]
    (invited,) = scene.server.served
    assert (invited.token, invited.account, invited.aid, invited.push) == (scene.token, "ann", AID, push)
    # the same request again, by whoever has seen it
    assert await scene.server.verifier.verify(scene.server.bodies[0]) is None
    assert scene.house.value(Metric.SERVICE_ACCESS, "repeated") == 1
    assert "notified" in await scene.house.shop.steps(push)


async def test_a_used_ticket_stays_used_over_a_restart(scene: Scene) -> None:
    await scene.push()
    await until(lambda: scene.smsc.submissions)
    scene.terminal.pages.take(scene.short_message())
    await until(lambda: scene.server.served)
    await scene.house.restart()
    scene.server.verifier = AccessVerifier(str(scene.house.http.base_url), scene.house.shop.key)
    assert await scene.server.verifier.verify(scene.server.bodies[0]) is None
    assert scene.house.value(Metric.SERVICE_ACCESS, "repeated") == 1


async def test_a_page_made_before_a_restart_of_both_sides_is_good_after_it(scene: Scene, tmp_path: Path) -> None:
    await scene.push()
    await until(lambda: scene.smsc.submissions)
    page = scene.short_message()
    await scene.house.restart()
    scene.server.verifier = AccessVerifier(str(scene.house.http.base_url), scene.house.shop.key)
    pages = await ServicePages.open(FilePages(tmp_path / "pages"))
    pages.on_page("shop", scene.terminal.start_app, aid=AID)
    assert pages.take(page) is Outcome.STARTED
    await until(lambda: scene.server.served)
    await pages.aclose()
    # a terminal that starts once more knows what it has seen
    again = await ServicePages.open(FilePages(tmp_path / "pages"))
    again.on_page("shop", scene.terminal.start_app, aid=AID)
    assert again.take(page) is Outcome.REPLAYED


async def test_what_is_forged_replayed_or_of_another_id_starts_nothing(scene: Scene) -> None:
    await scene.push()
    await until(lambda: scene.smsc.submissions)
    page, pages = scene.short_message(), scene.terminal.pages
    said = parse_page(page)
    unsigned = build_page(said, bytes(32))
    for at in range(len(page)):
        changed = page[:at] + bytes((page[at] ^ 1,)) + page[at + 1 :]
        assert pages.take(changed) in (Outcome.FORGED, Outcome.UNKNOWN_ID, Outcome.GARBAGE)
        assert pages.take(page[:at]) is Outcome.GARBAGE
    assert pages.take(unsigned) is Outcome.FORGED
    assert scene.terminal.started == []
    assert pages.take(page) is Outcome.STARTED
    assert pages.take(page) is Outcome.REPLAYED
    await until(lambda: scene.server.served)
    assert len(scene.terminal.started) == 1


async def test_a_device_on_line_is_paged_over_its_link_and_no_message_leaves(scene: Scene, tmp_path: Path) -> None:
    terminal = scene.terminal
    async with await on_line(scene, tmp_path) as device:
        push = await scene.push(service={"params": "over the link"})
        await until(lambda: scene.server.served)
        assert terminal.started[0].params == b"over the link"
        assert scene.smsc.submissions == []
        steps = (await scene.house.shop.delivery(push))["steps"]
        assert ("notified", "service", "link") in [(s["what"], s["channel"], s["detail"]) for s in steps]
        assert scene.house.value(Metric.SERVICE_PAGES, "link") == 1
        assert device.counters.unknown_frames == 0


async def test_a_device_that_does_not_say_that_it_started_the_app_gets_a_short_message(
    scene: Scene, tmp_path: Path
) -> None:
    scene.terminal.pages.forget("shop", AID)
    async with await on_line(scene, tmp_path):
        push = await scene.push()
        await until(lambda: scene.smsc.submissions)
        assert scene.terminal.pages.counters[Outcome.UNKNOWN_AID] == 1
        await until(lambda: scene.house.value(Metric.SERVICE_PAGES, "sms") == 1)
        assert "notified" in await scene.house.shop.steps(push)
    assert len(scene.house.gateway.edge.pages) == 0


class _Online:
    """A device with its app shown in no window: what comes is not acked."""

    def __init__(self, device: Device, registration: Registration) -> None:
        self.device, self.registration = device, registration

    async def __aenter__(self) -> Device:
        return self.device

    async def __aexit__(self, *_: object) -> None:
        await self.device.aclose()


async def on_line(scene: Scene, folder: Path) -> _Online:
    pages = scene.terminal.pages
    device = Device("127.0.0.1", scene.house.port, pages=pages, store=FileCredentials(folder / "id"))
    device.start()
    registration = await device.register("shop", "1.0", account="ann", ack=AckPolicy.DISPLAY)
    assert registration.token == scene.token
    return _Online(device, registration)


async def test_an_expired_and_a_recalled_invitation_is_refused_by_the_gateway(scene: Scene) -> None:
    push = await scene.push()
    await until(lambda: scene.smsc.submissions)
    await scene.house.shop.recall(push)
    scene.terminal.pages.take(scene.short_message())
    await until(lambda: scene.terminal.replies)
    assert scene.terminal.replies == [AccessReply(403, b"")]
    assert scene.house.value(Metric.SERVICE_ACCESS, "recalled") == 1
    # a clock that stands still at the terminal: the gateway's counts
    backend_now = scene.house.gateway.api._backend
    await scene.push(ttl=60)
    await until(lambda: len(scene.smsc.submissions) == 2)
    now = backend_now.now_ms
    backend_now.now_ms = lambda: now() + 3_600_000
    scene.terminal.pages.take(scene.short_message())
    await until(lambda: len(scene.terminal.replies) == 2)
    assert scene.server.refused == 2
    assert scene.house.value(Metric.SERVICE_ACCESS, "expired") == 1


async def test_who_has_a_page_key_can_invite_nobody_itself(scene: Scene) -> None:
    """The device holds its page key, so it can sign: but not make a ticket, nor use one for another server or AID."""
    await scene.push()
    await until(lambda: scene.smsc.submissions)
    (known,) = scene.terminal.pages._known.values()
    ticket = parse_page(scene.short_message()).ticket
    verify, answers = scene.server.verifier.verify, []
    for aid, made, server in ((AID, bytes(16), 0), ("other", ticket, 0), (AID, ticket, 1)):
        request = build_access(known.key, scene.token, aid, made, server)
        answers.append(await verify(msgspec.json.encode(request)))
    assert answers == [None, None, None]
    assert scene.house.value(Metric.SERVICE_ACCESS, "forged") == 3
    # another app's server learns nothing of it
    stranger = AccessVerifier(str(scene.house.http.base_url), scene.house.providers["other"].key)
    good = msgspec.json.encode(build_access(known.key, scene.token, AID, ticket, 0))
    assert await stranger.verify(good) is None
    assert await verify(good) is not None
    assert await verify(b"{}") is None
    with pytest.raises(AccessFailed):
        await AccessVerifier(str(scene.house.http.base_url), "hk_wrong").verify(good)


async def test_two_that_ask_at_once_with_one_ticket_are_not_both_served(scene: Scene) -> None:
    await scene.push()
    await until(lambda: scene.smsc.submissions)
    (known,) = scene.terminal.pages._known.values()
    ticket = parse_page(scene.short_message()).ticket
    body = msgspec.json.encode(build_access(known.key, scene.token, AID, ticket, 0))
    answers = await asyncio.gather(*(scene.server.verifier.verify(body) for _ in range(8)))
    assert sum(answer is not None for answer in answers) == 1


async def test_a_page_that_can_not_go_out_says_why_and_nothing_of_it_is_shown(
    scene: Scene, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    params = "private words"
    answers = (
        (Behaviour(status=Status.RINVDSTADR), "RINVDSTADR"),
        (Behaviour(status=Status.RSYSERR), "RSYSERR"),
        (Behaviour(closes=True), "link_lost"),
    )
    shown = ""
    for behaviour, reason in answers:
        scene.smsc.behaviour = behaviour
        await until(lambda: scene.smsc.is_bound)
        push = await scene.push(service={"params": params})
        await until(lambda reason=reason: scene.house.value(Metric.NOTIFIER_OUTCOMES, f"service {reason}"))
        shown += str(await scene.house.shop.look(push))
        await scene.house.shop.recall(push)
    refused = await scene.house.shop.call(
        "POST", "/v1/push", json={"target": {"token": scene.token}, "service": {"params": "ä" * 40}}
    )
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, "service.params")
    metrics = (await scene.house.http.get("/metrics")).text
    (known,) = scene.terminal.pages._known.values()
    written = caplog.text + "".join(capsys.readouterr()) + metrics
    assert "RINVDSTADR" in written
    for secret in (MSISDN[1:], params, scene.token, str(known.key), known.key.hex()):
        assert secret not in written
    assert not any(secret in shown for secret in (MSISDN[1:], params))
    assert params not in repr(known)


async def _has(scene: Scene, push: str, step: str) -> bool:
    return step in await scene.house.shop.steps(push)


async def test_a_server_that_is_not_in_the_list_is_said_at_once(scene: Scene) -> None:
    push = await scene.push(service={"server": 3})

    async def refused() -> bool:
        return await _has(scene, push, "notifier_failed")

    await until(refused)
    assert scene.house.value(Metric.NOTIFIER_OUTCOMES, "service no_server") == 1


# --- other devices, other targets


async def bare(scene: Scene, **register: Any) -> tuple[Any, str, dict[str, Any]]:
    """A device by hand, on line, of the same subscriber."""
    device = scene.house.device()
    await device.login()
    opaque = await opaque_id(scene.house)
    device.send(
        FrameType.REGISTER,
        {"req": 1, "app": "shop", "version": "1.0", "addresses": {"service": opaque}, **register},
    )
    answer = await device.receive(FrameType.TOKEN)
    return device, answer["token"], answer


async def test_a_device_that_did_not_ask_for_pages_gets_no_key_and_its_message_at_once(scene: Scene) -> None:
    device, token, answer = await bare(scene)
    assert set(answer) <= {"req", "token", "created"}
    await scene.house.shop.push(token, fallback=["service"])
    await until(lambda: scene.smsc.submissions)
    assert [frame.kind for frame in device.frames if frame.kind == FrameType.PAGE] == []


async def test_a_device_that_goes_while_it_is_paged_gets_a_message_and_one_that_errs_keeps_its_link(
    scene: Scene,
) -> None:
    device, token, answer = await bare(scene, pages=True)
    assert len(answer["page_key"]) == 32
    (known,) = scene.terminal.pages._known.values()
    assert answer["servers"] == known.servers
    scene.house.gateway.config.service.link_answer_s = 60.0
    await scene.house.shop.push(token, fallback=["service"])
    page = await device.receive(FrameType.PAGE)
    device.send(FrameType.PAGED, {"req": "seven"})
    assert (await device.receive(FrameType.ERROR))["name"] == "invalid_field"
    device.send(FrameType.PAGED, {"req": page["req"] + 1})
    assert scene.smsc.submissions == []
    device.vanish()
    await until(lambda: scene.smsc.submissions)
    assert scene.short_message() == page["page"]
    assert scene.house.gateway.edge.pages._takers == set()


async def test_pushes_to_a_tag_to_everyone_and_in_a_batch_invite_each_once(scene: Scene) -> None:
    shop = scene.house.shop
    answer = await shop.call("PUT", f"/v1/registrations/{scene.token}", json={"tags": ["vip"]})
    assert answer.status_code == 200
    common = {"fallback": ["service"], "service": {"params": "x"}}
    await shop.push({"tag": "vip"}, "a", **common)
    await shop.push({"everyone": True}, "b", **common)
    await shop.push_many([{"target": {"token": scene.token}, "title": "c", **common}])
    await until(lambda: len(scene.smsc.submissions) == 3)
    for at in range(3):
        assert scene.terminal.pages.take(scene.short_message(at)) is Outcome.STARTED
    await until(lambda: len(scene.server.served) == 3)
    assert len({invited.push for invited in scene.server.served}) == 3
    for invited in scene.server.served:
        assert invited.token == scene.token
        await shop.look(invited.push)


async def test_after_an_account_switch_an_old_page_starts_nothing_and_opens_nothing(
    scene: Scene, tmp_path: Path
) -> None:
    """A5."""
    await scene.push()
    await until(lambda: scene.smsc.submissions)
    (known,) = scene.terminal.pages._known.values()
    ticket = parse_page(scene.short_message()).ticket
    async with await on_line(scene, tmp_path) as device:
        await device.register("shop", "1.0", account="bob", ack=AckPolicy.DISPLAY)
        assert scene.terminal.pages.take(scene.short_message()) is Outcome.UNKNOWN_ID
    body = msgspec.json.encode(build_access(known.key, scene.token, AID, ticket, 0))
    assert await scene.server.verifier.verify(body) is None
    assert scene.house.value(Metric.SERVICE_ACCESS, "unknown") == 1


async def test_a_revoked_token_takes_its_page_key_along(scene: Scene) -> None:
    await scene.push()
    await until(lambda: scene.smsc.submissions)
    await scene.house.shop.revoke(scene.token)
    scene.terminal.pages.take(scene.short_message())
    await until(lambda: scene.terminal.replies)
    assert scene.terminal.replies == [AccessReply(403, b"")]


async def test_a_terminal_paged_while_the_smsc_is_away_is_invited_when_it_is_back(scene: Scene) -> None:
    port = scene.house.gateway.config.paging.smscs[0].rpartition(":")[2]
    await scene.smsc.close()
    push = await scene.push()
    await until(lambda: scene.house.value(Metric.NOTIFIER_OUTCOMES, "service not_bound"))
    await scene.smsc.start(int(port))
    await until(lambda: scene.smsc.submissions, 20)
    assert scene.terminal.pages.take(scene.short_message()) is Outcome.STARTED
    await until(lambda: scene.server.served)
    assert scene.server.served[0].push == push


async def test_an_invitation_after_a_recall_is_a_page_of_its_own(scene: Scene) -> None:
    await scene.house.restart(paging__coalesce_s=60.0)
    await until(lambda: scene.smsc.is_bound)
    first = await scene.push(service={"params": "t=1"})
    await scene.house.shop.reaches(first, "notified")
    again = await scene.push(service={"params": "t=1"})
    await scene.house.shop.reaches(again, "notified")
    assert len(scene.smsc.submissions) == 1  # one stands for both
    for push in (first, again):
        await scene.house.shop.recall(push)
    await scene.push(service={"params": "t=1"})
    await until(lambda: len(scene.smsc.submissions) == 2)
    scene.terminal.pages.take(scene.short_message(1))
    await until(lambda: len(scene.server.served) == 1)
