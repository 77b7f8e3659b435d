"""The FCM notifier against an FCM that runs here, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from upstream_rig import (
    IDS,
    QUICK,
    TOKEN,
    build_app,
    build_notification,
    build_registration,
    outcomes,
    until_ok,
)
from upstream_scene import UpstreamScene

from gateway.metrics import Metric
from gateway.model.errors import BadRequest
from gateway.model.notification import Content
from gateway.model.registration import Registration, build_token
from gateway.notifiers.connections import build_client, build_context
from gateway.notifiers.fcm.access_token import GRANT_TYPE, SCOPE
from gateway.notifiers.fcm.client import FcmNotifier
from gateway.notifiers.fcm.errors import BY_REASON, ROWS
from gateway.notifiers.fcm.local import LocalFcm, build_refusal
from gateway.notifiers.local_h2 import Reply, Trouble, build_json
from gateway.notifiers.local_tls import Authority
from gateway.notifiers.upstream import Verdict

DEVICE = "cXyz:APA91bToken"
#: of google.rpc, for answers without an FcmError
STATUSES = ["PERMISSION_DENIED", "NOT_FOUND", "RESOURCE_EXHAUSTED"]
#: what FCM says in an FcmError: every other row of its own name
WITH_DETAIL = [
    row.reason for row in ROWS if row.reason in BY_REASON and row.reason not in (*STATUSES, "UNAUTHENTICATED")
]


class Scene(UpstreamScene[LocalFcm, FcmNotifier]):
    def __init__(self, authority: Authority) -> None:
        super().__init__(LocalFcm, FcmNotifier, authority)
        self.fcm = self.upstream

    def account(self, **changes: Any) -> str:
        """The service account with changes, as text."""
        account = msgspec.json.decode(self.fcm.settings()["service_account"])
        return msgspec.json.encode({**account, **changes}).decode()

    def device(self, token: str = DEVICE, code: str = "") -> Registration:
        return build_registration("fcm", self.fcm.add_device(token, code))

    def sends(self) -> int:
        return sum(request.path != "/token" for request in self.fcm.requests)

    def fetches(self) -> int:
        return sum(request.path == "/token" for request in self.fcm.requests)


@pytest.fixture
async def scene(authority: Authority) -> AsyncIterator[Scene]:
    async with Scene(authority) as scene:
        yield scene


async def test_message_has_everything_the_app_needs_and_nothing_more(scene: Scene) -> None:
    result = await scene.push(urgency=3, collapse_key="score")
    assert (result.ok, result.detail) == (True, "200 ok")
    [message] = scene.fcm.taken
    assert message["token"] == DEVICE
    assert message["notification"] == {"title": "Hi", "body": "there"}
    assert message["data"] == {"heliograph_push": IDS.build("shop", 9), "heliograph_token": build_token(TOKEN)}
    android = message["android"]
    assert (android["priority"], android["collapse_key"]) == ("HIGH", "score")
    assert android["notification"] == {"tag": "score"}
    assert 3_500 <= int(android["ttl"].removesuffix("s")) <= 3_600
    assert not any(b"secret-" in request.body for request in scene.fcm.requests)


async def test_without_collapse_key_a_repeated_try_replaces_what_is_shown(scene: Scene) -> None:
    assert (await scene.push(urgency=1)).ok
    [message] = scene.fcm.taken
    assert "collapse_key" not in message["android"]
    assert message["android"]["notification"] == {"tag": IDS.build("shop", 9)}
    assert message["android"]["priority"] == "NORMAL"


async def test_push_without_text_is_a_data_message(scene: Scene) -> None:
    assert (await scene.push(content=Content(data=b"\x01"))).ok
    [message] = scene.fcm.taken
    assert "notification" not in message
    assert "notification" not in message["android"]


async def test_ttl_0_is_now_or_never_and_four_weeks_are_the_most(scene: Scene) -> None:
    assert (await scene.push(accepted_ms=1_000_500, expires_s=1_000)).ok
    assert (await scene.push(expires_s=1 << 40)).ok
    assert [message["android"]["ttl"] for message in scene.fcm.taken] == ["0s", "2419200s"]


@pytest.mark.parametrize("text", ["x" * 10_000, "é" * 5_000, '"' * 9_000, "😀" * 4_000])
async def test_text_that_is_too_long_is_cut_so_that_the_message_fits(scene: Scene, text: str) -> None:
    assert (await scene.push(content=Content(title="Title", text=text))).ok
    [message] = scene.fcm.taken
    assert message["notification"]["body"].endswith("…")


@pytest.mark.parametrize("code", WITH_DETAIL)
async def test_every_error_code(scene: Scene, code: str) -> None:
    row = BY_REASON[code]
    result = await scene.push(scene.device(code=code))
    assert result.ok is False
    assert result.dead is (row.verdict in (Verdict.DEAD, Verdict.GONE))
    assert result.gone is (code == "UNREGISTERED")
    assert result.detail == f"{row.status} {code}"
    assert max(result.retry_after_ms, result.hold_ms) == row.pause_s * 1000
    assert outcomes(scene.metrics, "fcm") == {code: 1}
    assert (scene.sends(), scene.fetches()) == (1, 1)  # THIRD_PARTY_AUTH_ERROR is a 401 that renews nothing


@pytest.mark.parametrize("status", STATUSES)
async def test_error_without_a_code_goes_by_its_status(scene: Scene, status: str) -> None:
    await scene.push()
    scene.fcm.expect(build_refusal(status, with_detail=False))
    result = await scene.push()
    assert (result.ok, result.gone) == (False, False)
    assert result.dead is (BY_REASON[status].verdict is Verdict.DEAD)


async def test_token_that_nobody_has_is_gone(scene: Scene) -> None:
    result = await scene.push(build_registration("fcm", "never-seen"))
    assert (result.dead, result.gone, result.detail) == (True, True, "404 UNREGISTERED")


@pytest.mark.parametrize("code", ["QUOTA_EXCEEDED", "UNAVAILABLE"])
async def test_retry_after_holds_for_the_lane(scene: Scene, code: str) -> None:
    await scene.push()
    scene.fcm.expect(build_refusal(code, retry_after="90"))
    assert (await scene.push()).retry_after_ms == 90_000
    before = len(scene.fcm.requests)
    refused = await scene.push()
    assert (refused.asked, refused.detail, len(scene.fcm.requests)) == (False, "upstream rests", before)
    scene.clock.moved_s += 91
    assert (await scene.push()).ok


# --- access tokens


async def test_many_pushes_at_once_fetch_one_token(scene: Scene) -> None:
    results = await asyncio.gather(*(scene.push() for _ in range(20)))
    assert all(result.ok for result in results)
    assert scene.fetches() == 1
    assert scene.metrics.value(Metric.NOTIFIER_TOKENS, "fcm") == 1


async def test_token_is_renewed_before_it_ends(scene: Scene) -> None:
    await scene.push()
    scene.clock.moved_s += 3_200
    await scene.push()
    assert scene.fetches() == 1
    scene.clock.moved_s += 120  # less than five minutes are left
    assert (await scene.push()).ok
    assert scene.fetches() == 2
    assert scene.sends() == 3  # none was refused


async def test_short_token_is_used_for_half_its_time(scene: Scene) -> None:
    scene.fcm.expires_in = 60
    await scene.push()
    scene.clock.moved_s += 20
    await scene.push()
    assert scene.fetches() == 1
    scene.clock.moved_s += 15
    await scene.push()
    assert scene.fetches() == 2


async def test_token_that_was_revoked_is_renewed_once_and_the_push_repeated(scene: Scene) -> None:
    assert (await scene.push()).ok
    scene.fcm.access_tokens.clear()
    results = await asyncio.gather(*(scene.push() for _ in range(8)))
    assert all(result.ok for result in results)
    assert scene.fetches() == 2


async def test_token_refused_again_is_for_now(scene: Scene) -> None:
    await scene.push()
    scene.fcm.expect(build_refusal("UNAUTHENTICATED", with_detail=False))
    scene.fcm.expires_in = 1
    scene.fcm.access_tokens.clear()
    refused = build_refusal("UNAUTHENTICATED", with_detail=False)
    token = build_json(200, {"access_token": "ya29.bad", "expires_in": 3_599})
    scene.fcm.expect(token, refused)
    result = await scene.push()
    assert (result.ok, result.dead, result.detail) == (False, False, "401 UNAUTHENTICATED")


def other_key() -> str:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    "changes",
    [{"private_key": other_key()}, {"private_key_id": "other"}, {"client_email": "other@example.com"}],
    ids=["key", "kid", "iss"],
)
async def test_wrong_service_account_gets_no_token(scene: Scene, changes: dict[str, str]) -> None:
    app = scene.app(service_account=scene.account(**changes))
    result = await scene.notifier.notify(app, scene.device(), build_notification())
    assert (result.ok, result.dead, result.detail) == (False, False, "token endpoint: HTTP 400")
    assert outcomes(scene.metrics, "fcm") == {"token_refused": 1}
    assert scene.sends() == 0


async def test_clock_that_is_off_gets_no_token(scene: Scene) -> None:
    scene.fcm._now_s = lambda: scene.clock.now_s() + 7_200
    assert (await scene.push()).detail == "token endpoint: HTTP 400"


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "https://elsewhere.example/token"},
        {"scope": "https://www.googleapis.com/auth/drive"},
        {"exp_after_s": 7_200},
        {"iat_after_s": -7_200},
        {"grant": "password"},
    ],
    ids=["aud", "scope", "too long", "expired", "grant"],
)
async def test_the_server_here_refuses_assertions_that_google_refuses(scene: Scene, changes: dict[str, Any]) -> None:
    now_s = int(scene.clock.now_s()) + changes.get("iat_after_s", 0)
    claims = {
        "iss": scene.fcm.email,
        "scope": changes.get("scope", SCOPE),
        "aud": changes.get("aud", scene.fcm.token_url),
        "iat": now_s,
        "exp": now_s + changes.get("exp_after_s", 3_600),
    }
    key = msgspec.json.decode(scene.fcm.settings()["service_account"])["private_key"]
    assertion = jwt.encode(claims, key, algorithm="RS256", headers={"kid": scene.fcm.key_id})
    client = build_client(build_context(scene.fcm.ca))
    form = {"grant_type": changes.get("grant", GRANT_TYPE), "assertion": assertion}
    answer = await client.post(scene.fcm.token_url, data=form)
    assert answer.status_code == 400
    await client.aclose()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(200, b"<html>"), "token_failed"),
        (build_json(200, {"access_token": "a b", "expires_in": 5}), "token_failed"),
        (build_json(200, {"access_token": "a", "expires_in": 0}), "token_failed"),
        (Reply(500), "token_failed"),
        (Reply(429, b"", (("retry-after", "7"),)), "token_throttled"),
        (Trouble.RESET, "connection"),
    ],
)
async def test_trouble_at_the_token_endpoint_is_for_now(scene: Scene, reply: Reply | Trouble, reason: str) -> None:
    scene.fcm.expect(reply)
    result = await scene.push()
    assert (result.ok, result.dead) == (False, False)
    assert result.detail.startswith("token endpoint: ")
    assert outcomes(scene.metrics, "fcm") == {reason: 1}
    scene.clock.moved_s += 61
    assert (await scene.push()).ok


async def test_token_endpoint_that_hangs_is_a_timeout(scene: Scene) -> None:
    quick = scene.build(QUICK)
    scene.fcm.expect(Trouble.HANG)
    result = await quick.notify(scene.app(), scene.device(), build_notification())
    assert (result.ok, result.dead) == (False, False)
    assert "timeout" in result.detail
    await until_ok(quick, scene.app(), scene.device())


# --- trouble on the way


@pytest.mark.parametrize(
    ("trouble", "detail"),
    [
        (Trouble.RESET_STREAM, "connection"),
        (Trouble.RESET, "connection"),
        (Trouble.NONSENSE, "connection"),
        (Trouble.GARBAGE, "HTTP 400"),
        (Reply(200, b"<html>welcome</html>"), "HTTP 200"),
        (Reply(302, b"", (("location", "https://elsewhere.example/"),)), "HTTP 302"),
        (Reply(502, b"bad gateway"), "HTTP 502"),
    ],
)
async def test_trouble_is_for_now_and_the_next_push_goes_through(
    scene: Scene, trouble: Reply | Trouble, detail: str
) -> None:
    await scene.push()
    scene.fcm.expect(trouble, trouble)  # a kept connection that breaks is worth a second try
    result = await scene.push()
    assert (result.ok, result.dead, result.detail) == (False, False, detail)
    scene.fcm._next.clear()
    assert (await scene.push()).ok


async def test_kept_connection_that_breaks_costs_nothing(scene: Scene) -> None:
    await scene.push()
    scene.fcm.expect(Trouble.RESET)
    assert (await scene.push()).ok
    assert scene.sends() == 3


async def test_hang_ends_in_a_timeout(scene: Scene) -> None:
    quick = scene.build(QUICK)
    await until_ok(quick, scene.app(), scene.device())
    scene.fcm.expect(Trouble.HANG)
    assert (await quick.notify(scene.app(), scene.device(), build_notification())).detail == "timeout"
    await until_ok(quick, scene.app(), scene.device())


@pytest.mark.parametrize("trouble", [Trouble.GOAWAY, Trouble.GOAWAY_LATE])
async def test_goaway_with_streams_in_flight_costs_nothing(scene: Scene, trouble: Trouble) -> None:
    await scene.push()
    scene.fcm.expect(trouble)
    results = await asyncio.gather(*(scene.push() for _ in range(5)))
    assert all(result.ok for result in results)


async def test_untrusted_upstream_is_for_now_and_says_so(scene: Scene) -> None:
    result = await scene.notifier.notify(scene.app(ca=""), scene.device(), build_notification())
    assert (result.ok, result.dead) == (False, False)
    assert result.detail == "token endpoint: TLS: the upstream's certificate is not trusted"


# --- settings and addresses


async def test_without_address_or_settings_nobody_is_asked(scene: Scene) -> None:
    assert (await scene.push(build_registration("apns", "x"))).detail == "no address"
    assert (await scene.push(build_registration("fcm", "x" * 5_000))).detail == "no address"
    result = await scene.notifier.notify(build_app("fcm", {}), scene.device(), build_notification())
    assert (result.dead, result.detail) == (True, "no settings")
    assert not scene.fcm.opened


def ec_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


async def test_bad_settings_are_refused_by_field_and_never_repeated(scene: Scene) -> None:
    good = scene.fcm.settings()
    scene.notifier.check(good)
    bad: list[tuple[dict[str, str], str]] = [
        ({"service_account": ""}, "service_account"),
        ({"service_account": "not json"}, "service_account"),
        ({"service_account": scene.account(project_id="../x")}, "service_account"),
        ({"service_account": scene.account(private_key="none")}, "service_account"),
        ({"service_account": scene.account(private_key=ec_key())}, "service_account"),
        ({"url": "http://fcm.example"}, "url"),
        ({"token_url": "ftp://x"}, "token_url"),
        ({"ca": "none"}, "ca"),
        ({"key": "x"}, "key"),
    ]
    for changes, field in bad:
        with pytest.raises(BadRequest) as refused:
            scene.notifier.check({**good, **changes})
        assert refused.value.field == f"notifiers.fcm.{field}"
        assert "PRIVATE KEY" not in refused.value.message
    assert scene.notifier.secrets == {"service_account"}
    assert scene.notifier.lane(scene.app(), scene.device()).startswith("shop - ")
