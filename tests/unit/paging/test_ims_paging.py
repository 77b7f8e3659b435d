"""A held request, from the SIP server's question to its end: who is paged, who is refused, what trouble on either side
leads to (C14)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
import structlog
from ims_scene import APP, IMPU, IMSI, MSISDN, TOKEN, FixedPager, ImsScene
from sms_scene import OPAQUE, until

from gateway.config.ims import SipServer
from gateway.config.operator_sections import Ims
from gateway.metrics import Metric, Metrics
from gateway.model.errors import StoreUnavailable
from gateway.model.ports import NotifierResult, Numbers
from gateway.model.subscriber import NetworkId, NetworkIdKind, OpaqueKind, Subscriber
from gateway.paging.app_payload import parse_payload
from gateway.paging.ims.contact import PushParams, build_push_params
from gateway.paging.ims.link import CscfLink
from gateway.paging.ims.messages import End, Paged, Pong, build
from gateway.paging.ims.netstrings import build_netstring
from gateway.paging.sms.local import Behaviour
from gateway.paging.sms.pdu import Status
from gateway.paging.udh import parse_header

ID = f"{OPAQUE}@push.example.com"
OTHER = "sip:ann.secret@ims.example.com"
OK, LATER, DEAD = NotifierResult(ok=True), NotifierResult(ok=False), NotifierResult(ok=False, dead=True)


@pytest.fixture(autouse=True)
async def in_time(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("gateway.paging.ims.calls.GRACE_S", 0.2)
    async with asyncio.timeout(30):
        yield


def contact(prid: str, provider: str = "heliograph", param: str | None = None) -> str:
    return "transport=udp" + build_push_params(PushParams(provider, param, prid))


# --- paging


async def test_who_is_called_is_paged_and_the_call_goes_on_when_it_has_registered() -> None:
    async with ImsScene() as scene:
        held = scene.cscf.invite(IMPU)
        await held.paged.wait()
        (submission,) = scene.smsc.submissions
        assert submission.message.destination.digits == MSISDN.lstrip("+")
        assert submission.message.priority == 1
        _, body = parse_header(submission.message.message)
        payload = parse_payload(body)
        assert (payload.title, payload.text, payload.urgency) == ("", "", 3)
        assert scene.metrics.value(Metric.IMS_HELD) == 1
        assert scene.cscf.register(IMPU) == 1
        assert await held.ended == "released"
        await until(lambda: len(scene.ims.calls) == 0)
        assert scene.metrics.value(Metric.IMS_HELD) == 0
        assert (scene.count("held"), scene.count("paged"), scene.count("released")) == (1, 1, 1)
        assert scene.home.asked == 0
        scene.assert_strict()


@pytest.mark.parametrize("method", ["MESSAGE", "SUBSCRIBE"])
async def test_other_requests_page_as_well(method: str) -> None:
    async with ImsScene() as scene:
        held = scene.cscf.invite(IMPU, method=method)
        await held.paged.wait()
        assert len(scene.smsc.submissions) == 1


async def test_calls_to_one_subscriber_at_a_time_are_one_page_and_all_are_released() -> None:
    async with ImsScene() as scene:
        calls = [scene.cscf.invite(IMPU) for _ in range(5)]
        await asyncio.gather(*(held.paged.wait() for held in calls))
        late = scene.cscf.invite(IMPU)
        await late.paged.wait()
        assert len(scene.smsc.submissions) == 1
        assert scene.cscf.register(IMPU) == 6
        scene.assert_strict()


async def test_calls_to_different_subscribers_are_a_page_each() -> None:
    async with ImsScene() as scene:
        scene.records.add(b"\x08" * 16, impu=OTHER, imsi=IMSI[:-1] + "9")
        first, second = scene.cscf.invite(IMPU), scene.cscf.invite(OTHER)
        await asyncio.gather(first.paged.wait(), second.paged.wait())
        assert len(scene.smsc.submissions) == 2


async def test_a_telephone_number_is_found_by_the_msisdn_too() -> None:
    async with ImsScene() as scene:
        held = scene.cscf.invite(f"tel:{MSISDN}")
        await held.paged.wait()
        assert scene.smsc.submissions[0].message.destination.digits == MSISDN.lstrip("+")


# --- the HSS


async def test_who_is_not_in_the_records_is_asked_for_at_the_hss() -> None:
    async with ImsScene() as scene:
        scene.home.known[OTHER] = Numbers("491705555555", "")
        held = scene.cscf.invite(OTHER)
        await held.paged.wait()
        assert scene.smsc.submissions[0].message.destination.digits == "491705555555"


async def test_who_has_no_number_in_the_records_is_asked_for_at_the_hss() -> None:
    async with ImsScene() as scene:
        scene.records.add(b"\x08" * 16, impu=OTHER)
        scene.home.known[OTHER] = Numbers("", IMSI)
        held = scene.cscf.invite(OTHER)
        await held.paged.wait()
        # the IMSI leads to who has it, so to its number as well
        assert scene.smsc.submissions[0].message.destination.digits == MSISDN.lstrip("+")


@pytest.mark.parametrize(
    "trouble", [TimeoutError("491701234567"), OSError("491701234567"), ValueError("491701234567"), None]
)
async def test_an_hss_that_fails_or_hangs_is_a_call_that_fails(trouble: Exception | None) -> None:
    async with ImsScene() as scene:
        scene.home.error, scene.home.hangs = trouble, trouble is None
        held = scene.cscf.invite(OTHER)
        assert await held.ended == "refused"
        assert held.told == ["refused failed"]
        scene.assert_strict()


async def test_an_hss_that_answers_nonsense_is_a_call_that_fails() -> None:
    async with ImsScene() as scene:
        scene.home.known[OTHER] = Numbers("none of your business")
        held = scene.cscf.invite(OTHER)
        await held.ended
        assert held.told == ["refused failed"]


# --- refusing


@pytest.mark.parametrize("what", ["unknown", "no identity", "opted out", "no number", "opted out, known at home"])
async def test_whoever_can_not_be_paged_is_refused_with_the_same_words(what: str) -> None:
    async with ImsScene(ims={"refuse_ms": 100}) as scene:
        impu = OTHER
        if what == "no identity":
            impu = "sip:@@"
        elif what == "no number":
            scene.records.add(b"\x08" * 16, impu=OTHER)
        elif what.startswith("opted out"):
            scene.records.add(b"\x08" * 16, impu=OTHER, msisdn=MSISDN[:-1] + "9", out=(f"app:{APP}",))
            if what.endswith("home"):
                scene.home.known[OTHER] = Numbers(MSISDN[:-1] + "9")
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        held = scene.cscf.invite(impu)
        assert await held.ended == "refused"
        assert loop.time() - began_s >= 0.095  # none of them sooner than another
        assert held.told == ["refused unpageable"]
        assert (scene.smsc.submissions, scene.count("refused")) == ([], 1)
        assert scene.metrics.value(Metric.IMS_EVENTS, "end of nothing") == 0
        assert scene.home.asked == (what != "no identity")
        scene.assert_strict()


async def test_an_smsc_that_never_takes_the_number_refuses_the_call() -> None:
    async with ImsScene() as scene:
        scene.smsc.behaviour = Behaviour(status=Status.RINVDSTADR)
        held = scene.cscf.invite(IMPU)
        await held.ended
        assert held.told == ["refused unpageable"]


async def test_a_call_past_the_bound_is_refused_and_counted() -> None:
    async with ImsScene(ims={"calls": 1}) as scene:
        first, second = scene.cscf.invite(IMPU), scene.cscf.invite(OTHER)
        assert await second.ended == "refused"
        assert second.told == ["refused failed"]
        assert scene.metrics.value(Metric.NOTIFIER_BOUNDS, "ims calls") == 1
        await first.paged.wait()


async def test_an_app_or_pagers_that_are_not_there_are_a_call_that_fails() -> None:
    async with ImsScene(ims={"pagers": ["wap"]}) as scene:
        held = scene.cscf.invite(IMPU)
        await held.ended
        assert held.told == ["refused failed"]
        scene.house.apps.clear()
        held = scene.cscf.invite(IMPU)
        await held.ended
        assert held.told == ["refused failed"]


# --- pagers in turn


async def test_a_pager_that_can_not_leaves_it_to_the_next_and_is_asked_again_only_where_it_makes_sense() -> None:
    dead, later = FixedPager("dead", DEAD), FixedPager("later", LATER, ValueError("491701234567"), OK)
    async with ImsScene(ims={"pagers": ["dead", "later"]}, pagers={"dead": dead, "later": later}) as scene:
        held = scene.cscf.invite(IMPU)
        await held.paged.wait()
        assert (dead.asked, later.asked) == (1, 3)


async def test_pagers_that_never_can_are_asked_until_the_hold_ends() -> None:
    later = FixedPager("later", LATER)
    async with ImsScene(ims={"pagers": ["later"], "hold_max_s": 0.3}, pagers={"later": later}) as scene:
        held = scene.cscf.invite(IMPU)
        await held.ended
        assert held.told == ["refused failed"]
        assert later.asked > 2
        await until(lambda: len(scene.ims.calls) == 0)


# --- the end of a call


async def test_a_caller_who_gives_up_ends_the_paging() -> None:
    later = FixedPager("later", LATER)
    async with ImsScene(ims={"pagers": ["later"]}, pagers={"later": later}) as scene:
        held = scene.cscf.invite(IMPU)
        await until(lambda: later.asked > 0)
        scene.cscf.cancel(held)
        await until(lambda: len(scene.ims.calls) == 0)
        assert (held.told, scene.count("cancelled")) == ([], 1)
        scene.assert_strict()


async def test_a_call_that_ends_while_its_page_is_under_way_does_not_take_another_calls_page_along() -> None:
    async with ImsScene() as scene:
        scene.smsc.next.append(Behaviour(hangs=True))
        first = scene.cscf.invite(IMPU)
        await until(lambda: len(scene.smsc.submissions) == 1)
        second = scene.cscf.invite(IMPU)
        scene.cscf.cancel(first)
        await second.paged.wait()
        assert (first.told, len(scene.smsc.submissions)) == ([], 2)


async def test_who_never_registers_ends_with_the_servers_hold() -> None:
    async with ImsScene() as scene:
        held = scene.cscf.invite(IMPU, left_s=1)
        assert await held.ended == "timeout"
        await until(lambda: len(scene.ims.calls) == 0)
        assert held.told == ["paged"]
        assert (scene.count("timeout"), scene.count("refused"), scene.count("failed")) == (1, 0, 0)
        assert scene.metrics.value(Metric.IMS_EVENTS, "end of nothing") == 0
        scene.assert_strict()


async def test_an_end_that_never_comes_is_no_call_for_ever() -> None:
    async with ImsScene(ims={"hold_max_s": 0.3}) as scene:
        held = scene.cscf.invite(IMPU, left_s=60)
        await held.paged.wait()
        await until(lambda: len(scene.ims.calls) == 0)
        assert held.told == ["paged"]  # a page that went out is never taken back by a refusal


async def test_an_end_of_what_is_not_held_is_counted() -> None:
    async with ImsScene() as scene:
        scene.cscf.send(build_netstring(build(End("9:9", "timeout"))))
        await until(lambda: scene.metrics.value(Metric.IMS_EVENTS, "end of nothing") == 1)


# --- by the parameters of a contact (RFC 8599)


async def test_an_opaque_id_in_the_contact_is_paged_without_asking_who_is_called() -> None:
    async with ImsScene() as scene:
        inner = scene.subscribers._inner  # type: ignore[attr-defined]
        inner.known[(ID, APP)] = Numbers("491702222222", "")
        held = scene.cscf.invite("sip:nobody@ims.example.com", params=contact(ID))
        await held.paged.wait()
        assert scene.smsc.submissions[0].message.destination.digits == "491702222222"
        assert scene.home.asked == 0


async def test_a_token_in_the_contact_is_a_push_to_it_that_is_recalled_at_the_end() -> None:
    async with ImsScene() as scene:
        held = scene.cscf.invite(IMPU, params=contact(TOKEN, param=APP))
        await held.paged.wait()
        (request,) = scene.house.pushes
        assert (request.urgency, request.collapse_key, request.data) == ("high", "ims", {"ims": "INVITE"})
        assert 1 <= request.ttl <= 5
        scene.cscf.register(IMPU)
        await until(lambda: len(scene.house.recalled) == 1)
        assert scene.smsc.submissions == []


@pytest.mark.parametrize(
    "params",
    [
        contact("k3v7q2m5x4z6b7n2c3d4f5g6h7@push.example.com"),  # nobody's
        contact("AAAAAAAAAAAAAAAAAAAAAA"),  # no token
        contact("something else"),
        contact(ID, provider="apns"),
        contact(ID, param="another-app"),
        "pn-prid=a;pn-prid=b",
    ],
)
async def test_a_contact_that_leads_nowhere_leaves_it_to_who_is_called(params: str) -> None:
    async with ImsScene() as scene:
        held = scene.cscf.invite(OTHER, params=params)
        await held.ended
        assert held.told == ["refused unpageable"]
        assert scene.smsc.submissions == []
        held = scene.cscf.invite(IMPU, params=params)
        await held.paged.wait()
        assert len(scene.smsc.submissions) == 1


async def test_a_store_that_takes_nothing_is_a_call_that_fails() -> None:
    async with ImsScene() as scene:
        scene.house.error = StoreUnavailable()
        held = scene.cscf.invite(IMPU, params=contact(TOKEN))
        await held.ended
        assert held.told == ["refused failed"]


async def test_a_name_of_a_call_is_good_for_nothing_but_the_call() -> None:
    async with ImsScene() as scene:
        called = scene.subscribers
        with called.named(await called.find(IMPU)) as name:  # type: ignore[attr-defined]
            assert await called.resolve(name, APP) is not None
            assert await called.resolve(name, "shop") is None
        assert await called.resolve(name, APP) is None


# --- the link


async def test_a_gateway_that_was_away_is_asked_again_for_what_is_held() -> None:
    async with ImsScene() as scene:
        scene.cscf.is_mute = True
        held = scene.cscf.invite(IMPU)
        scene.cscf.is_mute = False
        scene.cscf.drop()
        await held.paged.wait()
        assert scene.cscf.hellos == 2
        scene.cscf.drop()  # asked again for what was paged: no second page
        await until(lambda: held.told == ["paged", "paged"])
        assert len(scene.smsc.submissions) == 1
        scene.assert_strict()


async def test_a_page_goes_on_while_the_link_is_down() -> None:
    later = FixedPager("later", LATER)
    async with ImsScene(ims={"pagers": ["later"]}, pagers={"later": later}) as scene:
        scene.cscf.invite(IMPU)
        await until(lambda: later.asked > 0)
        await scene.cscf.close()
        asked = later.asked
        await until(lambda: later.asked > asked)


async def test_a_server_that_is_silent_is_pinged_and_left_where_it_does_not_answer() -> None:
    async with ImsScene(ims={"ping_s": 0.05, "answer_s": 0.1}) as scene:
        await until(lambda: scene.cscf.pings > 3)
        assert scene.cscf.hellos == 1
        scene.cscf.answers_pings = False
        await until(lambda: scene.cscf.hellos > 1)
        assert scene.metrics.value(Metric.IMS_LINKS_ENDED, "timeout") >= 1
        scene.cscf.answers_pings = True
        held = scene.cscf.invite(IMPU)
        await held.paged.wait()


async def test_a_server_that_does_not_read_is_left_before_it_takes_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.paging.ims.link.MOST_UNSENT_BYTES", 1_000)
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(build_netstring(build(Pong())))
        accepted.put_nowait(writer)

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    metrics, settings = Metrics(process=False), Ims(reconnect_s=60, reconnect_max_s=60)
    port = server.sockets[0].getsockname()[1]
    link = CscfLink(SipServer("deaf", "127.0.0.1", port), settings, metrics, lambda _link, _message: None)
    link.start()
    await until(lambda: link.is_up)
    for _ in range(1_000_000):
        link.send(Paged("1:2"))
        if metrics.value(Metric.NOTIFIER_BOUNDS, "ims unsent"):
            break
    await until(lambda: not link.is_up)
    link.send(Paged("1:2"))  # nowhere, and no error
    assert metrics.value(Metric.NOTIFIER_BOUNDS, "ims unsent") == 1
    await link.close()
    (await accepted.get()).close()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("noise", [b"garbage without a length", b"99999:", b"3:abc;"])
async def test_bytes_that_are_no_frames_end_the_connection_and_the_next_one_works(noise: bytes) -> None:
    async with ImsScene() as scene:
        scene.cscf.send(noise)
        await until(lambda: scene.cscf.hellos == 2)
        assert scene.metrics.value(Metric.IMS_LINKS_ENDED, "malformed") == 1
        held = scene.cscf.invite(IMPU)
        await held.paged.wait()


async def test_a_message_that_makes_no_sense_is_counted_and_the_next_one_read() -> None:
    async with ImsScene() as scene:
        scene.cscf.send(b"7:garbage,")
        held = scene.cscf.invite(IMPU)
        await held.paged.wait()
        assert scene.metrics.value(Metric.IMS_EVENTS, "malformed") == 1
        assert scene.cscf.hellos == 1


async def test_one_server_that_is_down_does_not_touch_another() -> None:
    async with ImsScene(2) as scene:
        await scene.cscfs[0].close()
        held = scene.cscfs[1].invite(IMPU)
        await held.paged.wait()
        assert [link.is_up for link in scene.ims.links] == [False, True]


# --- privacy


async def test_no_trouble_shows_who_is_called(caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = (IMPU[4:14], MSISDN[1:], IMSI, OTHER[4:14], ID, TOKEN)
    broken = FixedPager("broken", RuntimeError(f"{MSISDN} {IMPU}"), LATER, OK)
    told: list[str] = []
    with structlog.testing.capture_logs() as logs:
        told.append(await every_trouble(broken, told))
    shown = "\n".join([*told, *map(repr, logs), caplog.text, *capfd.readouterr()])
    for event in ("ims_page_failed", "ims_pager_failed", "cscf_down"):
        assert event in shown
    assert [secret for secret in secrets if secret in shown] == []


async def every_trouble(broken: FixedPager, told: list[str]) -> str:
    """What metrics show after it; what the server heard is in `told`."""
    async with ImsScene(ims={"pagers": ["broken", "sms"], "hold_max_s": 1}, pagers={"broken": broken}) as scene:
        for error in (RuntimeError(f"{OTHER} {IMSI}"), ValueError(OTHER), OSError(MSISDN), None):
            scene.home.error = error
            for params in ("", contact(ID), contact(TOKEN), "pn-prid"):
                held = scene.cscf.invite(OTHER, params=params)
                told.append(repr(held))
                await asyncio.wait(
                    {held.ended, asyncio.ensure_future(held.paged.wait())}, return_when="FIRST_COMPLETED"
                )
                told += held.told
        for behaviour in (Behaviour(status=Status.RSYSERR), Behaviour(closes=True), Behaviour()):
            scene.smsc.next.append(behaviour)
            held = scene.cscf.invite(IMPU)
            await until(lambda held=held: held.told or held.ended.done())  # type: ignore[misc]
        scene.cscf.send(b"40:{'event':'page','impu':'" + IMPU.encode() + b"'}")
        scene.cscf.abort()
        await until(lambda: scene.cscf.hellos == 2)
        return scene.metrics.render().decode()


async def test_calls_by_impu_and_by_the_ids_of_one_subscriber_are_one_page() -> None:
    ids = [OPAQUE, "b3zk3mduc4efhv2r6tnsapwxyj"]
    async with ImsScene() as scene:
        network = [NetworkId(NetworkIdKind.MSISDN, MSISDN)]
        subscriber = Subscriber(b"\x07" * 16, network, OpaqueKind.O_TMSI, APP)  # as in the records

        async def resolve(opaque: str, _app: str) -> Subscriber | None:
            return subscriber if opaque.partition("@")[0] in ids else None

        scene.subscribers._inner.resolve = resolve  # type: ignore[attr-defined]
        scene.cscf.invite(IMPU)
        for each in ids:
            scene.cscf.invite(IMPU, params=f";pn-provider=heliograph;pn-prid={each}%40push.example.com")
        await until(lambda: scene.count("paged") == 3)
        assert len(scene.smsc.submissions) == 1


async def test_who_opted_out_by_impu_is_not_paged_by_a_number_of_the_hss_that_another_record_has() -> None:
    async with ImsScene() as scene:
        scene.records.records.clear()
        scene.records.add(b"\x07" * 16, impu=IMPU, out=("app:ims",))
        scene.records.add(b"\x08" * 16, msisdn=MSISDN)
        scene.home.known[IMPU] = Numbers(MSISDN, "")
        scene.cscf.invite(IMPU)
        await until(lambda: scene.count("refused") + scene.count("paged") == 1)
        assert scene.count("paged") == 0
