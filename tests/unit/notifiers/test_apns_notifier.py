"""The APNs notifier against an APNs that runs here, over real sockets."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import httpx
import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from upstream_rig import (
    IDS,
    PATIENT,
    QUICK,
    TOKEN,
    build_app,
    build_notification,
    build_registration,
    outcomes,
    until_ok,
)
from upstream_scene import UpstreamScene

from gateway.metrics import Metric, Metrics
from gateway.model.errors import BadRequest
from gateway.model.notification import Content
from gateway.model.registration import App, Registration, build_token
from gateway.notifiers.apns.client import ApnsNotifier, build_apns_id, build_collapse_id
from gateway.notifiers.apns.errors import BY_REASON, ROWS, parse_answer
from gateway.notifiers.apns.local import LocalApns
from gateway.notifiers.apns.provider_token import LEAD_S, SLOT_S
from gateway.notifiers.connections import build_client, build_context
from gateway.notifiers.local_h2 import Reply, Trouble, build_json
from gateway.notifiers.local_tls import Authority
from gateway.notifiers.upstream import GARBAGE, Fault, Limits, Verdict

DEVICE = "0a1b2c3d" * 8


class Scene(UpstreamScene[LocalApns, ApnsNotifier]):
    def __init__(self, authority: Authority) -> None:
        super().__init__(LocalApns, ApnsNotifier, authority)
        self.apns = self.upstream

    def device(self, token: str = DEVICE, reason: str = "") -> Registration:
        return build_registration("apns", self.apns.add_device(token, reason))


@pytest.fixture
async def scene(authority: Authority) -> AsyncIterator[Scene]:
    async with Scene(authority) as scene:
        begin_slot(scene)  # else a clock that is moved on meets the next one at some times of the day
        yield scene


async def test_notification_arrives_with_everything_the_app_needs_and_nothing_more(scene: Scene) -> None:
    notification = build_notification(urgency=3, collapse_key="score")
    result = await scene.notifier.notify(scene.app(), scene.device(), notification)
    assert (result.ok, result.detail) == (True, "200 ok")
    [taken] = scene.apns.taken
    push_id = IDS.build("shop", 9)
    assert taken.payload == {
        "aps": {"alert": {"title": "Hi", "body": "there"}, "sound": "default"},
        "heliograph": {"push": push_id, "token": build_token(TOKEN)},
    }
    headers = taken.headers
    assert uuid.UUID(headers["apns-id"]) == uuid.UUID(build_apns_id(push_id, build_token(TOKEN)))
    assert headers["apns-expiration"] == str(notification.expires_s)
    assert (headers["apns-priority"], headers["apns-push-type"]) == ("10", "alert")
    assert (headers["apns-topic"], headers["apns-collapse-id"]) == ("com.example.shop", "score")
    [request] = scene.apns.requests
    assert b"secret" not in request.body
    assert "secret" not in str(request.headers)


async def test_every_try_has_the_same_id_and_replaces_the_one_before(scene: Scene) -> None:
    for _ in range(2):
        assert (await scene.push()).ok
    first, second = scene.apns.taken
    assert first.apns_id == second.apns_id
    assert first.headers["apns-collapse-id"] == second.headers["apns-collapse-id"] == IDS.build("shop", 9)
    assert scene.apns.opened == 1  # one connection for both
    other = build_apns_id(IDS.build("shop", 9), "another token")
    assert other != first.apns_id


@pytest.mark.parametrize(("urgency", "priority"), [(0, "1"), (1, "5"), (2, "10"), (3, "10")])
async def test_urgency_becomes_priority(scene: Scene, urgency: int, priority: str) -> None:
    await scene.push(urgency=urgency)
    assert scene.apns.taken[0].headers["apns-priority"] == priority


async def test_push_without_text_wakes_the_app_in_the_background(scene: Scene) -> None:
    assert (await scene.push(content=Content(data=b"\x01"), urgency=3)).ok
    [taken] = scene.apns.taken
    assert (taken.headers["apns-push-type"], taken.headers["apns-priority"]) == ("background", "5")
    assert taken.payload["aps"] == {"content-available": 1}


async def test_ttl_0_is_not_stored(scene: Scene) -> None:
    assert (await scene.push(accepted_ms=1_000_500, expires_s=1_000)).ok
    assert scene.apns.taken[0].headers["apns-expiration"] == "0"


@pytest.mark.parametrize("text", ["x" * 10_000, "é" * 5_000, '"' * 9_000, "😀" * 4_000, "\x01" * 3_000])
async def test_text_that_is_too_long_is_cut_so_that_the_payload_fits(scene: Scene, text: str) -> None:
    assert (await scene.push(content=Content(title="Title", text=text))).ok
    body = scene.apns.requests[0].body
    assert 4_000 < len(body) <= 4_096
    alert = msgspec.json.decode(body)["aps"]["alert"]
    assert alert["title"] == "Title"
    assert alert["body"].endswith("…")
    assert (await scene.push(content=Content(title=text, text=text))).ok


@pytest.mark.parametrize("key", ["k" * 64, "k" * 65, "ключ" * 20, " spaced", "line\nend", ""])
def test_collapse_id_is_always_fit_for_a_header(key: str) -> None:
    made = build_collapse_id(key, "push-id")
    assert len(made.encode()) <= 64
    assert made.isascii()
    assert made.isprintable()
    assert made == (key if key == "k" * 64 else "push-id" if not key else build_collapse_id(key, "other"))


@pytest.mark.parametrize("row", [row for row in ROWS if row.reason in BY_REASON], ids=lambda row: row.reason)
async def test_every_reason_of_the_table(scene: Scene, row: Any) -> None:
    if row.reason == "ExpiredProviderToken":  # it is renewed and repeated: refuse that one too
        scene.apns.expect(build_json(403, {"reason": row.reason}))
    scene.apns.expect(build_json(row.status, {"reason": row.reason, "timestamp": 1_700_000_000_123}))
    result = await scene.push()
    assert result.ok is False
    assert result.dead is (row.verdict in (Verdict.DEAD, Verdict.GONE))
    assert result.gone is (row.verdict is Verdict.GONE)
    assert result.gone_at_ms == (1_700_000_000_123 if result.gone else 0)
    assert result.detail == f"{row.status} {row.reason}"
    assert result.retry_after_ms == (row.pause_s * 1000 if row.verdict is Verdict.RETRY else 0)
    assert outcomes(scene.metrics, "apns") == {row.reason: 1}
    # Only the address of this one, or this message, is refused: the lane goes on. (Else it rests, or counts a failure.)
    if row.fault in (Fault.ADDRESS, Fault.MESSAGE):
        assert (await scene.push()).ok


async def test_the_server_here_gives_each_reason_for_its_own_cause(scene: Scene) -> None:
    """The reasons above are told to; these are provoked."""
    settings = scene.apns.settings()
    client = build_client(build_context(scene.apns.ca))
    token = jwt.encode(
        {"iss": settings["team_id"], "iat": int(scene.clock.now_s())},
        settings["key"],
        algorithm="ES256",
        headers={"kid": settings["key_id"]},
    )
    scene.apns.add_device(DEVICE)
    good = {
        "authorization": f"bearer {token}",
        "apns-topic": "com.example.shop",
        "apns-push-type": "alert",
        "apns-priority": "10",
    }

    async def reason(
        path: str = f"/3/device/{DEVICE}", body: bytes = b"{}", method: str = "POST", **changes: str
    ) -> str:
        headers = {**good, **{key.replace("_", "-"): value for key, value in changes.items()}}
        headers = {key: value for key, value in headers.items() if value}
        answer = await client.request(method, scene.apns.url + path, headers=headers, content=body)
        return str(answer.json()["reason"]) if answer.status_code != 200 else ""

    assert await reason() == ""
    assert await reason(method="PUT") == "MethodNotAllowed"
    assert await reason("/4/device/x") == "BadPath"
    assert await reason("/3/device/") == "MissingDeviceToken"
    assert await reason("/3/device/00ff") == "BadDeviceToken"
    assert await reason(authorization="") == "MissingProviderToken"
    assert await reason(authorization="bearer nonsense") == "InvalidProviderToken"
    assert await reason(apns_topic="") == "MissingTopic"
    assert await reason(apns_topic="com.other") == "TopicDisallowed"
    assert await reason(apns_topic="no topic") == "BadTopic"
    scene.apns.topics.add("com.other")
    assert await reason(apns_topic="com.other") == "DeviceTokenNotForTopic"
    assert await reason(apns_id="7") == "BadMessageId"
    assert await reason(apns_expiration="soon") == "BadExpirationDate"
    assert await reason(apns_priority="7") == "BadPriority"
    assert await reason(apns_push_type="background") == "BadPriority"
    assert await reason(apns_push_type="loud") == "InvalidPushType"
    assert await reason(apns_collapse_id="c" * 65) == "BadCollapseId"
    assert await reason(body=b"") == "PayloadEmpty"
    assert await reason(body=b"{" + b" " * 4_096 + b"}") == "PayloadTooLarge"
    await client.aclose()


@pytest.mark.parametrize("reason", ["Unregistered", "ExpiredToken"])
async def test_reset_of_the_device_token_says_since_when(scene: Scene, reason: str) -> None:
    scene.apns.gone_at[DEVICE] = 1_690_000_000_000
    result = await scene.push(scene.device(reason=reason))
    assert (result.dead, result.gone, result.gone_at_ms) == (True, True, 1_690_000_000_000)


# --- provider tokens


async def test_provider_token_is_kept_and_renewed_inside_the_hour(scene: Scene) -> None:
    scene.apns.is_strict = True
    begin_slot(scene)
    for minutes in (0, 15, 15, 9):
        scene.clock.moved_s += minutes * 60
        assert (await scene.push()).ok
    assert len(scene.apns.provider_tokens) == 1
    for _ in range(20):  # hours, and Apple never finds one too old, nor one too many
        scene.clock.moved_s += 7 * 60
        assert (await scene.push()).ok
    assert len(scene.apns.provider_tokens) == 5
    assert scene.metrics.value(Metric.NOTIFIER_TOKENS, "apns") == 5


async def test_gateway_that_was_started_anew_and_another_node_come_with_the_same_token(scene: Scene) -> None:
    scene.apns.is_strict = True
    begin_slot(scene)
    assert (await scene.push()).ok
    for moved_s in (10, 600, 1_700):
        scene.clock.moved_s += moved_s
        other = scene.build(PATIENT)
        assert (await other.notify(scene.app(), scene.device(), build_notification())).ok
    assert len(scene.apns.provider_tokens) == 1


async def test_clocks_that_are_not_quite_the_same_make_no_token_of_the_future(scene: Scene) -> None:
    begin_slot(scene)
    ahead = scene.build(PATIENT, clock=lambda: scene.clock.now_ms() + 2_000)
    assert (await ahead.notify(scene.app(), scene.device(), build_notification())).ok
    [issued_s] = scene.apns.provider_tokens.values()
    assert scene.clock.now_s() - issued_s >= LEAD_S - 2


def begin_slot(scene: Scene) -> None:
    """Move the clock to where a new token has just come into use."""
    scene.clock.moved_s += SLOT_S - (scene.clock.now_s() - LEAD_S) % SLOT_S


async def test_apps_that_share_a_key_share_its_token(scene: Scene) -> None:
    device = scene.device()
    for name in ("shop", "news"):
        app = build_app("apns", scene.apns.settings(), app=name)
        assert (await scene.notifier.notify(app, device, build_notification())).ok
    assert len(scene.apns.provider_tokens) == 1
    assert scene.apns.opened == 2  # but no connection


async def test_token_called_expired_is_renewed_once_and_the_push_repeated(scene: Scene) -> None:
    assert (await scene.push()).ok
    scene.apns.revoked.update(scene.apns.provider_tokens)
    results = await asyncio.gather(*(scene.push() for _ in range(8)))
    assert all(result.ok for result in results)
    assert len(scene.apns.provider_tokens) == 2
    # Again at once would be one renewal too many: the delivery waits instead.
    scene.apns.revoked.update(scene.apns.provider_tokens)
    before = len(scene.apns.requests)
    result = await scene.push()
    assert (result.ok, result.dead, result.detail) == (False, False, "403 ExpiredProviderToken")
    assert len(scene.apns.requests) == before + 1
    scene.clock.moved_s += 21 * 60
    assert (await scene.push()).ok


async def test_too_many_token_updates_keep_the_token_and_let_the_lane_rest(scene: Scene) -> None:
    scene.apns.is_strict = True
    scene.apns.provider_tokens["of another gateway"] = int(scene.clock.now_s()) - 60
    result = await scene.push()
    assert (result.dead, result.detail, result.retry_after_ms) == (False, "429 TooManyProviderTokenUpdates", 60_000)
    resting = await scene.push()
    assert (resting.asked, resting.detail) == (False, "upstream rests")
    assert scene.metrics.value(Metric.NOTIFIER_TOKENS, "apns") == 1
    scene.apns.is_strict = False
    scene.clock.moved_s += 61
    assert (await scene.push()).ok
    assert scene.metrics.value(Metric.NOTIFIER_TOKENS, "apns") == 1


def other_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    "changes", [{"key": other_key()}, {"key_id": "KEY7777777"}, {"team_id": "TEAM777777"}], ids=["key", "kid", "iss"]
)
async def test_wrong_key_id_or_team_is_refused_and_waits_for_better_settings(
    scene: Scene, changes: dict[str, str]
) -> None:
    result = await scene.notifier.notify(scene.app(**changes), scene.device(), build_notification())
    assert (result.ok, result.dead, result.detail) == (False, False, "403 InvalidProviderToken")
    assert not scene.apns.taken
    assert (await scene.push()).ok


async def test_provider_token_of_yesterday_is_refused(scene: Scene) -> None:
    scene.clock.moved_s -= 86_400
    late = scene.build(PATIENT, clock=lambda: scene.clock.now_ms() - 7_200_000)
    result = await late.notify(scene.app(), scene.device(), build_notification())
    assert result.detail == "403 ExpiredProviderToken"
    assert len(scene.apns.requests) == 2  # renewed once


async def test_client_certificate_instead_of_a_token(scene: Scene) -> None:
    settings = scene.apns.certificate_settings()
    scene.notifier.check(settings)
    result = await scene.notifier.notify(build_app("apns", settings), scene.device(), build_notification())
    assert result.ok
    [request] = scene.apns.requests
    assert request.certificate
    assert not request.header("authorization")


async def test_without_token_and_certificate_the_server_refuses(scene: Scene) -> None:
    stranger = Authority("someone else").issue(name="com.example.shop")
    settings = {
        **scene.apns.certificate_settings(),
        "certificate": stranger.certificate,
        "certificate_key": stranger.key,
    }
    result = await scene.notifier.notify(build_app("apns", settings), scene.device(), build_notification())
    assert (result.ok, result.dead) == (False, False)
    assert result.detail in ("TLS: handshake failed", "connection")


# --- trouble on the way


async def test_untrusted_upstream_is_for_now_and_says_so(scene: Scene) -> None:
    for ca in ("", Authority("someone else").pem):
        result = await scene.notifier.notify(scene.app(ca=ca), scene.device(), build_notification())
        assert (result.ok, result.dead) == (False, False)
        assert result.detail == "TLS: the upstream's certificate is not trusted"
    assert outcomes(scene.metrics, "apns") == {"tls": 2}
    assert not scene.apns.requests


async def test_hang_ends_in_a_timeout_and_the_next_call_gets_a_new_connection(scene: Scene) -> None:
    quick = scene.build(QUICK)
    device = scene.device()
    scene.apns.expect(Trouble.HANG)
    result = await quick.notify(scene.app(), device, build_notification())
    assert (result.ok, result.dead, result.detail) == (False, False, "timeout")
    opened = scene.apns.opened
    await until_ok(quick, scene.app(), device)
    assert scene.apns.opened > opened


@pytest.mark.parametrize(
    ("trouble", "detail"),
    [
        (Trouble.RESET_STREAM, "connection"),
        (Trouble.RESET, "connection"),
        (Trouble.NONSENSE, "connection"),
        (Trouble.GARBAGE, "HTTP 400, no reason"),
    ],
)
async def test_trouble_is_for_now_and_the_next_push_goes_through(scene: Scene, trouble: Trouble, detail: str) -> None:
    scene.apns.expect(trouble)
    result = await scene.push()
    assert (result.ok, result.dead, result.detail) == (False, False, detail)
    assert (await scene.push()).ok


@pytest.mark.parametrize("trouble", [Trouble.GOAWAY, Trouble.GOAWAY_LATE])
async def test_goaway_costs_nothing_with_streams_in_flight_either(scene: Scene, trouble: Trouble) -> None:
    assert (await scene.push()).ok
    scene.apns.expect(Reply(200), Reply(200), trouble)
    device = scene.device()
    results = await asyncio.gather(
        *(scene.notifier.notify(scene.app(), device, build_notification(seq=n)) for n in range(6))
    )
    assert [result.detail for result in results] == ["200 ok"] * 6
    assert outcomes(scene.metrics, "apns") == {"ok": 7}


async def test_server_that_goes_away_each_time_is_a_failure(scene: Scene) -> None:
    scene.apns.expect(Trouble.GOAWAY, Trouble.GOAWAY)
    assert (await scene.push()).detail == "connection"


async def test_server_that_is_not_there(scene: Scene) -> None:
    app = scene.app()
    device = scene.device()
    await scene.apns.close()
    result = await scene.notifier.notify(app, device, build_notification())
    assert (result.ok, result.dead, result.detail) == (False, False, "connection")


async def test_retry_after_holds_for_the_whole_lane_and_only_for_it(scene: Scene) -> None:
    scene.apns.expect(build_json(503, {"reason": "ServiceUnavailable"}, retry_after="120"))
    assert (await scene.push()).retry_after_ms == 120_000
    refused = await scene.push()
    assert (refused.asked, refused.ok, refused.dead) == (False, False, False)
    assert 110_000 < refused.retry_after_ms <= 120_000
    other = build_app("apns", scene.apns.settings(), app="news")
    assert (await scene.notifier.notify(other, scene.device(), build_notification())).ok
    scene.clock.moved_s += 121
    assert (await scene.push()).ok


async def test_retry_after_may_be_a_date(scene: Scene) -> None:
    at = format_datetime(datetime.fromtimestamp(scene.clock.now_s() + 300, UTC), usegmt=True)
    scene.apns.expect(build_json(503, {"reason": "Shutdown"}, retry_after=at))
    result = await scene.push()
    assert 290_000 < result.retry_after_ms <= 300_000
    assert not (await scene.push()).asked


async def test_broken_upstream_is_left_alone_after_failures_in_a_row(scene: Scene) -> None:
    notifier = scene.build(Limits(timeout_s=20, failures=3, open_s=5))
    device = scene.device()
    scene.apns.expect(*[build_json(500, {"reason": "InternalServerError"})] * 3)
    results = [await notifier.notify(scene.app(), device, build_notification()) for _ in range(4)]
    assert [result.asked for result in results] == [True, True, True, False]
    assert results[2].retry_after_ms == 5_000
    assert len(scene.apns.requests) == 3
    scene.clock.moved_s += 6
    assert (await notifier.notify(scene.app(), device, build_notification())).ok


# --- settings and addresses


@pytest.mark.parametrize(
    "address", ["", "xyz", "../../evil" * 3, "ab" * 600, "0a1b2c3d" * 8 + "/x", "0a1b2c3d" * 8 + "\n"]
)
async def test_address_that_is_no_device_token_is_dead_and_asks_nobody(scene: Scene, address: str) -> None:
    result = await scene.push(build_registration("apns", address))
    assert (result.dead, result.gone, result.detail) == (True, False, "no address")
    assert not scene.apns.opened


async def test_app_without_settings_is_dead(scene: Scene) -> None:
    result = await scene.notifier.notify(App(name="shop"), scene.device(), build_notification())
    assert (result.dead, result.detail) == (True, "no settings")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"topic": ""}, "topic"),
        ({"topic": "no topic"}, "topic"),
        ({"key": ""}, "key"),
        ({"key": "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----"}, "key"),
        ({"key_id": "short"}, "key_id"),
        ({"team_id": ""}, "team_id"),
        ({"url": "http://api.push.apple.com"}, "url"),
        ({"url": "https://user:pass@host"}, "url"),
        ({"ca": "no pem"}, "ca"),
        ({"certificate": "x"}, "key"),
        ({"certificate": "x", "key": ""}, "certificate"),
        ({"secret": "x"}, "secret"),
    ],
)
def test_bad_settings_are_refused_by_field_and_never_repeated(
    authority: Authority, changes: dict[str, str], field: str
) -> None:
    apns = LocalApns(authority=authority)
    notifier = ApnsNotifier(PATIENT, push_ids=IDS, metrics=Metrics(process=False))
    good = {**apns.settings(), "url": "https://localhost:1"}
    notifier.check(good)
    with pytest.raises(BadRequest) as refused:
        notifier.check({**good, **changes})
    assert refused.value.field == f"notifiers.apns.{field}"
    assert "BEGIN" not in refused.value.message or "CERTIFICATE" in refused.value.message
    assert good["key"] not in refused.value.message


def test_key_whose_line_ends_are_two_characters_is_taken(authority: Authority) -> None:
    apns = LocalApns(authority=authority)
    settings = {**apns.settings(), "url": "https://localhost:1"}
    ApnsNotifier(PATIENT, push_ids=IDS, metrics=Metrics(process=False)).check(
        {**settings, "key": settings["key"].replace("\n", "\\n")}
    )


def test_lane_is_the_app(scene: Scene) -> None:
    assert scene.notifier.lane(scene.app(), scene.device()).startswith("shop - ")
    assert scene.notifier.secrets == {"key", "certificate_key"}


def test_a_3xx_is_not_apns() -> None:
    assert parse_answer(302, httpx.Headers({"location": "https://x"}), b"", 0).row is GARBAGE
