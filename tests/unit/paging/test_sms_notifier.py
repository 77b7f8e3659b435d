"""The notifier `sms` before SMSCs that behave and that do not: every way it can go has a stated outcome (C8)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace
from typing import Any

import pytest
import structlog
from sms_scene import IMSI, LONG, MSISDN, OPAQUE, QUICK, SmsScene, until

from gateway.metrics import Metric
from gateway.model.errors import BadRequest
from gateway.model.notification import Content
from gateway.model.ports import Numbered, Numbers
from gateway.notifiers.local_tls import Authority
from gateway.paging.app_payload import parse_payload
from gateway.paging.gsm7 import parse_septets
from gateway.paging.sms.client import fit_text
from gateway.paging.sms.link import SmscLink
from gateway.paging.sms.local import Behaviour, LocalSmsc
from gateway.paging.sms.pdu import Address, ShortMessage, Status, build_pdu
from gateway.paging.sms.receipt import MessageState
from gateway.paging.sms.settings import build_app_settings, check_settings
from gateway.paging.udh import Ports, parse_header


@pytest.fixture(autouse=True)
async def in_time() -> Any:
    async with asyncio.timeout(30):
        yield


# --- what is sent


async def test_a_push_wakes_the_app_and_its_history_says_that_it_was_delivered() -> None:
    async with SmsScene() as scene:
        result = await scene.push()
        assert result.ok
        assert result.detail == "ok"
        sm = scene.smsc.submissions[0].message
        assert (sm.destination.ton, sm.destination.npi, sm.destination.digits) == (1, 1, MSISDN)
        assert (sm.esm_class, sm.data_coding, sm.protocol_id, sm.registered_delivery) == (0x40, 4, 0, 1)
        assert sm.validity in ("000000010000000R", "000000005959000R")
        header, body = parse_header(sm.message)
        assert header.ports == Ports(16_000, 16_000)
        payload = parse_payload(body)
        assert (payload.title, payload.text, payload.token) == ("Hi", "there", b"t" * 16)
        await until(lambda: scene.history.words == ["delivered"])
        assert scene.history.steps[0] == (9, 3, "delivered", "sms", "")
        scene.assert_strict()


async def test_text_for_the_user_in_parts() -> None:
    async with SmsScene() as scene:
        scene.settings = {"mode": "text", "source": "SHOP"}
        assert (await scene.push(content=LONG)).detail == "3 parts"
        texts, references = [], set()
        for submission in scene.smsc.submissions:
            assert submission.message.source == Address(5, 0, "SHOP")
            header, body = parse_header(submission.message.message)
            assert header.concat is not None
            references.add(header.concat.reference)
            texts.append(parse_septets(body))
        assert "".join(texts) == "Hi\n" + "a" * 400
        assert len(references) == 1
        await until(lambda: len(scene.history.words) == 3)
        assert scene.history.words == ["delivered 1/3", "delivered 2/3", "delivered 3/3"]
        # a second try has the same reference, so that a phone takes both for one message
        await scene.push(content=LONG)
        header, _ = parse_header(scene.smsc.submissions[3].message.message)
        assert header.concat is not None
        assert {header.concat.reference} == references
        scene.assert_strict()


async def test_nothing_to_read_is_not_sent() -> None:
    async with SmsScene() as scene:
        scene.settings = {"mode": "text"}
        result = await scene.push(content=Content(data=b"\x01"))
        assert (result.dead, result.detail) == (True, "no text")
        assert scene.smsc.submissions == []


@pytest.mark.parametrize(("words", "end"), [("a" * 2_000, "..."), ("я" * 2_000, "…"), ("€" * 2_000, "...")])
def test_what_is_too_long_is_cut_in_its_own_coding(words: str, end: str) -> None:
    segments = fit_text(words, 2, 1)
    assert len(segments) == 2
    assert len(fit_text(words, 1, 1)) == 1
    text = "".join(parse_septets(each.body) if each.coding == 0 else each.body.decode("utf-16-be") for each in segments)
    assert text.endswith(end)
    assert text.startswith(words[:60])
    assert len({each.coding for each in segments}) == 1


async def test_one_text_replaces_the_last_with_its_collapse_key() -> None:
    async with SmsScene() as scene:
        scene.settings = {"mode": "text"}
        for key in ("score", "score", ""):
            assert (await scene.push(collapse_key=key)).ok
        assert (await scene.push(collapse_key="score", content=LONG)).ok
        pids = [each.message.protocol_id for each in scene.smsc.submissions]
        assert pids[0] == pids[1]
        assert 0x41 <= pids[0] <= 0x47
        assert pids[2:] == [0, 0, 0, 0]


async def test_no_msisdn_then_by_imsi_and_neither_is_dead() -> None:
    async with SmsScene() as scene:
        scene.subscribers.known[OPAQUE, "shop"] = Numbers("", IMSI)
        assert (await scene.push()).ok
        assert scene.smsc.submissions[0].message.destination == Address(0, 6, IMSI)
        await until(lambda: scene.history.words == ["delivered"])
        scene.subscribers.known[OPAQUE, "shop"] = Numbers("", "")
        result = await scene.push()
        assert result.dead
        assert result.detail == "no_number"


@pytest.mark.parametrize("address", ["", "somebody-else"])
async def test_an_id_that_stands_for_nobody_is_dead_and_no_smsc_is_asked(address: str) -> None:
    async with SmsScene() as scene:
        assert (await scene.push(address=address)).dead
        assert scene.smsc.submissions == []


def test_settings_are_checked_with_field_and_fix() -> None:
    check_settings({"mode": "text", "port": "16999", "source": "+4917", "parts": "10"})
    for key, value in (("mode", "loud"), ("port", "2948"), ("parts", "11"), ("source", "a name too long"), ("x", "y")):
        with pytest.raises(BadRequest) as caught:
            check_settings({key: value})
        assert caught.value.field == f"notifiers.sms.{key}"
    settings = build_app_settings({"port": "9", "parts": "x"}, SmsScene().config.paging)
    assert (settings.port, settings.parts, settings.is_text) == (16_000, 1, False)


# --- SMSCs that say no


@pytest.mark.parametrize(
    ("status", "dead", "word"),
    [
        (Status.RINVDSTADR, True, "RINVDSTADR"),
        (Status.RINVMSGLEN, True, "RINVMSGLEN"),
        (Status.RSYSERR, False, "RSYSERR"),
        (Status.RSUBMITFAIL, False, "RSUBMITFAIL"),
        (0x410, False, "vendor 0x410"),
        (0x7777, False, "other_status 0x7777"),
    ],
)
async def test_a_refusal_is_the_row_of_its_status(status: int, dead: bool, word: str) -> None:
    async with SmsScene() as scene:
        scene.smsc.behaviour = Behaviour(status=status)
        result = await scene.push()
        assert (result.ok, result.dead, result.detail) == (False, dead, word)
        assert scene.metrics.value(Metric.SMS_PENDING) == 0


@pytest.mark.parametrize("status", [Status.RTHROTTLED, Status.RMSGQFUL])
async def test_a_throttle_rests_the_lane_and_then_it_goes_on(status: Status) -> None:
    async with SmsScene(paging={"smsc_throttle_s": 60.0}) as scene:
        scene.smsc.next.append(Behaviour(status=status))
        result = await scene.push()
        assert not result.ok
        assert not result.dead
        assert 0 < result.retry_after_ms <= 60_000
        refused = await scene.push()
        assert not refused.asked
        assert len(scene.smsc.submissions) == 0
        scene.moved_ms = 60_001
        assert (await scene.push()).ok


async def test_throttled_at_one_it_goes_to_the_next() -> None:
    async with SmsScene(2, paging={"smsc_throttle_s": 60.0}) as scene:
        await scene.bound()
        scene.smscs[0].next.append(Behaviour(status=Status.RTHROTTLED))
        assert (await scene.push()).ok
        assert (await scene.push()).ok
        assert [len(smsc.submissions) for smsc in scene.smscs] == [0, 2]
        scene.moved_ms = 60_001
        assert (await scene.push()).ok
        assert [len(smsc.submissions) for smsc in scene.smscs] == [1, 2]


async def test_both_throttle_and_the_lane_rests_as_long_as_the_first() -> None:
    async with SmsScene(2) as scene:
        await scene.bound()
        for smsc in scene.smscs:
            smsc.next.append(Behaviour(status=Status.RTHROTTLED))
        result = await scene.push()
        assert result.detail == "RTHROTTLED"
        assert result.retry_after_ms > 0


async def test_a_refused_bind_is_counted_by_its_reason_and_nothing_is_sent() -> None:
    async with SmsScene() as scene:
        scene.smsc.password = "other"
        scene.smsc.drop()
        await until(lambda: scene.metrics.value(Metric.SMSC_ENDED, "bind_RINVPASWD") >= 2)
        result = await scene.push()
        assert (result.ok, result.dead) == (False, False)
        assert "not_bound" in result.detail
        scene.smsc.password = "secret"
        await scene.bound()
        assert (await scene.push()).ok


# --- SMSCs that are not there


async def test_down_then_up_again() -> None:
    async with SmsScene() as scene:
        await scene.bound()
        port = scene.smsc.port
        await scene.smsc.close()
        await until(lambda: scene.metrics.value(Metric.SMSC_ENDED, "connection") >= 1)
        result = await scene.push()
        assert "not_bound" in result.detail
        assert scene.metrics.value(Metric.SMSC_LINKS, "smsc0") == 0
        await scene.smsc.start(port)
        await scene.bound()
        assert (await scene.push()).ok


async def test_the_first_is_down_and_the_second_takes_it() -> None:
    async with SmsScene(2) as scene:
        await scene.bound()
        await scene.smscs[0].close()
        await until(lambda: scene.metrics.value(Metric.SMSC_LINKS, "smsc0") == 0)
        assert (await scene.push()).ok
        assert len(scene.smscs[1].submissions) == 1


async def test_one_that_hangs_costs_its_time_and_no_second_smsc_gets_the_message() -> None:
    async with SmsScene(2, answer_s=0.2) as scene:
        await scene.bound()
        scene.smscs[0].next.append(Behaviour(hangs=True))
        result = await scene.push()
        assert (result.ok, result.dead, result.detail) == (False, False, "timeout")
        assert scene.smscs[1].submissions == []


async def test_one_that_closes_before_it_answers() -> None:
    async with SmsScene() as scene:
        scene.smsc.next.append(Behaviour(closes=True))
        result = await scene.push()
        assert (result.ok, result.dead) == (False, False)
        assert "link_lost" in result.detail
        await until(lambda: scene.smsc.binds == 2)
        assert (await scene.push()).ok


async def test_a_late_answer_is_nobodys_and_a_second_one_does_nothing() -> None:
    async with SmsScene(answer_s=0.2) as scene:
        scene.smsc.next += [Behaviour(delay_s=0.4), Behaviour(answers=2)]
        assert (await scene.push()).detail == "timeout"
        assert (await scene.push()).ok
        await asyncio.sleep(0.3)
        assert (await scene.push()).ok
        assert scene.smsc.binds == 1


async def test_silence_is_asked_about_and_then_ended() -> None:
    async with SmsScene(enquire_s=0.1, answer_s=1.0) as scene:
        await until(lambda: scene.smsc.enquiries >= 2)
        assert scene.smsc.binds == 1
        scene.smsc.answers_enquiries = False
        await until(lambda: scene.metrics.value(Metric.SMSC_ENDED, "timeout") >= 1)
        scene.smsc.answers_enquiries = True
        await until(lambda: scene.smsc.binds >= 2)
        scene.assert_strict()


async def test_it_unbinds_when_it_ends_and_obeys_when_the_smsc_does() -> None:
    async with SmsScene() as scene:
        await scene.bound()
        scene.smsc.unbind()
        await until(lambda: scene.metrics.value(Metric.SMSC_ENDED, "unbind") == 1)
        await scene.bound()
        await scene.notifier.close()
        await until(lambda: scene.smsc.unbinds == 1)


@pytest.mark.parametrize("data", [b"\0\0\0\1", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 16])
async def test_a_peer_that_speaks_something_else_is_left_and_tried_again(data: bytes) -> None:
    async with SmsScene() as scene:
        await scene.bound()
        scene.smsc.send(data)
        await until(lambda: scene.metrics.value(Metric.SMSC_ENDED, "malformed") == 1)
        await scene.bound()
        assert (await scene.push()).ok


async def test_pdus_that_are_whole_and_wrong_are_answered_and_the_link_stays() -> None:
    async with SmsScene() as scene:
        await scene.bound()
        scene.smsc.send(
            build_pdu(5, 1, b"\xff") + build_pdu(0x102, 2) + build_pdu(0x7777, 3) + build_pdu(0x80000004, 99)
        )
        assert (await scene.push()).ok
        assert scene.smsc.binds == 1
        assert scene.metrics.value(Metric.SMS_INCOMING, "malformed") == 2


# --- window and rate


async def test_no_more_than_the_window_is_without_an_answer() -> None:
    async with SmsScene(window=3) as scene:
        scene.smsc.behaviour = Behaviour(delay_s=0.03)
        results = await asyncio.gather(*(scene.push(seq=seq) for seq in range(1, 13)))
        assert all(result.ok for result in results)
        assert scene.smsc.widest == 3
        scene.assert_strict()


async def test_no_more_than_the_rate_allows() -> None:
    async with SmsScene(rate=50.0) as scene:
        await scene.bound()
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(scene.push(seq=seq) for seq in range(1, 12)))
        # from before the first: a busy machine may take that late, and the others in their time
        assert scene.smsc.submissions[-1].at_s - began >= 0.199


# --- what else an SMSC says


async def test_a_subscriber_that_is_back_is_told_to_who_wants_to_know() -> None:
    async with SmsScene() as scene:
        await scene.bound()
        scene.smsc.alert(Address(1, 1, MSISDN))
        scene.smsc.alert(Address(0, 6, IMSI), 0)
        scene.smsc.alert(Address(1, 1, "4900"), 2)  # not available
        await until(lambda: scene.metrics.value(Metric.SMS_INCOMING, "alert") == 3)
        assert [(back.msisdn, back.imsi) for back in scene.backs] == [(MSISDN, ""), ("", IMSI)]


async def test_a_binary_message_from_a_terminal_is_taken() -> None:
    async with SmsScene() as scene:
        await scene.bound()
        sm = ShortMessage(
            Address(1, 1, MSISDN), Address(0, 0, "1"), b"\x06\x05\x04\x3e\x82\0\0\x01\xff", esm_class=0x40
        )
        assert await scene.smsc.deliver(sm) == 0
        assert scene.incoming == [sm.message]


# --- HLR


class Register:
    """HomeRegister port that answers as told."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def look_up(self, subscriber: Numbered) -> Numbered | None:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    async def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize(
    ("answer", "ok", "dead", "word"),
    [
        (Numbers(MSISDN, IMSI), True, False, "ok"),
        (None, False, True, "hlr_unknown"),
        (TimeoutError(), False, False, "hlr_timeout"),
        (ConnectionRefusedError(), False, False, "hlr_failed"),
        (ValueError(), False, False, "hlr_failed"),
    ],
)
async def test_the_hlr_is_asked_first(answer: Any, ok: bool, dead: bool, word: str) -> None:
    scene = SmsScene()
    scene.register = Register(answer)
    async with scene:
        result = await scene.push()
        assert (result.ok, result.dead) == (ok, dead)
        assert word in result.detail
        assert len(scene.smsc.submissions) == ok


# --- TLS


async def test_inside_tls_and_not_with_a_certificate_nobody_knows() -> None:
    authority, stranger = Authority(), Authority()
    smsc = LocalSmsc(tls=authority.server_context())
    port = await smsc.start()
    scene = SmsScene()
    made = []
    for known in (authority, stranger):
        settings = replace(QUICK, smsc=replace(QUICK.smsc, port=port), tls=known.client_context())
        link = SmscLink(settings, scene.metrics, on_message=lambda _n, _m: 0, on_alert=lambda _a, _b: None)
        link.start()
        made.append(link)
    await until(lambda: made[0].is_bound)
    await until(lambda: scene.metrics.value(Metric.SMSC_ENDED, "tls") >= 1)
    assert not made[1].is_bound
    for link in made:
        await link.close()
    await smsc.close()


# --- what must never be seen


async def test_no_number_no_imsi_and_no_text_is_ever_told(caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    secret = Content(title="geheim-titel", text="geheim-text " * 30)
    behaviours = [
        Behaviour(),
        Behaviour(status=Status.RINVDSTADR),
        Behaviour(status=0x410),
        Behaviour(hangs=True),
        Behaviour(closes=True),
        Behaviour(receipts=(MessageState.UNDELIVERABLE,)),
        Behaviour(status=Status.RTHROTTLED),
    ]
    with structlog.testing.capture_logs() as logs:
        told += await every_trouble(secret, behaviours)
    told += [repr(line) for line in logs]
    out, err = capfd.readouterr()
    seen = "\n".join([*told, caplog.text, out, err])
    assert "smsc_down" in seen
    for word in (MSISDN, IMSI, "geheim", "secret", OPAQUE):
        assert word not in seen


async def every_trouble(content: Content, behaviours: list[Behaviour]) -> list[str]:
    """All that was said meanwhile."""
    told: list[str] = []
    async with SmsScene(answer_s=0.3) as scene:
        for mode in ("text", "binary"):
            scene.settings = {"mode": mode}
            for who in (Numbers(MSISDN, IMSI), Numbers("", IMSI), Numbers("not a number", "")):
                scene.subscribers.known[OPAQUE, "shop"] = who
                for behaviour in behaviours:
                    scene.smsc.next.append(behaviour)
                    told.append(repr(await scene.push(content=content)))
                    scene.smsc.next.clear()
                    scene.moved_ms += 5_000
                    await scene.bound()
        scene.smsc.alert(Address(1, 1, MSISDN))
        scene.smsc.send(build_pdu(5, 1, f"{MSISDN}{IMSI}geheim".encode()))
        await until(lambda: scene.metrics.value(Metric.SMS_INCOMING, "malformed") >= 1)
        told += [repr(step) for step in scene.history.steps]
        told += [scene.metrics.render().decode(), repr(scene.notifier), *scene.smsc.faults]
        told += [repr(Numbers(MSISDN, IMSI)), f"{Numbers(MSISDN, IMSI)}"]
    return told


async def test_time_is_bounded_whatever_an_smsc_does() -> None:
    began = time.monotonic()
    async with SmsScene(answer_s=0.2) as scene:
        scene.smsc.behaviour = Behaviour(hangs=True)
        scene.settings = {"mode": "text", "parts": "10"}
        assert not (await scene.push(content=LONG)).ok
    assert time.monotonic() - began < 10


async def test_a_call_that_is_cut_off_behind_its_message_still_hears_the_receipt() -> None:
    async with SmsScene(answer_s=5.0) as scene:
        await scene.bound()
        scene.smsc.behaviour = Behaviour(delay_s=0.4, receipt_delay_s=0.1, echoes_reference=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await scene.push()
        await until(lambda: scene.history.words == ["delivered"])


async def test_who_is_cut_off_while_the_rate_holds_it_back_takes_no_turn_from_others() -> None:
    async with SmsScene(rate=10.0, window=100) as scene:
        await scene.bound()

        async def page(seq: int) -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await scene.push(seq=seq)

        await asyncio.gather(*(page(seq) for seq in range(50)))
        sent = len(scene.smsc.submissions)
        async with asyncio.timeout(0.5):  # and not after the 45 that gave up
            assert (await scene.push(seq=99)).ok
        assert len(scene.smsc.submissions) == sent + 1
