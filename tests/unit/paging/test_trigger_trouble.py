"""The notifier `trigger` before an exposure function that refuses, hangs, breaks or lies: each way has a stated
outcome, and nobody is named (C10)."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
import structlog
from trigger_scene import IMSI, MSISDN, NAI, OPAQUE, QUIET, TriggerScene, until

from gateway.metrics import Metric
from gateway.model.notification import Content
from gateway.notifiers.local_tls import Authority
from gateway.paging.trigger.local import Behaviour, LocalScef, _Reply


@pytest.fixture(autouse=True)
async def in_time() -> Any:
    async with asyncio.timeout(30):
        yield


# --- refusals


@pytest.mark.parametrize(
    ("behaviour", "dead", "detail"),
    [
        (Behaviour(status=400), True, "400 bad_request"),
        (Behaviour(status=400, invalid="/msisdn"), True, "400 bad_id"),
        (Behaviour(status=400, invalid="externalId"), True, "400 bad_id"),
        (Behaviour(status=401), False, "401 unauthorized"),
        (Behaviour(status=403), True, "403 forbidden"),
        (Behaviour(status=403, cause="USER_UNKNOWN"), True, "403 unknown_device"),
        (Behaviour(status=404), True, "404 unknown_device"),
        (Behaviour(status=404, cause="RESOURCE_URI_STRUCTURE_NOT_FOUND"), False, "404 no_api"),
        (Behaviour(status=404, body=b"<html>"), False, "404 no_api"),
        (Behaviour(status=405), False, "405 no_api"),
        (Behaviour(status=411), True, "411 refused"),
        (Behaviour(status=413), True, "413 too_large"),
        (Behaviour(status=415), True, "415 refused"),
        (Behaviour(status=500), False, "500 server_error"),
        (Behaviour(status=502, body=b"\xff" * 900_000), False, "502 server_error"),
        (Behaviour(status=599), False, "599 server_error"),
        (Behaviour(status=504, cause="UE_NOT_REACHABLE"), False, "later"),
        (Behaviour(status=200), False, "HTTP 200"),
        (Behaviour(status=302, headers=(("location", "https://evil.example/"),)), False, "302 redirected"),
    ],
)
async def test_a_refusal_is_the_row_of_its_status_and_cause(behaviour: Behaviour, dead: bool, detail: str) -> None:
    async with TriggerScene() as scene:
        scene.scef.behaviour = behaviour
        result = await scene.push()
        assert (result.ok, result.dead, result.detail) == (False, dead, detail)
        assert not result.gone
        assert scene.pending == 0


@pytest.mark.parametrize(
    ("behaviour", "rest_ms"),
    [
        (Behaviour(status=429, headers=(("retry-after", "7"),)), 7_000),
        (Behaviour(status=429), 5_000),
        (Behaviour(status=503, headers=(("retry-after", "9"),)), 9_000),
        (Behaviour(status=503), 5_000),
        (Behaviour(status=403, cause="QUOTA_EXCEEDED"), 60_000),
    ],
)
async def test_the_lane_rests_as_long_as_the_network_says(behaviour: Behaviour, rest_ms: int) -> None:
    async with TriggerScene() as scene:
        scene.scef.next.append(behaviour)
        result = await scene.push()
        assert (result.ok, result.dead, result.retry_after_ms) == (False, False, rest_ms)
        assert not (await scene.push()).asked
        assert scene.scef.triggers == []
        scene.moved_ms = rest_ms
        assert (await scene.push()).ok


# --- no answer


async def test_no_answer_in_time_is_tried_again_and_what_was_taken_is_heard_of() -> None:
    async with TriggerScene(timeout_s=0.5) as scene:
        scene.scef.behaviour = Behaviour(hangs=True, report_delay_s=0.8)
        result = await scene.push()
        assert (result.ok, result.dead, result.detail) == (False, False, "timeout")
        await until(lambda: scene.history.words == ["delivered"])
        assert scene.pending == 0


@pytest.mark.parametrize(
    ("behaviour", "detail"),
    [
        (Behaviour(resets=True), "connection"),
        (Behaviour(raw=b"\x16\x03\x01garbage\r\n\r\n"), "connection"),
        (Behaviour(raw=b"HTTP/1.1 201 Created\r\ncontent-length: 500\r\n\r\nhalf"), "connection"),
        (Behaviour(raw=b"HTTP/1.1 201 " + b"x" * 200_000), "connection"),
    ],
)
async def test_a_connection_that_breaks_is_tried_again(behaviour: Behaviour, detail: str) -> None:
    async with TriggerScene() as scene:
        scene.scef.next += [behaviour, behaviour]
        result = await scene.push()
        assert (result.ok, result.dead, result.detail) == (False, False, detail)
        scene.scef.next.clear()
        assert (await scene.push(registration=4)).ok


async def test_an_answer_that_is_cut_off_or_garbled_anywhere_is_an_outcome() -> None:
    whole = b"HTTP/1.1 201 Created\r\nlocation: /x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    answers = [whole[:end] for end in range(1, len(whole), 5)]
    answers += [whole[:at] + bytes([byte]) + whole[at + 1 :] for at in range(0, len(whole), 6) for byte in (0, 10, 255)]
    outcomes = set()
    async with TriggerScene() as scene:
        for number, answer in enumerate(answers):
            scene.scef.next += [Behaviour(raw=answer)] * 2
            result = await scene.push(registration=number)
            scene.scef.next.clear()
            outcomes.add((result.ok, result.dead, result.detail))
            scene.moved_ms += 5_000  # a status that was garbled may have asked for a rest
        assert (await scene.push(registration=10_000)).ok
    assert (False, False, "connection") in outcomes
    assert (True, False, "ok") in outcomes
    assert all(ok or dead or detail in _FOR_NOW for ok, dead, detail in outcomes), outcomes


_FOR_NOW = ("connection", "timeout", "garbage", "HTTP 200", "HTTP 211", "HTTP 291")


async def test_an_answer_that_is_taken_may_say_what_it_likes() -> None:
    async with TriggerScene() as scene:
        for body in (b"", b"\x00\xff", b"[" * 50_000, b"x" * 300_000):
            scene.scef.next.append(Behaviour(body=body, results=()))
            assert (await scene.push(registration=len(scene.scef.triggers))).ok


async def test_down_then_up_again() -> None:
    async with TriggerScene() as scene:
        assert (await scene.push()).ok
        scene.scef._server.close()  # type: ignore[union-attr]
        for task in list(scene.scef._tasks):
            task.cancel()
        await asyncio.gather(*scene.scef._tasks, return_exceptions=True)
        assert (await scene.push(registration=4)).detail == "connection"
        await scene.scef.start()
        assert (await scene.push(registration=5)).ok


async def test_a_redirect_is_followed_inside_its_origin_alone() -> None:
    async with TriggerScene() as scene:
        right = f"{scene.scef.root}/3gpp-device-triggering/v1/pushgw/transactions"
        scene.scef.next.append(Behaviour(status=308, headers=(("location", right),)))
        below = "/3gpp-device-triggering/v1/pushgw/transactions"
        scene.scef.next.append(Behaviour(status=307, headers=(("location", below),)))
        assert (await scene.push()).ok
        for location in ("http://127.0.0.1:1/x", "https://127.0.0.1/x", "//evil.example/x", ""):
            scene.scef.next.append(Behaviour(status=307, headers=(("location", location),)))
            assert (await scene.push(registration=4)).detail == "redirected"
        scene.scef.next += [Behaviour(status=307, headers=(("location", "http://u@[::1"),))] * 2
        assert (await scene.push(registration=4)).detail == "connection"
        scene.scef.next += [Behaviour(status=307, headers=(("location", right),))] * 4
        assert (await scene.push(registration=4)).detail == "redirected"
        assert len(scene.scef.triggers) == 1
        assert not scene.scef.next


async def test_where_reports_can_not_be_heard_nothing_goes_out_until_they_can() -> None:
    blocker = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = blocker.sockets[0].getsockname()[1]
    async with TriggerScene(callback_port=port, callback_retry_s=0.05, callback_retry_max_s=0.1) as scene:
        result = await scene.push()
        assert (result.ok, result.dead, result.detail) == (False, False, "not_listening")
        assert scene.scef.triggers == []
        blocker.close()
        await blocker.wait_closed()
        async with asyncio.timeout(60):
            while not (await scene.push()).ok:
                pass
        await until(lambda: scene.history.words == ["delivered"])


async def test_whom_it_stands_for_can_not_be_asked() -> None:
    async with TriggerScene() as scene:
        scene.subscribers.trouble = OSError()
        result = await scene.push()
        assert (result.ok, result.dead, result.detail) == (False, False, "lookup failed")


# --- who we are


async def test_a_fixed_token_is_shown(tmp_path: Path) -> None:
    scene = TriggerScene(LocalScef(bearer="t0p"), auth="bearer")
    scene.set_secret("token_file", tmp_path, "t0p")
    async with scene:
        assert (await scene.push()).ok
        scene.scef.bearer = "other"
        assert (await scene.push()).detail == "401 unauthorized"


class OauthScene(TriggerScene):
    def __init__(self, folder: Path, **trigger: Any) -> None:
        super().__init__(LocalScef(client_secret="s3cret"), auth="oauth2", client_id="pushgw", **trigger)
        self.set_secret("client_secret_file", folder, "s3cret")

    async def __aenter__(self) -> OauthScene:
        self.settings["t8"] = await self.scef.start()
        self.settings["token_url"] = self.scef.token_url
        await super().__aenter__()
        return self


async def test_a_token_is_fetched_once_for_all_and_again_when_it_is_refused_or_ends(tmp_path: Path) -> None:
    async with OauthScene(tmp_path) as scene:
        results = await asyncio.gather(*(scene.push(registration=n) for n in range(20)))
        assert all(result.ok for result in results)
        assert scene.scef.tokens == ["token-1"]
        scene.scef.tokens.append("token-2")  # the first is not good any more
        assert (await scene.push(registration=30)).ok
        assert scene.scef.tokens[-1] == "token-3"
        scene.moved_ms = 3_600_000
        assert (await scene.push(registration=31)).ok
        assert scene.scef.tokens[-1] == "token-4"
        assert scene.metrics.value(Metric.NOTIFIER_TOKENS, "trigger") == 3
        scene.assert_strict()


@pytest.mark.parametrize(
    ("reply", "detail"),
    [
        (_Reply(401, (), b"{}"), "token endpoint: HTTP 401"),
        (_Reply(500), "token endpoint: HTTP 500"),
        (_Reply(200, (), b"garbage"), "token endpoint: no token in its answer"),
        (_Reply(200, (), b'{"access_token":"a\\r\\nb: c"}'), "token endpoint: no token in its answer"),
        (_Reply(200, (), b'{"access_token":"x","token_type":"mac"}'), "token endpoint: no token in its answer"),
        (_Reply(200, (), b'{"access_token":"x","expires_in":-1}'), "token endpoint: no token in its answer"),
    ],
)
async def test_no_token_no_trigger(tmp_path: Path, reply: _Reply, detail: str) -> None:
    async with OauthScene(tmp_path) as scene:
        scene.scef.token_next.append(reply)
        result = await scene.push()
        assert (result.ok, result.dead, result.detail) == (False, False, detail)
        assert scene.scef.triggers == []
        assert (await scene.push()).ok


# --- TLS


async def test_inside_tls_with_a_certificate_of_our_own_both_ways(tmp_path: Path) -> None:
    authority, stranger = Authority(), Authority()
    context = authority.server_context(asks_client=True)
    context.set_alpn_protocols(["http/1.1"])
    ours = authority.issue(name="pushgw").write(tmp_path, "ours")
    listener = authority.issue("127.0.0.1").write(tmp_path, "listener")
    settings = {
        "certificate": str(ours.cert),
        "certificate_key": str(ours.key),
        "callback_certificate": str(listener.cert),
        "callback_certificate_key": str(listener.key),
    }
    scef = LocalScef(tls=context, trusts=authority.client_context())
    async with TriggerScene(scef, ca=str(authority.write(tmp_path)), **settings) as scene:
        assert (await scene.push()).ok
        assert scene.scef.triggers[0].body["notificationDestination"].startswith("https://127.0.0.1:")
        await until(lambda: scene.history.words == ["delivered"])
    other = stranger.write(tmp_path, "stranger")
    async with TriggerScene(LocalScef(tls=context), ca=str(other)) as scene:
        assert (await scene.push()).detail == "TLS: the upstream's certificate is not trusted"


# --- what must never be seen


async def test_no_network_id_no_secret_and_no_text_is_ever_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level(logging.INFO)
    for name in ("httpx", "httpcore"):  # as the gateway sets it
        logging.getLogger(name).setLevel(logging.WARNING)
    told: list[str] = []
    with structlog.testing.capture_logs() as logs:
        for identify in ("msisdn", "external_id", "opaque_id"):
            told += await every_trouble(tmp_path, identify)
    told += [repr(line) for line in logs]
    out, err = capfd.readouterr()
    seen = "\n".join([*told, caplog.text, out, err])
    assert "delivered" in seen
    assert "trigger_watch_failed" in seen
    for word in (MSISDN, "1511234567", NAI, IMSI, "geheim", "s3cret", OPAQUE, OPAQUE.partition("@")[0], "token-"):
        assert word not in seen, word


async def every_trouble(folder: Path, identify: str) -> list[str]:
    """All that was said meanwhile."""
    told: list[str] = []
    names = f"about {MSISDN} {NAI} {OPAQUE} geheim".encode()
    behaviours = [
        Behaviour(),
        *(Behaviour(status=status) for status in (400, 401, 403, 404, 413, 429, 500, 503)),
        Behaviour(status=400, cause=MSISDN, invalid=MSISDN),
        Behaviour(status=500, body=names),
        Behaviour(status=504, cause="UE_NOT_REACHABLE"),
        Behaviour(raw=names),
        Behaviour(raw=b"HTTP/1.1 500 " + names + b"\r\n\r\n"),
        Behaviour(resets=True),
        Behaviour(hangs=True),
        Behaviour(location=f"/{MSISDN}"),
        Behaviour(status=307, headers=(("location", f"https://evil.example/{MSISDN}"),)),
        Behaviour(results=("FAILURE", MSISDN)),
        Behaviour(transaction=f"https://x/{MSISDN}"),
    ]
    async with OauthScene(folder, identify=identify, watch_reachability=True, timeout_s=1.0) as scene:
        content = Content(title="geheim-titel", text="geheim-text " * 30)
        for number, behaviour in enumerate(behaviours):
            scene.scef.next.append(behaviour)
            told.append(repr(await scene.push(content=content, registration=number, seq=number)))
            await asyncio.sleep(0)
            scene.scef.next.clear()
            scene.moved_ms += 61_000
        scene.scef.behaviour = QUIET
        assert (await scene.push(content=content, registration=99)).ok
        url = scene.scef.triggers[-1].body["notificationDestination"]
        for body in (names, {"transaction": MSISDN, "result": NAI}, {"subscription": f"https://x/{MSISDN}"}):
            told.append(str(await scene.scef.post(url, body)))
        told.append(str(await scene.scef.post(url + MSISDN, {})))
        scene.scef.behaviour = Behaviour(raw=names)
        await until(lambda: scene.metrics.value(Metric.TRIGGER_WATCHES, "taken") >= 1)
        scene.moved_ms += 90_000_000
        scene.notifier._look_for(scene.notifier._tracking.open(1, 1, "shop", OPAQUE, 1))
        await until(lambda: scene.metrics.value(Metric.TRIGGER_WATCHES, "failed") >= 1)
        told += [repr(step) for step in scene.history.steps]
        told += [scene.metrics.render().decode(), repr(scene.notifier), repr(scene.notifier._way), *scene.scef.faults]
        told += [repr(vars(scene.notifier._way)), repr(scene.notifier._tracking.open(1, 1, "shop", OPAQUE, 1))]
        told += [repr(scene.scef.triggers)]
    return told
