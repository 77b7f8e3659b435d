"""The notifier `ip` before terminals, a GGSN and a NAS that behave and that do not: every way it can go has a stated
outcome (C11)."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
import structlog
from ip_scene import HERE, IMSI, MSISDN, NAI, OPAQUE, IpScene, subscriber, until

from gateway.metrics import Metric
from gateway.model.errors import BadRequest, ConfigError
from gateway.model.notification import Content
from gateway.paging.ip.accounting import INTERIM, ON, START, STOP
from gateway.paging.ip.errors import CODES
from gateway.paging.ip.local import Behaviour
from gateway.paging.ip.local_nas import LocalNas


@pytest.fixture(autouse=True)
async def in_time() -> Any:
    async with asyncio.timeout(30):
        yield


async def test_on_line_and_acknowledged(tmp_path: Path) -> None:
    async with IpScene(tmp_path) as scene:
        await scene.on_line()
        result = await scene.push()
        assert (result.ok, result.detail) == (True, "ok")
        (payload,) = scene.terminal.received
        assert (payload.title, payload.text, payload.token) == ("Hi", "there", b"t" * 16)
        assert scene.metrics.value(Metric.IP_DATAGRAMS) == 1
        scene.assert_strict()


async def test_an_app_may_send_nothing_but_the_reason_to_connect(tmp_path: Path) -> None:
    async with IpScene(tmp_path) as scene:
        await scene.on_line()
        scene.settings = {"content": "none"}
        assert (await scene.push()).ok
        (payload,) = scene.terminal.received
        assert (payload.title, payload.text, payload.is_cut) == ("", "", True)


async def test_off_line_waits_until_accounting_says_that_it_is_back(tmp_path: Path) -> None:
    async with IpScene(tmp_path) as scene:
        result = await scene.push()
        assert (result.ok, result.dead, result.detail) == (False, False, "later")
        assert len(scene.waiting) == 1
        await scene.on_line()
        assert scene.backs == [3]
        assert (await scene.push()).ok
        await scene.nas.tell(STOP)
        assert (await scene.push()).detail == "later"
        # an interim update says so too, as after a restart; by the number where no IMSI is told
        await scene.nas.tell(INTERIM, session="2", ip=HERE, msisdn=MSISDN)
        assert scene.backs == [3, 3]


async def test_being_off_line_is_no_try_and_no_page(tmp_path: Path) -> None:
    async with IpScene(tmp_path) as scene:
        scene.config.paging.subscriber_per_hour, scene.config.paging.subscriber_burst = 1, 1
        for _ in range(10):
            assert (await scene.push()).asked is False  # else it would not be tried any more after some
        await scene.on_line()
        assert (await scene.push()).ok
        assert (await scene.push()).detail == "later"


async def test_the_ggsn_is_asked_and_asked_again(tmp_path: Path) -> None:
    async with IpScene(tmp_path, listens=False, ggsn=True) as scene:
        assert (await scene.push()).detail == "later"
        await until(lambda: scene.metrics.value(Metric.IP_REQUERIES, "off_line") >= 2)
        scene.ggsn.contexts[IMSI] = ("internet", HERE)
        await until(lambda: scene.backs == [3])
        asked = scene.ggsn.asked
        assert (await scene.push()).ok
        assert scene.ggsn.asked == asked + 1  # who is back is not asked for any more
        scene.assert_strict()


async def test_the_ggsn_is_not_asked_past_the_end_of_the_push(tmp_path: Path) -> None:
    async with IpScene(tmp_path, listens=False, ggsn=True) as scene:
        assert (await scene.push()).detail == "later"
        scene.moved_ms = 4_000_000
        await until(lambda: scene.metrics.value(Metric.IP_REQUERIES, "expired") == 1)


async def test_questions_again_are_bounded_and_the_one_that_waits_longest_goes(tmp_path: Path) -> None:
    async with IpScene(tmp_path, listens=False, ggsn=True, ip={"watched": 2, "requery_s": 3600.0}) as scene:
        for n in range(3):
            scene.subscribers.known[f"id{n}"] = subscriber(bytes([n]) * 16, imsi=f"00101000000010{n}")
            assert (await scene.push(address=f"id{n}")).detail == "later"
        assert len(scene.notifier._watch) == 2
        assert scene.metrics.value(Metric.NOTIFIER_BOUNDS, "ip watched") == 1


async def test_what_the_ggsn_said_holds_for_a_while_but_not_after_silence(tmp_path: Path) -> None:
    async with IpScene(tmp_path, listens=False, ggsn=True, ip={"online_cache_s": 60.0}) as scene:
        scene.ggsn.contexts[IMSI] = ("internet", HERE)
        assert (await scene.push()).ok
        assert (await scene.push()).ok
        assert scene.ggsn.asked == 1
        scene.terminal.behaviour = Behaviour(how="silent")
        assert (await scene.push()).detail == "no_ack"
        scene.terminal.behaviour = Behaviour()
        assert (await scene.push()).ok
        assert scene.ggsn.asked == 2
        scene.moved_ms = 61_000
        assert (await scene.push()).ok
        assert scene.ggsn.asked == 3


@pytest.mark.parametrize(
    ("how", "word"),
    [("hang", "ggsn_timeout"), ("close", "ggsn_failed"), ("refuse", "ggsn_failed"), ("garbage", "ggsn_failed"),
     ("flood", "ggsn_failed"), ("stranger", "later")],
)  # fmt: skip
async def test_trouble_with_the_ggsn(tmp_path: Path, how: str, word: str) -> None:
    # only who hangs is waited for; what is answered then has to come in the same time
    timeout_s = 0.5 if how == "hang" else 10.0
    async with IpScene(tmp_path, listens=False, ggsn=True, ip={"ggsn_timeout_s": timeout_s}) as scene:
        scene.ggsn.contexts[IMSI] = ("internet", HERE)
        scene.ggsn.how = how
        result = await scene.push()
        assert (result.ok, result.dead, word in result.detail) == (False, False, True), result
        scene.ggsn.how = "answer"
        assert (await scene.push()).ok
        scene.assert_strict()


async def test_a_ggsn_that_is_not_there_and_comes_back(tmp_path: Path) -> None:
    async with IpScene(tmp_path, listens=False, ggsn=True) as scene:
        await scene.ggsn.close()
        assert "ggsn_failed" in (await scene.push()).detail
        await scene.ggsn.start()
        scene.ggsn.contexts[IMSI] = ("internet", HERE)
        assert (await scene.push()).ok


async def test_trouble_with_the_ggsn_holds_up_nobody_whom_accounting_knows(tmp_path: Path) -> None:
    async with IpScene(tmp_path, ggsn=True) as scene:
        scene.config.delivery.notifier_failures = 1
        scene.ggsn.how = "close"
        assert (await scene.push()).detail == "later"
        await until(lambda: scene.metrics.value(Metric.IP_REQUERIES, "failed") >= 1)
        await scene.on_line()
        assert (await scene.push()).ok


async def test_past_the_bound_of_datagrams_under_way_a_push_is_tried_later(tmp_path: Path) -> None:
    async with IpScene(tmp_path, ip={"at_once": 1}) as scene:
        await scene.on_line()
        scene.terminal.behaviour = Behaviour(delay_s=0.1)
        results = await asyncio.gather(scene.push(number=1), scene.push(number=2))
        assert sorted(result.detail for result in results) == ["busy", "ok"]
        assert scene.metrics.value(Metric.NOTIFIER_OUTCOMES, "ip busy") == 1


async def test_accounting_comes_before_the_ggsn(tmp_path: Path) -> None:
    async with IpScene(tmp_path, ggsn=True) as scene:
        await scene.on_line()
        assert (await scene.push()).ok
        assert scene.ggsn.asked == 0
        await scene.nas.tell(STOP)
        scene.ggsn.contexts[IMSI] = ("internet", HERE)
        assert (await scene.push()).ok  # accounting does not know all
        assert scene.ggsn.asked == 1


# --- what a terminal does


@pytest.mark.parametrize(
    ("behaviour", "ok", "dead", "detail"),
    [
        (Behaviour(loses=1), True, False, "ok"),
        (Behaviour(how="twice"), True, False, "ok"),
        (Behaviour(how="separate"), True, False, "ok"),
        (Behaviour(how="answer_first"), True, False, "ok"),
        (Behaviour(how="acknowledge"), True, False, "ok"),
        (Behaviour(how="silent"), False, False, "no_ack"),
        (Behaviour(loses=2), False, False, "no_ack"),
        (Behaviour(how="reset"), False, False, "reset"),
        (Behaviour(how="other_token"), False, False, "no_ack"),
        (Behaviour(how="other_id"), False, False, "no_ack"),
        (Behaviour(how="garbage"), False, False, "no_ack"),
        (Behaviour(code=0x84), False, True, "4.04 not_found"),
        (Behaviour(code=0x84, how="separate"), False, True, "4.04 not_found"),
        (Behaviour(code=0xA3), False, False, "5.03 unavailable"),
        (Behaviour(code=0x9E), False, True, "4.30 other_4xx"),
        (Behaviour(code=0xBE), False, False, "5.30 other_5xx"),
        *[(Behaviour(code=(row.status // 100) << 5 | row.status % 100), False, row.verdict == "dead",
           f"{row.status // 100}.{row.status % 100:02d} {row.reason}") for row in CODES],
    ],
)  # fmt: skip
async def test_what_a_terminal_may_do(tmp_path: Path, behaviour: Behaviour, ok: bool, dead: bool, detail: str) -> None:
    async with IpScene(tmp_path) as scene:
        await scene.on_line()
        scene.terminal.behaviour = behaviour
        result = await scene.push()
        assert (result.ok, result.dead, result.detail) == (ok, dead, detail)
        if behaviour.how in ("separate", "answer_first"):
            await until(lambda: len(scene.terminal.acknowledged) == 1)  # or it would send its answer again
        if behaviour.how == "garbage":
            await until(lambda: scene.terminal.was_reset[:1] == [7])
        if behaviour.how == "acknowledge":
            assert scene.terminal.datagrams == 1  # what is acknowledged is not sent again
        scene.assert_strict()
        # no lane is blamed for a terminal
        scene.terminal.behaviour = Behaviour()
        assert (await scene.push()).ok


async def test_nobody_listens_on_the_port(tmp_path: Path) -> None:
    async with IpScene(tmp_path, ip={"ack_s": 2.0}) as scene:
        await scene.on_line()
        scene.terminal.close()
        result = await scene.push()
        assert (result.ok, result.dead, result.detail) == (False, False, "unreachable")


async def test_a_slow_terminal_holds_up_nobody_else(tmp_path: Path) -> None:
    async with IpScene(tmp_path, ip={"ack_s": 1.0, "at_once": 50}) as scene:
        await scene.on_line()
        scene.terminal.behaviour = Behaviour(delay_s=0.3)
        loop = asyncio.get_running_loop()
        began = loop.time()
        results = await asyncio.gather(*(scene.push(number=n) for n in range(40)))
        assert all(result.ok for result in results)
        assert loop.time() - began < 3.0
        assert len(scene.terminal.received) == 40


# --- where a datagram may go


@pytest.mark.parametrize(
    ("ip", "address"),
    [
        ({"networks": ["10.45.0.0/16"]}, "127.0.0.1"),
        ({"loopback": False, "networks": ["10.45.0.0/16"]}, "10.46.0.1"),
        ({"loopback": False, "networks": ["10.45.0.0/16"]}, "10.45.255.255"),
        ({"loopback": False, "networks": ["128.0.0.0/1"]}, "224.0.0.1"),
        ({"loopback": False, "networks": ["128.0.0.0/1"]}, "169.254.1.1"),
        ({"loopback": False, "networks": ["0.0.0.0/1"]}, "127.0.0.1"),
        ({"networks": []}, "127.0.0.1"),
    ],
)
async def test_nothing_is_sent_outside_the_pools(tmp_path: Path, ip: dict[str, Any], address: str) -> None:
    async with IpScene(tmp_path, ip=ip) as scene:
        await scene.on_line(ip=address)
        result = await scene.push()
        assert (result.ok, result.dead, result.detail) == (False, True, "not_allowed"), result
        assert scene.metrics.value(Metric.IP_DATAGRAMS) == 0


async def test_only_sessions_of_the_apns_that_are_named(tmp_path: Path) -> None:
    async with IpScene(tmp_path, ip={"apns": ["Internet"]}) as scene:
        await scene.on_line(session="1", called="ims", ip="127.0.0.9")
        assert (await scene.push()).detail == "no_host"
        await scene.on_line(session="2", called="internet")
        await scene.on_line(session="3", called="ims", ip="127.0.0.10")
        assert (await scene.push()).ok


async def test_a_prefix_alone_is_no_address(tmp_path: Path) -> None:
    async with IpScene(tmp_path) as scene:
        await scene.nas.tell(START, prefix="2001:db8:7::/64", imsi=IMSI)
        assert (await scene.push()).detail == "no_host"


async def test_a_prefix_and_the_host_that_identity_was_told_of(tmp_path: Path) -> None:
    async with IpScene(tmp_path, ip={"networks": ["2001:db8::/32"]}) as scene:
        await scene.nas.tell(START, prefix="2001:db8:7::/64", imsi=IMSI)
        scene.subscribers.known[OPAQUE] = subscriber(imsi=IMSI, ip="2001:db8:8::9")
        assert (await scene.push()).detail == "no_host"
        scene.subscribers.known[OPAQUE] = subscriber(imsi=IMSI, ip="2001:db8:7::9")
        assert (await scene.push()).detail in ("unreachable", "no_ack")  # it is a documentation address


async def test_over_ipv6(tmp_path: Path) -> None:
    async with IpScene(tmp_path, ip={"networks": ["::1/128"]}) as scene:
        scene.terminal.close()
        await scene.terminal.start(scene.terminal.port, "::1")
        await scene.nas.tell(START, ipv6="::1", imsi=IMSI)
        assert (await scene.push()).ok
        scene.assert_strict()


# --- APP UID (C1)


async def test_by_nai(tmp_path: Path) -> None:
    async with IpScene(tmp_path) as scene:
        scene.subscribers.known[OPAQUE] = subscriber(nai=NAI)
        assert (await scene.push()).detail == "later"
        await scene.nas.tell(START, ip=HERE, user_name="ann@EXAMPLE.com")
        assert scene.backs == [3]
        assert (await scene.push()).ok


async def test_a_nai_that_several_have_leads_to_nobody(tmp_path: Path) -> None:
    async with IpScene(tmp_path) as scene:
        scene.subscribers.known[OPAQUE] = subscriber(nai=NAI)
        await scene.nas.tell(START, session="1", ip=HERE, user_name=NAI, imsi=IMSI)
        assert (await scene.push()).ok
        await scene.nas.tell(START, session="2", ip="127.0.0.9", user_name=NAI, imsi="001010000000002")
        result = await scene.push()
        assert (result.dead, result.detail) == (True, "no_host")


async def test_a_session_with_another_card_is_anothers(tmp_path: Path) -> None:
    async with IpScene(tmp_path) as scene:
        await scene.on_line(imsi="001010000000002")  # the number was given to another
        assert (await scene.push()).detail == "later"
        await scene.on_line(session="2", msisdn="491709999999")  # one card, several numbers
        assert (await scene.push()).ok


@pytest.mark.parametrize("names", [{"nai": NAI}, {}])
async def test_an_address_that_was_told_is_not_sent_to_where_accounting_gives_it_no_name(
    tmp_path: Path, names: dict[str, str]
) -> None:
    async with IpScene(tmp_path) as scene:
        scene.subscribers.known[OPAQUE] = subscriber(ip=HERE, **names)
        assert (await scene.push()).detail == "later"
        await scene.nas.tell(START, session="1", ip=HERE, imsi="001010000000111")
        assert (await scene.push()).detail == "later"  # who has it may be anybody
        await scene.nas.tell(START, session="2", ip=HERE, user_name="eve@example.com", msisdn="4900000000")
        assert (await scene.push()).detail == "later"
        assert scene.terminal.datagrams == 0


async def test_a_nai_that_accounting_tells_is_a_name(tmp_path: Path) -> None:
    async with IpScene(tmp_path) as scene:
        scene.subscribers.known[OPAQUE] = subscriber(nai=NAI, ip=HERE)
        await scene.nas.tell(START, session="1", ip=HERE, user_name=NAI)
        assert (await scene.push()).ok


async def test_an_address_that_was_told_where_nothing_else_is_known(tmp_path: Path) -> None:
    async with IpScene(tmp_path, listens=False) as scene:
        scene.subscribers.known[OPAQUE] = subscriber(nai=NAI, ip=HERE)
        assert (await scene.push()).ok
        scene.subscribers.known[OPAQUE] = subscriber(nai=NAI)
        result = await scene.push()
        assert (result.dead, "no_number" in result.detail) == (True, True)


async def test_ids_that_stand_for_nobody_and_registrations_without_one(tmp_path: Path) -> None:
    async with IpScene(tmp_path) as scene:
        assert (await scene.push(address="nobody")).dead
        assert (await scene.push(address="")).dead
        assert scene.terminal.datagrams == 0


# --- settings


@pytest.mark.parametrize("settings", [{"port": "80"}, {"port": "1600"}, {"content": "all"}, {"host": "10.0.0.1"}])
async def test_an_app_can_not_choose_where_it_goes(tmp_path: Path, settings: dict[str, str]) -> None:
    async with IpScene(tmp_path, listens=False) as scene:
        with pytest.raises(BadRequest) as caught:
            scene.notifier.check(settings)
        assert caught.value.field == f"notifiers.ip.{next(iter(settings))}"
        scene.notifier.check({"port": "16999", "content": "none"})


async def test_a_port_that_is_taken_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    async with IpScene(tmp_path) as scene:
        assert scene.notifier.listener is not None
        other = IpScene(tmp_path, radius={"port": scene.notifier.listener.port})
        with pytest.raises(ConfigError) as caught:
            await other.__aenter__()
        assert caught.value.field == "radius.port"
        await other.notifier.close()
        other.terminal.close()


# --- what must never be seen


async def test_no_address_no_number_and_no_text_is_ever_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    address, secret = "127.0.0.77", Content(title="geheim-titel", text="geheim-text")
    with structlog.testing.capture_logs() as logs:
        async with IpScene(tmp_path, ggsn=True, ip={"ggsn_timeout_s": 0.1}, radius={"sessions": 2}) as scene:
            scene.terminal.close()
            await scene.terminal.start(scene.terminal.port, address)
            told.append(repr(await scene.push(content=secret)))
            for how in ("hang", "close", "refuse", "garbage", "flood", "stranger"):
                scene.ggsn.how = how
                told.append(repr(await scene.push(content=secret)))
            scene.ggsn.how = "answer"
            await scene.on_line(ip=address)
            for how in ("answer", "reset", "silent", "garbage", "other_token", "acknowledge"):
                scene.terminal.behaviour = Behaviour(how=how)
                told.append(repr(await scene.push(content=secret)))
            scene.terminal.behaviour = Behaviour(code=0x84)
            told.append(repr(await scene.push(content=secret)))
            scene.terminal.close()
            told.append(repr(await scene.push(content=secret)))
            sessions = scene.notifier.sessions
            assert sessions is not None
            (session,) = sessions.of(iter([(next(iter(sessions.whose(address) or ())).kind, IMSI)]))
            told += [repr(session), repr(sessions), repr(sessions.whose(address)), repr(scene.notifier)]
            async with LocalNas(scene.notifier.listener.port, b"another secret") as stranger:  # type: ignore[union-attr]
                with pytest.raises(TimeoutError):
                    await stranger.tell(imsi=IMSI, ip=address, timeout_s=0.1)
            for n in range(3):
                await scene.on_line(session=f"s{n}", ip=f"127.0.0.{80 + n}", imsi=f"00101000000009{n}", msisdn="")
            await scene.nas.tell(ON)
            told += [scene.metrics.render().decode(), str(scene.metrics.snapshot())]
    out, err = capfd.readouterr()
    told += [out, err, caplog.text, str(logs), *[str(record.__dict__) for record in caplog.records]]
    shown = "\n".join(told)
    for word in (IMSI, MSISDN, address, "127.0.0.8", "00101000000009", "geheim", "between-us", OPAQUE):
        assert word not in shown
    assert scene.requests("bad_authenticator") == 1


async def test_who_opted_out_meanwhile_is_asked_for_no_more(tmp_path: Path) -> None:
    async with IpScene(tmp_path, listens=False, ggsn=True) as scene:
        assert not (await scene.push()).ok
        await until(lambda: scene.ggsn.asked >= 2)
        scene.subscribers.known.clear()
        await until(lambda: len(scene.notifier._watch) == 0)
        asked = scene.ggsn.asked
        await asyncio.sleep(0.3)
        assert scene.ggsn.asked == asked
