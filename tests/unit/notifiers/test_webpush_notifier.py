"""The Web Push notifier against a push service and its browsers that run here, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from upstream_rig import (
    IDS,
    PATIENT,
    QUICK,
    TOKEN,
    build_notification,
    build_registration,
    outcomes,
    until_ok,
)
from upstream_scene import UpstreamScene

from gateway.metrics import Metric, Metrics
from gateway.model.errors import BadRequest
from gateway.model.notification import Content
from gateway.model.registration import Registration, build_token
from gateway.notifiers.local_h2 import Reply, Trouble
from gateway.notifiers.local_tls import Authority
from gateway.notifiers.upstream import Limits
from gateway.notifiers.webpush.client import WebPushNotifier, build_topic
from gateway.notifiers.webpush.encryption import MAX_BODY_BYTES
from gateway.notifiers.webpush.local import LocalPushService
from gateway.notifiers.webpush.settings import encode


class Scene(UpstreamScene[LocalPushService, WebPushNotifier]):
    def __init__(self, authority: Authority) -> None:
        super().__init__(LocalPushService, WebPushNotifier, authority)
        self.service = self.upstream

    def build(self, limits: Limits, *, private: bool = True, **options: Any) -> WebPushNotifier:
        return super().build(limits, allows_private=private, **options)

    def device(self, status: int = 201) -> Registration:
        return build_registration("webpush", self.service.subscribe(status))


@pytest.fixture
async def scene(authority: Authority) -> AsyncIterator[Scene]:
    async with Scene(authority) as scene:
        yield scene


def change(address: str, **changes: Any) -> str:
    return msgspec.json.encode({**msgspec.json.decode(address), **changes}).decode()


# --- what arrives


async def test_message_arrives_decrypted_with_everything_the_page_needs_and_nothing_more(scene: Scene) -> None:
    result = await scene.push(urgency=3, collapse_key="score")
    assert (result.ok, result.detail) == (True, "201 ok")
    [taken] = scene.service.taken
    assert taken.message == {
        "push": IDS.build("shop", 9),
        "token": build_token(TOKEN),
        "title": "Hi",
        "text": "there",
    }
    assert (taken.headers["urgency"], taken.headers["topic"]) == ("high", build_topic("score"))
    assert 3_500 <= int(taken.headers["ttl"]) <= 3_600
    [request] = scene.service.requests
    assert b"there" not in request.body
    assert "secret-" not in str(request.headers)


async def test_without_collapse_key_there_is_no_topic_and_ttl_0_stays_0(scene: Scene) -> None:
    assert (await scene.push(accepted_ms=1_000_500, expires_s=1_000, urgency=0)).ok
    headers = scene.service.taken[0].headers
    assert "topic" not in headers
    assert (headers["ttl"], headers["urgency"]) == ("0", "very-low")


@pytest.mark.parametrize("text", ["x" * 10_000, "é" * 5_000, '"' * 9_000, "😀" * 4_000])
async def test_text_that_is_too_long_is_cut_so_that_one_record_holds_it(scene: Scene, text: str) -> None:
    assert (await scene.push(content=Content(title="Title", text=text))).ok
    assert len(scene.service.requests[0].body) <= MAX_BODY_BYTES
    assert scene.service.taken[0].message["text"].endswith("…")


async def test_service_that_takes_less_gets_the_title_alone(scene: Scene) -> None:
    scene.service.most_bytes = 1_000
    assert (await scene.push(content=Content(title="Title", text="x" * 2_000))).ok
    assert scene.service.taken[0].message["text"] == ""
    assert len(scene.service.requests) == 2
    scene.service.most_bytes = 10
    result = await scene.push(content=Content(title="Title", text="x" * 2_000))
    assert (result.dead, result.gone, result.detail) == (True, False, "413 too_large")


# --- answers


@pytest.mark.parametrize(
    ("status", "ok", "dead", "gone"),
    [
        (200, True, False, False),
        (201, True, False, False),
        (202, True, False, False),
        (204, True, False, False),
        (307, False, True, False),
        (400, False, True, False),
        (401, False, True, False),
        (403, False, True, False),
        (404, False, True, True),
        (410, False, True, True),
        (413, False, True, False),
        (418, False, True, False),
        (429, False, False, False),
        (500, False, False, False),
        (503, False, False, False),
    ],
)
async def test_what_a_status_means(scene: Scene, status: int, ok: bool, dead: bool, gone: bool) -> None:
    device = scene.device(status)
    result = await scene.push(device)
    assert (result.ok, result.dead, result.gone) == (ok, dead, gone)
    if dead:  # one subscription speaks only for itself
        assert (await scene.push()).ok


async def test_unknown_subscription_is_gone(scene: Scene) -> None:
    device = scene.device()
    scene.service.browsers.clear()
    assert (await scene.push(device)).gone


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_holds_for_the_origin(scene: Scene, status: int) -> None:
    scene.service.expect(Reply(status, b"", (("retry-after", "33"),)))
    assert (await scene.push()).retry_after_ms == 33_000
    refused = await scene.push()
    assert (refused.asked, len(scene.service.requests)) == (False, 1)
    scene.clock.moved_s += 34
    assert (await scene.push()).ok


# --- VAPID


async def test_vapid_token_is_kept_for_its_origin_and_renewed(scene: Scene) -> None:
    for _ in range(3):
        assert (await scene.push()).ok
    assert len(scene.service.vapid_tokens) == 1
    scene.clock.moved_s += 7 * 3_600
    assert (await scene.push()).ok
    assert len(scene.service.vapid_tokens) == 2
    assert scene.metrics.value(Metric.NOTIFIER_TOKENS, "webpush") == 2
    claims = [jwt.decode(token, options={"verify_signature": False}) for token in scene.service.vapid_tokens]
    assert {claim["aud"] for claim in claims} == {scene.service.url}
    assert {claim["sub"] for claim in claims} == {"mailto:push@shop.example"}


async def test_key_as_base64url_is_the_same_key(scene: Scene) -> None:
    raw = scene.service.vapid_key.private_numbers().private_value.to_bytes(32)
    app = scene.app(vapid_key=encode(raw))
    assert (await scene.notifier.notify(app, scene.device(), build_notification())).ok


async def test_subscription_made_under_another_key_is_refused(scene: Scene) -> None:
    app = scene.app(vapid_key=encode((7).to_bytes(32)))
    result = await scene.notifier.notify(app, scene.device(), build_notification())
    assert (result.dead, result.gone, result.detail) == (True, False, "403 unauthorized")


@pytest.mark.parametrize(
    "claims", [{"aud": "https://elsewhere.example"}, {"exp_s": -1}, {"exp_s": 90_000}, {"sub": None}]
)
async def test_the_service_here_refuses_vapid_that_is_not_right(scene: Scene, claims: dict[str, Any]) -> None:
    address = msgspec.json.decode(scene.service.subscribe())
    said = {
        "aud": claims.get("aud", scene.service.url),
        "exp": int(scene.clock.now_s()) + claims.get("exp_s", 3_600),
        "sub": "mailto:a@b",
    }
    if "sub" in claims:
        del said["sub"]
    settings = scene.service.settings()
    token = jwt.encode(said, settings["vapid_key"], algorithm="ES256")
    numbers = scene.service.vapid_key.public_key().public_numbers()
    point = encode(b"\4" + numbers.x.to_bytes(32) + numbers.y.to_bytes(32))
    from gateway.notifiers.connections import build_client, build_context

    client = build_client(build_context(scene.service.ca))
    headers = {"authorization": f"vapid t={token}, k={point}", "ttl": "5", "content-encoding": "aes128gcm"}
    assert (await client.post(address["endpoint"], headers=headers)).status_code == 401
    assert (await client.post(address["endpoint"], headers={"ttl": "5"})).status_code == 401
    await client.aclose()


# --- where a subscription may lead


async def test_private_addresses_are_refused_unless_gateway_or_app_allow_them(scene: Scene) -> None:
    strict = scene.build(PATIENT, private=False)
    device = scene.device()
    result = await strict.notify(scene.app(), device, build_notification())
    assert (result.dead, result.gone, result.detail) == (True, False, "private address")
    assert not scene.service.opened
    assert (await strict.notify(scene.app(private="yes"), device, build_notification())).ok


async def test_name_that_leads_here_is_refused_by_certificate_where_it_is_another(scene: Scene) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    notifier = scene.build(PATIENT, resolve=resolve)
    address = change(scene.service.subscribe(), endpoint=f"https://push.example:{scene.service.port}/push/x")
    result = await notifier.notify(scene.app(), build_registration("webpush", address), build_notification())
    assert result.detail == "TLS: the upstream's certificate is not trusted"


async def test_name_that_does_not_exist_is_for_now(scene: Scene) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise OSError("no such host push.example")

    notifier = scene.build(PATIENT, resolve=resolve)
    result = await notifier.notify(scene.app(), scene.device(), build_notification())
    assert (result.ok, result.dead, result.detail) == (False, False, "no such host")


BAD_ENDPOINTS = [
    "http://push.example/x",
    "https://",
    "https:///x",
    "https://user:pass@push.example/x",
    "https://push.example:0/x",
    "https://push.example:99999/x",
    "https://push.example/x y",
    "https://push.example/x\r\nevil: 1",
    "https://pusch.exämple/x",
    "https://push.example\\@evil/x",
    "file:///etc/passwd",
    "https://[::1/x",
]


@pytest.mark.parametrize("endpoint", BAD_ENDPOINTS)
async def test_endpoint_that_is_no_https_url_is_dead_and_asks_nobody(scene: Scene, endpoint: str) -> None:
    device = build_registration("webpush", change(scene.service.subscribe(), endpoint=endpoint))
    result = await scene.push(device)
    assert (result.dead, result.detail) == (True, "no address")
    assert scene.notifier.lane(scene.app(), device).startswith("shop - ")


@pytest.mark.parametrize(
    "address",
    ["", "x", "[]", "{}", '{"endpoint":"https://a.example/"}', '{"endpoint":7,"keys":{}}', "{" * 5_000],
)
async def test_address_that_is_no_subscription_is_dead(scene: Scene, address: str) -> None:
    assert (await scene.push(build_registration("webpush", address))).detail == "no address"


@pytest.mark.parametrize("keys", [{"p256dh": "AA", "auth": "AA"}, {"p256dh": encode(b"\4" + b"\1" * 64), "auth": "x"}])
async def test_keys_of_the_wrong_size_are_dead(scene: Scene, keys: dict[str, str]) -> None:
    device = build_registration("webpush", change(scene.service.subscribe(), keys=keys))
    assert (await scene.push(device)).detail == "no address"


async def test_key_that_is_no_point_of_the_curve_is_dead(scene: Scene) -> None:
    keys = {"p256dh": encode(b"\4" + b"\1" * 64), "auth": encode(b"a" * 16)}
    device = build_registration("webpush", change(scene.service.subscribe(), keys=keys))
    result = await scene.push(device)
    assert (result.dead, result.detail) == (True, "p256dh is no key")


async def test_lane_is_the_app_and_the_origin_and_never_the_endpoint(scene: Scene) -> None:
    device = scene.device()
    assert scene.notifier.lane(scene.app(), device).startswith(f"shop {scene.service.url} ")
    assert scene.notifier.secrets == {"vapid_key"}


# --- trouble on the way


@pytest.mark.parametrize("trouble", [Trouble.RESET_STREAM, Trouble.RESET, Trouble.NONSENSE])
async def test_trouble_is_for_now_and_the_next_push_goes_through(scene: Scene, trouble: Trouble) -> None:
    scene.service.expect(trouble)
    result = await scene.push()
    assert (result.ok, result.dead, result.detail) == (False, False, "connection")
    assert (await scene.push()).ok


async def test_body_of_an_answer_is_not_believed(scene: Scene) -> None:
    scene.service.expect(Trouble.GARBAGE)
    assert (await scene.push()).detail == "400 bad_request"


async def test_hang_ends_in_a_timeout(scene: Scene) -> None:
    quick = scene.build(QUICK)
    scene.service.expect(Trouble.HANG)
    assert (await quick.notify(scene.app(), scene.device(), build_notification())).detail == "timeout"
    await until_ok(quick, scene.app(), scene.device())
    counted = outcomes(scene.metrics, "webpush")
    assert counted["timeout"] >= counted["ok"] == 1


async def test_goaway_with_streams_in_flight_costs_nothing(scene: Scene) -> None:
    await scene.push()
    scene.service.expect(Trouble.GOAWAY)
    results = await asyncio.gather(*(scene.push() for _ in range(5)))
    assert all(result.ok for result in results)


async def test_untrusted_service_is_for_now_and_says_so(scene: Scene) -> None:
    result = await scene.notifier.notify(scene.app(ca=""), scene.device(), build_notification())
    assert (result.ok, result.dead) == (False, False)
    assert result.detail == "TLS: the upstream's certificate is not trusted"


# --- settings


def rsa_key() -> str:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"vapid_key": ""}, "vapid_key"),
        ({"vapid_key": "tooshort"}, "vapid_key"),
        ({"vapid_key": encode(b"\0" * 32)}, "vapid_key"),
        ({"vapid_key": encode(b"\xff" * 32)}, "vapid_key"),
        ({"vapid_key": "-----BEGIN PRIVATE KEY-----\nx"}, "vapid_key"),
        ({"vapid_key": rsa_key()}, "vapid_key"),
        ({"subject": "bob"}, "subject"),
        ({"subject": "http://shop.example"}, "subject"),
        ({"subject": ""}, "subject"),
        ({"ca": "none"}, "ca"),
        ({"private": "maybe"}, "private"),
        ({"url": "https://x"}, "url"),
    ],
)
def test_bad_settings_are_refused_by_field(changes: dict[str, str], field: str) -> None:
    notifier = WebPushNotifier(PATIENT, allows_private=False, push_ids=IDS, metrics=Metrics(process=False))
    good = {"vapid_key": encode((7).to_bytes(32)), "subject": "mailto:a@b.example"}
    notifier.check(good)
    with pytest.raises(BadRequest) as refused:
        notifier.check({**good, **changes})
    assert refused.value.field == f"notifiers.webpush.{field}"
    assert "PRIVATE" not in refused.value.message
