"""The notifier `wap` before push proxy gateways that behave and that do not, and before an SMSC where there is none:
every way it can go has a stated outcome (C9)."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import structlog
from sms_scene import IDS, IMSI, MSISDN, OPAQUE, SmsScene, until
from wap_scene import HREF, DirectScene, WapScene

from gateway.config.logging import QUIET
from gateway.metrics import Metric
from gateway.model.errors import BadRequest
from gateway.model.notification import Content, pack_data
from gateway.model.ports import Numbers
from gateway.model.registration import build_token
from gateway.notifiers.local_tls import Authority
from gateway.paging.sms.local import Behaviour as SmscBehaviour
from gateway.paging.sms.pdu import Address, Status
from gateway.paging.udh import Ports, parse_header
from gateway.paging.wap.content import PPG_HEADERS, build_body
from gateway.paging.wap.documents import Action, Loading, ServiceIndication, ServiceLoading
from gateway.paging.wap.local import Behaviour, LocalPpg
from gateway.paging.wap.wbxml import parse_wbxml
from gateway.paging.wap.wsp import SIC, SLC, WML_UA, parse_push

PUSH_ID = IDS.build("shop", 9)


@pytest.fixture(autouse=True)
async def in_time() -> Any:
    async with asyncio.timeout(30):
        yield


def indication(document: Any) -> ServiceIndication:
    assert isinstance(document, ServiceIndication)
    return document


# --- what is sent


async def test_a_push_is_an_indication_with_the_apps_link(tmp_path: Path) -> None:
    async with WapScene(tmp_path) as scene:
        scene.settings["href"] = "https://shop.example/m/{push}?t={token}"
        now_s = int(time.time())
        result = await scene.push(urgency=3)
        assert (result.ok, result.detail) == (True, "PAP 1001")
        taken = scene.ppg.taken[0]
        document = indication(taken.document)
        assert document.href == f"https://shop.example/m/{PUSH_ID}?t={build_token(bytes((3,)) * 16)}"
        assert (document.text, document.si_id, document.action) == ("Hi - there", PUSH_ID, Action.HIGH)
        assert now_s - 1 <= document.created_s <= now_s + 1
        assert document.expires_s == taken.before_s
        assert now_s + 3_599 <= taken.before_s <= now_s + 3_601
        assert (taken.msisdn, taken.ppg) == (MSISDN, "127.0.0.1")
        assert taken.push_id.endswith("@push.example.com")
        assert (taken.quality["priority"], taken.quality["network"], taken.quality["bearer"]) == ("high", "GSM", "SMS")
        # what the terminal gets is what was meant
        assert parse_wbxml(parse_push(taken.body).body) == document
        scene.assert_strict()


async def test_a_link_in_the_push_goes_before_the_apps(tmp_path: Path) -> None:
    async with WapScene(tmp_path) as scene:
        link = "http://www.news.example/a?b=c&d=e"
        assert (await scene.push(content=Content(title="Hi", data=pack_data({"href": link, "x": [1]})))).ok
        assert indication(scene.ppg.taken[0].document).href == link
        assert (await scene.push(seq=10, content=Content(title="Hi", data=pack_data(["no", "object"])))).ok
        assert indication(scene.ppg.taken[1].document).href.startswith("https://shop.example/m/")
        scene.assert_strict()


@pytest.mark.parametrize(
    "href",
    [
        "javascript:alert(1)",
        "ftp://x.example/",
        "https://",
        "https://x.example/a b",
        "https://x.example/\n",
        "https://user@x.example/",
        "https://пример.example/",
        "https://x.example/" + "a" * 600,
        "",
        7,
        {"a": "b"},
    ],
)
async def test_a_link_that_is_none_is_dead_and_no_ppg_is_asked(tmp_path: Path, href: Any) -> None:
    async with WapScene(tmp_path) as scene:
        result = await scene.push(content=Content(title="Hi", data=pack_data({"href": href})))
        assert (result.dead, result.detail) == (True, "bad link")
        scene.settings = {}
        assert (await scene.push()).detail == "no link"
        assert scene.ppg.requests == 0
        assert (scene.outcomes("bad_link"), scene.outcomes("no_link")) == (1, 1)


@pytest.mark.parametrize(
    ("urgency", "action", "loading", "priority"),
    [
        (0, Action.LOW, Loading.CACHE, "low"),
        (1, Action.LOW, Loading.EXECUTE_LOW, "low"),
        (2, Action.MEDIUM, Loading.EXECUTE_LOW, "medium"),
        (3, Action.HIGH, Loading.EXECUTE_HIGH, "high"),
    ],
)
async def test_urgency_is_action_and_priority(
    tmp_path: Path, urgency: int, action: Action, loading: Loading, priority: str
) -> None:
    async with WapScene(tmp_path) as scene:
        assert (await scene.push(urgency=urgency)).ok
        scene.settings["mode"] = "sl"
        assert (await scene.push(seq=10, urgency=urgency, content=Content())).ok
        first, second = scene.ppg.taken
        assert indication(first.document).action is action
        assert second.document == ServiceLoading(HREF.replace("{push}", IDS.build("shop", 10)), loading)
        assert first.quality["priority"] == second.quality["priority"] == priority
        scene.assert_strict()


async def test_a_collapse_key_is_one_si_id_and_says_nothing_itself(tmp_path: Path) -> None:
    async with WapScene(tmp_path) as scene:
        for seq, key in enumerate(("mail-of-ann", "mail-of-ann", "other", ""), 20):
            assert (await scene.push(seq=seq, collapse_key=key)).ok
        ids = [indication(taken.document).si_id for taken in scene.ppg.taken]
        assert ids[0] == ids[1]
        assert len(set(ids)) == 3
        assert "ann" not in ids[0]
        assert len({taken.push_id for taken in scene.ppg.taken}) == 4


async def test_nothing_to_read_is_the_apps_own_text_or_dead(tmp_path: Path) -> None:
    async with WapScene(tmp_path) as scene:
        result = await scene.push(content=Content(title=" \x00\n"))
        assert (result.dead, result.detail) == (True, "no text")
        scene.settings["text"] = "Something  new"
        assert (await scene.push(content=Content())).ok
        assert indication(scene.ppg.taken[0].document).text == "Something new"


@pytest.mark.parametrize("text", ["a" * 5_000, "я" * 5_000, "😀" * 5_000, "a " * 5_000, "<&\"'" * 2_000])
@pytest.mark.parametrize("parts", [1, 3, 10])
async def test_a_text_that_is_too_long_is_cut_to_its_parts(tmp_path: Path, text: str, parts: int) -> None:
    async with WapScene(tmp_path) as scene:
        scene.settings |= {"href": "https://x.example/", "parts": str(parts)}
        assert (await scene.push(content=Content(text=text))).ok
        document = indication(scene.ppg.taken[0].document)
        assert document.text.endswith("…")
        assert text.startswith(document.text[:-1])
        room = (133 if parts == 1 else 128 * parts) - PPG_HEADERS
        assert room - 8 <= len(build_body(document, 0)) <= room
        assert scene.metrics.value(Metric.NOTIFIER_BOUNDS, "wap text") == 1
        scene.assert_strict()


async def test_a_text_of_every_plane_arrives(tmp_path: Path) -> None:
    planes = "".join(chr(plane << 16 | 0x41) for plane in range(17))
    async with WapScene(tmp_path) as scene:
        assert (await scene.push(content=Content(title="a\tb\x07", text=planes + "\ud800"))).ok
        assert indication(scene.ppg.taken[0].document).text == f"a b - {planes}"
        scene.assert_strict()


async def test_a_link_that_fills_all_parts_is_dead(tmp_path: Path) -> None:
    async with WapScene(tmp_path) as scene:
        scene.settings |= {"parts": "1", "href": "https://x.example/" + "a" * 200}
        for mode in ("si", "sl"):
            scene.settings["mode"] = mode
            result = await scene.push()
            assert (result.dead, result.detail) == (True, "too long")
        assert scene.ppg.requests == 0


@pytest.mark.parametrize("expires_s", [0, 1, 1 << 40, -5])
async def test_times_that_are_odd_are_put_right(tmp_path: Path, expires_s: int) -> None:
    async with WapScene(tmp_path) as scene:
        result = await scene.push(expires_s=expires_s, accepted_ms=-1)
        assert result.ok
        document = indication(scene.ppg.taken[0].document)
        assert document.created_s == 1
        if expires_s == 1 << 40:
            assert document.expires_s == 253_402_300_799  # the end of the year 9999
        else:
            assert document.expires_s >= int(time.time()) + 25
        scene.assert_strict()


async def test_an_id_that_stands_for_nobody_and_one_without_a_number_are_dead(tmp_path: Path) -> None:
    async with WapScene(tmp_path) as scene:
        assert (await scene.push(address="")).dead
        assert (await scene.push(address="somebody-else")).detail == "unknown subscriber"
        for msisdn in ("", "12/TYPE=USER@x", "1" * 16, "²"):
            scene.subscribers.known[OPAQUE, "shop"] = Numbers(msisdn, IMSI)
            result = await scene.push()
            assert (result.dead, result.detail) == (True, "no_number")
        assert scene.ppg.requests == 0


# --- PPGs that say no, or nothing


@pytest.mark.parametrize(
    ("behaviour", "dead", "detail"),
    [
        (Behaviour(code=2000, as_bad_message=True), True, "PAP 2000"),
        (Behaviour(code=2001), True, "PAP 2001"),
        (Behaviour(code=2003), True, "PAP 2003"),
        (Behaviour(code=2003, status=400), True, "PAP 2003"),
        (Behaviour(code=3000, status=500), False, "PAP 3000"),
        (Behaviour(code=3006), True, "PAP 3006"),
        (Behaviour(code=4001), False, "PAP 4001"),
        (Behaviour(code=5228), False, "PAP 5228"),
        (Behaviour(other_push=True), False, "an answer to another push"),
        (Behaviour(code=0), False, "garbage"),
        (Behaviour(body=b"\x00\xff" * 99), False, "garbage"),
        (Behaviour(body=b"<pap>" + b" " * 200_000 + b"</pap>"), False, "garbage"),
        (Behaviour(body=b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"), False, "garbage"),
        (Behaviour(code=0, status=302, headers={"location": "http://127.0.0.1:1/"}), False, "HTTP 302"),
        (Behaviour(code=0, status=404), False, "HTTP 404"),
        (Behaviour(code=0, status=413), True, "HTTP 413"),
        (Behaviour(code=0, status=418), True, "HTTP 418"),
        (Behaviour(code=0, status=503), False, "HTTP 503"),
        (Behaviour(closes=True), False, "connection"),
        (Behaviour(is_noise=True), False, "connection"),
        (Behaviour(headers={"x-long": "a" * 200_000}), False, "connection"),
    ],
)
async def test_every_answer_has_its_outcome(tmp_path: Path, behaviour: Behaviour, dead: bool, detail: str) -> None:
    async with WapScene(tmp_path) as scene:
        scene.ppg.next.append(behaviour)
        result = await scene.push()
        assert (result.ok, result.dead, result.detail) == (False, dead, detail)
        assert (await scene.push(seq=10)).ok
        scene.assert_strict()


@pytest.mark.parametrize("behaviour", [Behaviour(hangs=True), Behaviour(keeps_back=10), Behaviour(delay_s=5.0)])
async def test_a_ppg_that_hangs_is_given_up_in_time(tmp_path: Path, behaviour: Behaviour) -> None:
    async with WapScene(tmp_path, ppg_timeout_s=0.5) as scene:
        scene.ppg.next.append(behaviour)
        began = time.monotonic()
        result = await scene.push()
        assert (result.ok, result.dead, result.detail) == (False, False, "timeout")
        assert time.monotonic() - began < 2
        assert (await scene.push(seq=10)).ok


@pytest.mark.parametrize("row", ["throttled", "later"])
async def test_retry_after_rests_the_lane(tmp_path: Path, row: str) -> None:
    async with WapScene(tmp_path) as scene:
        scene.ppg.next.append(
            Behaviour(code=0, status=429 if row == "throttled" else 503, headers={"retry-after": "60"})
        )
        assert (await scene.push()).retry_after_ms == 60_000
        assert not (await scene.push()).asked
        assert (scene.ppg.requests, scene.outcomes(row)) == (1, 1)
        scene.moved_ms += 61_000
        assert (await scene.push()).ok


async def test_a_push_that_was_taken_before_its_answer_was_lost_comes_once(tmp_path: Path) -> None:
    async with WapScene(tmp_path) as scene:
        scene.ppg.next.append(Behaviour(takes_and_closes=True))
        assert not (await scene.push()).ok
        result = await scene.push()
        assert (result.ok, result.detail) == (True, "PAP 2007")
        assert len(scene.ppg.taken) == 1
        # another device's delivery of the same push is another push to the PPG
        assert (await scene.push(number=4)).detail == "PAP 1001"
        scene.assert_strict()


async def test_a_wrong_password_is_the_gateways_trouble_and_not_the_pushs(tmp_path: Path) -> None:
    async with WapScene(tmp_path) as scene:
        scene.ppg.password = "another"
        scene.config.delivery.notifier_failures = 1
        result = await scene.push()
        assert (result.ok, result.dead, result.detail) == (False, False, "HTTP 401")
        assert scene.outcomes("unauthorized") == 1


async def test_a_ppg_that_is_down_and_comes_back(tmp_path: Path) -> None:
    async with WapScene(tmp_path) as scene:
        assert (await scene.push(seq=1)).ok
        port = scene.ppg.port
        await scene.ppg.close()
        assert (await scene.push(seq=2)).detail == "connection"
        await scene.ppg.start(port)
        assert (await scene.push(seq=2)).ok
        assert len(scene.ppg.taken) == 2


async def test_no_more_connections_than_allowed_and_the_rest_waits(tmp_path: Path) -> None:
    async with WapScene(tmp_path, ppg_connections=3) as scene:
        scene.ppg.behaviour = Behaviour(delay_s=0.01)
        results = await asyncio.gather(*(scene.push(seq=seq) for seq in range(1, 41)))
        assert all(result.ok for result in results)
        assert (scene.ppg.widest, len(scene.ppg.taken)) == (3, 40)
        assert scene.ppg.connections <= 3


async def test_tls_to_the_authority_that_is_named_alone(tmp_path: Path) -> None:
    authority = Authority()
    ppg = LocalPpg(tls=authority.server_context())
    async with WapScene(tmp_path, ppg=ppg, ppg_ca=str(authority.write(tmp_path))) as scene:
        assert (await scene.push()).ok
        scene.assert_strict()
    async with WapScene(tmp_path, ppg=LocalPpg(tls=authority.server_context())) as scene:
        assert "TLS" in (await scene.push()).detail


async def test_a_ppg_is_asked_to_drop_the_one_before_where_it_can(tmp_path: Path) -> None:
    async with WapScene(tmp_path, ppg_replaces=2) as scene:
        for seq in (1, 1, 2, 3):  # the second is the same push, tried again
            assert (await scene.push(seq=seq, collapse_key="mail")).ok
        first, second, third = scene.ppg.taken
        assert (first.replaces, second.replaces, third.replaces) == ("", first.push_id, second.push_id)
        # one that can not is given the push without that, once
        scene.ppg.next.append(Behaviour(code=3011))
        assert (await scene.push(seq=4, collapse_key="mail")).detail == "PAP 1001"
        assert scene.ppg.taken[3].replaces == ""
        # another device, no key, a loading: nothing is replaced
        assert (await scene.push(seq=5, collapse_key="mail", number=4)).ok
        assert (await scene.push(seq=6)).ok
        scene.settings["mode"] = "sl"
        assert (await scene.push(seq=7, collapse_key="mail")).ok
        assert [taken.replaces for taken in scene.ppg.taken[4:]] == ["", "", ""]
        # past the bound the oldest is forgotten
        scene.settings["mode"] = "si"
        assert (await scene.push(seq=8, collapse_key="third")).ok
        assert scene.metrics.value(Metric.NOTIFIER_BOUNDS, "wap replaces") == 1
        assert (await scene.push(seq=9, collapse_key="mail")).ok
        assert scene.ppg.taken[-1].replaces == ""
        scene.assert_strict()


# --- without a PPG


async def test_without_a_ppg_it_goes_by_the_smscs_and_its_receipt_is_waps(tmp_path: Path) -> None:
    async with DirectScene(tmp_path, SmsScene()) as scene:
        result = await scene.push(urgency=3)
        assert (result.ok, result.detail) == (True, "ok")
        sm = scene.sms.smsc.submissions[0].message
        assert (sm.destination, sm.esm_class, sm.data_coding, sm.priority) == (Address(1, 1, MSISDN), 0x40, 4, 1)
        header, body = parse_header(sm.message)
        assert header.ports == Ports(2948, 9200)
        push = parse_push(body)
        assert (push.content_type, push.application) == (SIC, WML_UA)
        assert indication(parse_wbxml(push.body)).text == "Hi - there"
        await until(lambda: scene.history.words == ["delivered"])
        assert scene.history.steps[0] == (9, 3, "delivered", "wap", "")
        scene.sms.assert_strict()


async def test_without_a_ppg_a_long_one_goes_in_parts_and_a_second_try_is_the_same(tmp_path: Path) -> None:
    async with DirectScene(tmp_path, SmsScene()) as scene:
        scene.settings |= {"source": "SHOP"}
        content = Content(text="я" * 120)
        for _ in range(2):
            assert (await scene.push(content=content)).detail == "3 parts"
        bodies: list[bytes] = []
        for at in (0, 3):
            parts = [each.message for each in scene.sms.smsc.submissions[at : at + 3]]
            assert all(part.source == Address(5, 0, "SHOP") for part in parts)
            headers = [parse_header(part.message) for part in parts]
            assert [header.concat.part for header, _ in headers if header.concat] == [1, 2, 3]
            bodies.append(b"".join(body for _, body in headers))
        assert bodies[0] == bodies[1]
        assert indication(parse_wbxml(parse_push(bodies[0]).body)).text == content.text
        scene.settings["mode"] = "sl"
        assert (await scene.push()).ok
        _, body = parse_header(scene.sms.smsc.submissions[-1].message.message)
        assert parse_push(body).content_type == SLC
        scene.sms.assert_strict()


async def test_without_a_ppg_an_imsi_will_do_and_an_smscs_refusal_is_its_row(tmp_path: Path) -> None:
    async with DirectScene(tmp_path, SmsScene()) as scene:
        scene.subscribers.known[OPAQUE, "shop"] = Numbers("", IMSI)
        assert (await scene.push()).ok
        assert scene.sms.smsc.submissions[0].message.destination == Address(0, 6, IMSI)
        scene.sms.smsc.behaviour = SmscBehaviour(status=Status.RINVDSTADR)
        result = await scene.push()
        assert (result.dead, result.detail) == (True, "RINVDSTADR")
        await scene.sms.smsc.close()
        result = await scene.push()
        assert (result.ok, result.dead) == (False, False)


async def test_sms_and_wap_share_the_links(tmp_path: Path) -> None:
    async with DirectScene(tmp_path, SmsScene()) as scene:
        assert (await scene.push()).ok
        assert (await scene.sms.push(seq=11)).ok
        assert scene.sms.smsc.binds == 1
        await until(lambda: len(scene.history.steps) == 2)
        assert {step[3] for step in scene.history.steps} == {"sms", "wap"}


@pytest.mark.parametrize("parts", [1, 2, 10])
async def test_without_a_ppg_a_text_that_is_too_long_fills_its_parts(tmp_path: Path, parts: int) -> None:
    async with DirectScene(tmp_path, SmsScene()) as scene:
        scene.settings["parts"] = str(parts)
        assert (await scene.push(content=Content(text="a" * 5_000))).ok
        messages = [each.message.message for each in scene.sms.smsc.submissions]
        assert [len(message) for message in messages] == [140] * parts


# --- settings


async def test_settings_are_checked_with_field_and_fix(tmp_path: Path) -> None:
    async with WapScene(tmp_path) as scene:
        scene.notifier.check({"mode": "sl", "href": HREF, "text": "New", "source": "+4917", "parts": "10"})
        scene.notifier.check({})
        bad = {
            "mode": "wml",
            "href": "ftp://x",
            "text": "a" * 201,
            "source": "a name that is too long",
            "parts": "0",
            "port": "1",
        }
        for key, value in {**bad, "href ": "x"}.items():
            with pytest.raises(BadRequest) as caught:
                scene.notifier.check({key: value})
            assert caught.value.field == f"notifiers.wap.{key}"
        for href in ("https://x.example/{user}", "https://x.example/" + "a" * 500, "https://x/ {push}"):
            with pytest.raises(BadRequest):
                scene.notifier.check({"href": href})


# --- privacy


async def test_no_number_link_or_text_is_shown_whatever_goes_wrong(tmp_path: Path, capsys: Any, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    for name in QUIET:  # as the gateway has it
        caplog.set_level(logging.WARNING, logger=name)
    seen: list[str] = []
    with structlog.testing.capture_logs() as logs:
        async with WapScene(tmp_path, ppg_timeout_s=0.5) as scene:
            troubles = [
                Behaviour(),
                Behaviour(code=2000, as_bad_message=True),
                Behaviour(code=2003),
                Behaviour(code=4000),
                Behaviour(other_push=True),
                Behaviour(body=f"+{MSISDN} secret-title".encode()),
                Behaviour(code=0, status=302, headers={"location": f"http://x/{MSISDN}"}),
                Behaviour(code=0, status=500, body=MSISDN.encode()),
                Behaviour(hangs=True),
                Behaviour(closes=True),
                Behaviour(is_noise=True),
            ]
            content = Content(
                title="secret-title", text="secret-text", data=pack_data({"href": "https://secret-link.example/"})
            )
            for seq, behaviour in enumerate(troubles, 1):
                scene.ppg.next.append(behaviour)
                seen.append(repr(await scene.push(seq=seq, content=content)))
            scene.ppg.password = "another"
            seen.append(repr(await scene.push(content=content)))
            await scene.ppg.close()
            seen.append(repr(await scene.push(content=content)))
            seen.append(repr(await scene.push(content=Content(data=pack_data({"href": "secret-link"})))))
            seen.append(repr(scene.ppg.taken) + repr(scene.notifier.__dict__) + scene.metrics.render().decode())
        async with DirectScene(tmp_path, SmsScene()) as direct:
            direct.sms.smsc.behaviour = SmscBehaviour(status=Status.RINVDSTADR)
            seen.append(repr(await direct.push(content=content)))
            seen.append(direct.metrics.render().decode() + repr(direct.history.steps))
    out = capsys.readouterr()
    shown = "".join(seen) + repr(logs) + caplog.text + out.out + out.err
    for secret in (MSISDN, IMSI, "secret-title", "secret-text", "secret-link", "Basic cHVzaGd3", "ppg-secret"):
        assert secret not in shown
