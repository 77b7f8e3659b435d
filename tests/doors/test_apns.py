"""The APNs door over in-memory floors: Apple's fields and Apple's table of errors, reason by reason."""

from __future__ import annotations

import json
import re
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from api_doubles import Door
from hypothesis import given
from hypothesis import strategies as st
from web_push_sender import Sender, stranger_tokens

from gateway.api.apns.headers import collect, parse_asked, parse_device_token, parse_id
from gateway.api.apns.payload import parse_payload
from gateway.api.apns.reasons import REASONS, Refused
from gateway.model.errors import AcceptTimeout, QueueFull, RequestTimeout, StoreUnavailable, TooManyRequests
from gateway.model.registration import ApnsKey, Loss, build_token
from gateway.notifiers.local_tls import Authority

TOPIC = "com.example.chat"
PAYLOAD = {"aps": {"alert": {"title": "Ann", "body": "There?"}, "badge": 1}, "chat": 17}


@pytest.fixture
def sender() -> Sender:
    return Sender()


@pytest.fixture
def door(sender: Sender) -> Door:
    door = Door()
    change(door, "chat", apns_topic=TOPIC, apns_keys=[ApnsKey("KEY1", "TEAM1", sender.public_pem())])
    return door


def change(door: Door, app: str, **fields: Any) -> None:
    door.backend.app_changes += 1
    door.floors.apps[app] = msgspec.structs.replace(door.floors.apps[app], **fields)


def bearer(sender: Sender, kid: str | None = "KEY1", **claims: Any) -> str:
    claims = {"aud": None, "exp": None, "sub": None, "iss": "TEAM1", "iat": int(time.time())} | claims
    return f"bearer {sender.token(headers={'kid': kid} if kid else None, **claims)}"


def head(sender: Sender, **more: str) -> dict[str, str]:
    fields = {"authorization": bearer(sender), "apns-topic": TOPIC}
    return fields | {name.replace("_", "-"): value for name, value in more.items()}


async def post(
    door: Door, headers: Any, body: Any = PAYLOAD, *, token: str | None = None, path: str | None = None
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with door.client() as web:
        return await web.post(
            path or f"/3/device/{door.token if token is None else token}", content=content, headers=headers
        )


def refused(answer: httpx.Response, reason: str) -> None:
    body = answer.json()
    assert (body["reason"], answer.status_code) == (reason, REASONS[reason])
    assert set(body) <= {"reason", "timestamp"}
    assert ("timestamp" in body) == (answer.status_code == 410)


# --- it works -----------------------------------------------------------------------------------------------------


async def test_a_push_with_everything(door, sender):
    apns_id = str(uuid.uuid4())
    headers = head(
        sender,
        apns_id=apns_id,
        apns_expiration=str(int(time.time()) + 600),
        apns_priority="5",
        apns_collapse_id="game-1",
        apns_push_type="alert",
    )
    answer = await post(door, headers)
    assert (answer.status_code, answer.content, answer.headers["apns-id"]) == (200, b"", apns_id)
    app, request = door.floors.pushed[0]
    assert app == "chat"
    assert (request.title, request.text, request.data) == ("Ann", "There?", PAYLOAD)
    assert (request.urgency, request.collapse_key) == ("normal", "game-1")
    assert 595 <= request.ttl <= 600
    assert request.target.token == door.token


async def test_defaults_and_a_made_id(door, sender):
    answer = await post(door, head(sender), {"aps": {"alert": "Hello"}})
    assert answer.status_code == 200
    assert uuid.UUID(answer.headers["apns-id"])
    request = door.floors.pushed[0][1]
    assert (request.title, request.text, request.urgency, request.ttl) == ("", "Hello", "high", None)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"apns-priority": "10"}, {"urgency": "high"}),
        ({"apns-priority": "1"}, {"urgency": "low"}),
        ({"apns-expiration": "0"}, {"ttl": 0}),
        ({"apns-expiration": "1000"}, {"ttl": 0}),
        ({"apns-expiration": "99999999999"}, {"ttl": 2_419_200}),
        ({"apns-push-type": "background"}, {}),
        ({"apns-push-type": "voip", "apns-topic": TOPIC + ".voip"}, {}),
        ({"apns-push-type": "liveactivity", "apns-topic": TOPIC + ".push-type.liveactivity"}, {}),
    ],
    ids=str,
)
async def test_what_fields_mean(door, sender, fields, wanted):
    answer = await post(door, head(sender) | fields)
    assert answer.status_code == 200
    request = door.floors.pushed[0][1]
    assert {name: getattr(request, name) for name in wanted} == wanted


async def test_a_token_in_hex_is_the_same(door, sender):
    raw = door.floors.registrations[1].token
    for text in (raw.hex(), raw.hex().upper()):
        assert (await post(door, head(sender), token=text)).status_code == 200
    assert {request.target.token for _, request in door.floors.pushed} == {door.token}


async def test_one_key_may_serve_several_apps_and_the_topic_chooses(door, sender):
    key = ApnsKey("KEY1", "TEAM1", sender.public_pem())
    change(door, "other", apns_topic="com.example.other", apns_keys=[key])
    answer = await post(door, head(sender, apns_topic="com.example.other"), token=door.foreign_token)
    assert answer.status_code == 200
    assert door.floors.pushed[0][0] == "other"
    refused(await post(door, head(sender), token=door.foreign_token), "DeviceTokenNotForTopic")


# --- Apple's table ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"apns-collapse-id": "x" * 65}, "BadCollapseId"),
        ({"apns-expiration": "tomorrow"}, "BadExpirationDate"),
        ({"apns-expiration": "-1"}, "BadExpirationDate"),
        ({"apns-expiration": ""}, "BadExpirationDate"),
        ({"apns-id": "not-a-uuid"}, "BadMessageId"),
        ({"apns-priority": "7"}, "BadPriority"),
        ({"apns-priority": ""}, "BadPriority"),
        ({"apns-priority": "10", "apns-push-type": "background"}, "BadPriority"),
        ({"apns-topic": "no spaces"}, "BadTopic"),
        ({"apns-topic": "x" * 256}, "BadTopic"),
        ({"apns-push-type": "loud"}, "InvalidPushType"),
        ({"apns-topic": "com.example.elsewhere"}, "TopicDisallowed"),
        ({"apns-topic": TOPIC + ".voip"}, "TopicDisallowed"),
    ],
    ids=str,
)
async def test_fields_that_are_wrong(door, sender, fields, reason):
    refused(await post(door, head(sender) | fields), reason)
    assert not door.floors.pushed


async def test_missing_topic_and_duplicate_fields(door, sender):
    refused(await post(door, {"authorization": bearer(sender)}), "MissingTopic")
    for twice in ("apns-topic", "apns-id", "authorization"):
        fields = [*head(sender, apns_id=str(uuid.uuid4())).items()]
        fields.append((twice, dict(fields)[twice]))
        refused(await post(door, fields), "DuplicateHeaders")


async def test_device_tokens(door, sender):
    for bad in ("x", "z" * 64, "q" * 22, "0" * 32, build_token(b"u" * 16), "%00"):
        refused(await post(door, head(sender), token=bad), "BadDeviceToken")
    refused(await post(door, head(sender), token=door.foreign_token), "BadDeviceToken")
    refused(await post(door, head(sender), path="/3/device/"), "MissingDeviceToken")


@pytest.mark.parametrize(("loss", "reason"), [(Loss.REVOKED, "ExpiredToken"), (Loss.FORGOTTEN, "Unregistered")])
async def test_tokens_that_are_gone_say_since_when(door, sender, loss, reason):
    door.floors.loss = loss
    door.floors.registrations[1] = msgspec.structs.replace(door.floors.registrations[1], revoked_at=1_700_000_000)
    apns_id = str(uuid.uuid4())
    answer = await post(door, head(sender, apns_id=apns_id))
    refused(answer, reason)
    assert answer.json()["timestamp"] == 1_700_000_000_000
    assert answer.headers["apns-id"] == apns_id
    # of another app it is as good as unknown
    other = Sender()
    change(door, "other", apns_topic="t", apns_keys=[ApnsKey("K", "T", other.public_pem())])
    headers = {"authorization": bearer(other, "K", iss="T"), "apns-topic": "t"}
    refused(await post(door, headers), "BadDeviceToken")


async def test_payloads(door, sender):
    for empty in (b"", b"{}", b"[]", b"nonsense", b'"x"', b"[" * 4_000):
        refused(await post(door, head(sender), empty), "PayloadEmpty")
    large = {"aps": {}, "x": "y" * 4_096}
    refused(await post(door, head(sender), large), "PayloadTooLarge")
    voip = head(sender) | {"apns-push-type": "voip", "apns-topic": TOPIC + ".voip"}
    assert (await post(door, voip, large)).status_code == 200
    refused(await post(door, voip, {"x": "y" * 5_120}), "PayloadTooLarge")

    async def stream():
        for _ in range(4):
            yield b"x" * 2_000

    async with door.client() as web:
        answer = await web.post(f"/3/device/{door.token}", content=stream(), headers=head(sender))
        refused(answer, "PayloadTooLarge")


async def test_provider_tokens(door, sender):
    now = int(time.time())
    stranger = Sender()
    tokens = {
        "another key": bearer(stranger),
        "another team": bearer(sender, iss="TEAM2"),
        "another key id": bearer(sender, "KEY2"),
        "no key id": bearer(sender, None),
        "no team": bearer(sender, iss=None),
        "no iat": bearer(sender, iat=None),
        "future": bearer(sender, iat=now + 600),
        "iat is no number": "bearer " + sender.token(headers={"kid": "KEY1"}, iss="TEAM1").replace(".", ".x", 1),
        "scheme": bearer(sender).replace("bearer", "basic"),
        **{name: f"bearer {text}" for name, text in stranger_tokens("x").items()},
    }
    for name, authorization in tokens.items():
        answer = await post(door, {"authorization": authorization, "apns-topic": TOPIC})
        assert answer.json()["reason"] in ("InvalidProviderToken", "UnrelatedKeyIdInToken"), name
        assert answer.status_code == 403
    refused(
        await post(door, {"authorization": bearer(sender, iat=now - 3_700), "apns-topic": TOPIC}),
        "ExpiredProviderToken",
    )
    refused(
        await post(door, {"authorization": bearer(sender, iss="TEAM2"), "apns-topic": TOPIC}), "UnrelatedKeyIdInToken"
    )
    refused(await post(door, {"authorization": bearer(sender, "KEY2"), "apns-topic": TOPIC}), "InvalidProviderToken")
    # who has not the key learns of no key id
    stranger = {"authorization": bearer(Sender(), iss="TEAM2"), "apns-topic": TOPIC}
    refused(await post(door, stranger), "InvalidProviderToken")
    refused(await post(door, {"apns-topic": TOPIC}), "MissingProviderToken")
    assert not door.floors.pushed


async def test_an_app_without_a_topic_has_no_door(door, sender):
    change(door, "chat", apns_topic="")
    refused(await post(door, head(sender)), "InvalidProviderToken")


async def test_paths_and_methods(door, sender):
    async with door.client() as web:
        refused(await web.post("/3/devices/x"), "BadPath")
        refused(await web.post("/3/device/a/b"), "BadPath")
        refused(await web.get(f"/3/device/{door.token}"), "MethodNotAllowed")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TooManyRequests(), "TooManyRequests"),
        (QueueFull(), "ServiceUnavailable"),
        (StoreUnavailable(), "ServiceUnavailable"),
        (AcceptTimeout(), "ServiceUnavailable"),
        (RequestTimeout(), "IdleTimeout"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
async def test_trouble_below(door, sender, error, reason):
    door.floors.refuse = error
    answer = await post(door, head(sender))
    refused(answer, reason)


async def test_a_bug_and_a_drain(door, sender, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret")

    with monkeypatch.context() as patch:
        patch.setattr(door.floors, "push", broken)
        answer = await post(door, head(sender))
        refused(answer, "InternalServerError")
    door.backend.stopping.set()
    refused(await post(door, head(sender)), "Shutdown")


async def test_a_certificate_nobody_registered(door):
    scope_tls(door, [CERTIFICATE])
    refused(await post(door, {"apns-topic": TOPIC}), "BadCertificate")


async def test_a_certificate_of_the_app_needs_no_topic(door):
    import hashlib
    import ssl

    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(CERTIFICATE)).hexdigest()
    change(door, "chat", apns_certificates=[fingerprint])
    scope_tls(door, [CERTIFICATE])
    assert (await post(door, {})).status_code == 200
    assert (await post(door, {"apns-topic": TOPIC})).status_code == 200
    refused(await post(door, {"apns-topic": "other"}), "TopicDisallowed")


AUTHORITY = Authority()
CERTIFICATE = AUTHORITY.issue(name="mine").certificate


async def test_a_certificate_that_ended_while_its_connection_lived(door):
    """The handshake took it; the connection goes on for as long as pushes come."""
    issued = AUTHORITY.issue(name="ended", ends_days=-1)
    change(door, "chat", apns_certificates=[issued.fingerprint])
    scope_tls(door, [issued.certificate])
    refused(await post(door, {}), "BadCertificate")
    assert not door.floors.pushed


def scope_tls(door: Door, chain: list[str]) -> None:
    inner = door.asgi

    async def app(scope, receive, send):
        await inner(scope | {"extensions": {"tls": {"client_cert_chain": chain}}}, receive, send)

    door.asgi = app  # type: ignore[assignment]


def test_each_reason_given_here_has_a_test():
    text = Path(__file__).read_text()
    assert {reason for reason in REASONS if not re.search(rf'"{reason}"', text)} == set()


# --- apps ---------------------------------------------------------------------------------------------------------


async def test_keys_are_set_through_the_apps_api(door, sender):
    key = {"key_id": "K", "team_id": "T", "public_key": sender.public_pem()}
    async with door.operator() as web:
        made = await web.post(
            "/v1/apps", json={"name": "new", "apns_topic": "t", "apns_keys": [key], "webpush": "open"}
        )
        assert made.status_code == 201, made.text
        shown = (await web.get("/v1/apps/new")).json()
        assert (shown["apns_topic"], shown["apns_keys"], shown["webpush"]) == ("t", [key], "open")
        changed = await web.patch("/v1/apps/new", json={"apns_certificates": ["ab" * 32], "webpush": "off"})
        assert (changed.json()["apns_certificates"], changed.json()["webpush"]) == (["ab" * 32], "off")
        assert changed.json()["apns_keys"] == [key]
        for bad in (
            {"apns_keys": [key, key]},
            {"apns_keys": [key | {"public_key": sender.pem()}]},
            {"apns_keys": [key | {"public_key": "nonsense"}]},
            {"apns_certificates": ["AB" * 32]},
            {"webpush": "maybe"},
            {"apns_topic": "a b"},
        ):
            answer = await web.patch("/v1/apps/new", json=bad)
            assert answer.status_code == 400
            assert answer.json()["error"]["field"].startswith(next(iter(bad)))


# --- sans-IO ------------------------------------------------------------------------------------------------------

FIELDS = ["apns-id", "apns-priority", "apns-expiration", "apns-collapse-id", "apns-push-type", "apns-topic"]


@given(st.lists(st.tuples(st.sampled_from(FIELDS), st.binary(max_size=80)), max_size=6))
def test_any_fields_are_read_or_refused_with_a_reason(fields):
    try:
        found = collect((name.encode(), value) for name, value in fields)
        asked = parse_asked(found, parse_id(found), 1_000_000, 500)
    except Refused as refusal:
        assert refusal.status in (400, 403)  # noqa: PT017
        return
    assert asked.ttl_s is None or 0 <= asked.ttl_s <= 500
    assert len(asked.collapse_key) <= 64


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.text() | st.integers(),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["aps", "alert", "title", "body"]), x),
    ).map(lambda v: json.dumps(v).encode())
)
def test_any_body_is_a_payload_or_refused(body):
    try:
        payload = parse_payload(body)
    except Refused:
        return
    assert isinstance(payload.title, str)
    assert isinstance(payload.text, str)
    assert payload.data


@given(st.binary(min_size=16, max_size=16), st.text(max_size=70))
def test_tokens_in_both_forms(token, text):
    assert parse_device_token(build_token(token)) == token
    assert parse_device_token(token.hex()) == token
    try:
        assert len(parse_device_token(text)) == 16
    except Refused as refusal:
        assert refusal.reason in ("BadDeviceToken", "MissingDeviceToken")  # noqa: PT017
