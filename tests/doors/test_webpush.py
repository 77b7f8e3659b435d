"""The Web Push door over in-memory floors: RFC 8030 and RFC 8292, field by field and error by error."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import msgspec
import pytest
from api_doubles import Door, record
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from web_push_sender import Sender, base64url, stranger_tokens

from gateway.api.webpush.headers import parse_options, parse_prefer, parse_topic, parse_ttl
from gateway.api.webpush.resources import Message, Names, Subscription
from gateway.api.webpush.vapid import check_credentials, normalize_origin, parse_credentials, parse_params
from gateway.auth import es256
from gateway.model.errors import BadRequest, Forbidden, QueueFull, StoreUnavailable, UnsupportedMedia
from gateway.model.outcome import Outcome, State

ENCRYPTED = {"content-encoding": "aes128gcm"}


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def sender() -> Sender:
    return Sender()


async def post(door: Door, headers: dict[str, str], body: bytes = b"", token: str | None = None) -> httpx.Response:
    async with door.client() as web:
        return await web.post(f"/push/{door.token if token is None else token}", content=body, headers=headers)


def problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert set(body) == {"title", "status", "detail"}
    assert body["status"] == answer.status_code
    return body


def change(door: Door, **fields: Any) -> None:
    door.floors.apps["chat"] = msgspec.structs.replace(door.floors.apps["chat"], **fields)


def lock(door: Door, key: str) -> None:
    door.floors.registrations[1] = msgspec.structs.replace(door.floors.registrations[1], vapid_key=key)


# --- pushing ------------------------------------------------------------------------------------------------------


async def test_a_push_is_passed_on_untouched(door, sender):
    body = bytes(range(256))
    headers = {**sender.headers(), **ENCRYPTED, "ttl": "60", "urgency": "high", "topic": "news-1"}
    answer = await post(door, headers, body)
    assert answer.status_code == 201
    assert answer.content == b""
    assert answer.headers["ttl"] == "60"
    assert answer.headers["location"].startswith("http://door/push/message/")
    app, request = door.floors.pushed[0]
    assert app == "chat"
    assert request.data == {"webpush": {"body": body, "content_encoding": "aes128gcm"}}
    assert (request.ttl, request.urgency, request.collapse_key) == (60, "high", "news-1")
    assert request.target.token == door.token


async def test_aesgcm_brings_its_parameters(door, sender):
    headers = {
        **sender.headers(),
        "ttl": "0",
        "content-encoding": "aesgcm",
        "encryption": "salt=abc",
        "crypto-key": "dh=def",
    }
    assert (await post(door, headers, b"x")).status_code == 201
    assert door.floors.pushed[0][1].data["webpush"] == {
        "body": b"x",
        "content_encoding": "aesgcm",
        "encryption": "salt=abc",
        "crypto_key": "dh=def",
    }
    for missing in ("encryption", "crypto-key"):
        answer = await post(door, {k: v for k, v in headers.items() if k != missing}, b"x")
        assert answer.status_code == 400
        problem(answer)


async def test_without_a_body_and_with_defaults(door, sender):
    answer = await post(door, {**sender.headers(), "ttl": "0"})
    assert (answer.status_code, answer.headers["ttl"]) == (201, "0")
    request = door.floors.pushed[0][1]
    assert (request.data, request.urgency, request.collapse_key, request.ttl) == (
        {"webpush": {"body": b""}},
        "normal",
        "",
        0,
    )


async def test_a_ttl_past_the_longest_is_cut_and_the_answer_says_so(door, sender):
    answer = await post(door, {**sender.headers(), "ttl": "99999999999999"})
    assert (answer.status_code, answer.headers["ttl"]) == (201, str(door.backend.max_ttl_s))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        ({"ttl": ""}, 400),
        ({"ttl": "-1"}, 400),
        ({"ttl": "1.5"}, 400),
        ({"ttl": "soon"}, 400),
        ({"ttl": "1", "urgency": "very-high"}, 400),
        ({"ttl": "1", "urgency": ""}, 400),
        ({"ttl": "1", "topic": ""}, 400),
        ({"ttl": "1", "topic": "x" * 33}, 400),
        ({"ttl": "1", "topic": "no spaces"}, 400),
        ({"ttl": "1", "topic": "a+b/c="}, 400),
        ({"ttl": "1", "content-encoding": "gzip"}, 415),
        ({"ttl": "1", "prefer": "respond-async", "push-receipt": "https://elsewhere/push/receipts/x"}, 400),
        ({"ttl": "1", "prefer": "respond-async", "push-receipt": "http://[/"}, 400),
    ],
)
async def test_header_fields_that_are_wrong(door, sender, headers, status):
    answer = await post(door, {**sender.headers(), **headers})
    assert answer.status_code == status
    problem(answer)
    assert not door.floors.pushed


async def test_a_body_that_is_not_encrypted_is_a_mistake(door, sender):
    assert (await post(door, {**sender.headers(), "ttl": "1"}, b"plain")).status_code == 415


async def test_a_body_over_4096_is_413_and_at_4096_is_taken(door, sender):
    headers = {**sender.headers(), **ENCRYPTED, "ttl": "1"}
    assert (await post(door, headers, b"x" * 4_096)).status_code == 201
    answer = await post(door, headers, b"x" * 4_097)
    assert answer.status_code == 413
    problem(answer)

    async def stream():
        for _ in range(3):
            yield b"x" * 2_000

    async with door.client() as web:
        assert (await web.post(f"/push/{door.token}", content=stream(), headers=headers)).status_code == 413


async def test_unknown_and_gone_tokens(door, sender):
    headers = {**sender.headers(), "ttl": "1"}
    for unknown in (base64url(b"q" * 16), "short", door.token[:-1] + "!", "%00", "x" * 900):
        answer = await post(door, headers, token=unknown)
        assert answer.status_code == 404
        problem(answer)
    door.floors.registrations[1] = msgspec.structs.replace(door.floors.registrations[1], revoked_at=5)
    answer = await post(door, headers)
    assert answer.status_code == 410
    assert problem(answer)["title"] == "gone"
    change(door, webpush="off")
    assert (await post(door, headers)).status_code == 404


async def test_a_door_that_is_closed_is_as_good_as_no_token(door, sender):
    change(door, webpush="off")
    closed = await post(door, {**sender.headers(), "ttl": "1"})
    unknown = await post(door, {**sender.headers(), "ttl": "1"}, token=base64url(b"q" * 16))
    assert closed.status_code == 404
    assert closed.json() == unknown.json()


async def test_trouble_below_is_a_problem_with_a_time(door, sender):
    for error, status in ((QueueFull(), 503), (StoreUnavailable(), 503)):
        door.floors.refuse = error
        answer = await post(door, {**sender.headers(), "ttl": "1"})
        assert answer.status_code == status
        problem(answer)
        assert int(answer.headers["retry-after"]) >= 1


async def test_a_bug_is_a_500_in_the_doors_own_words(door, sender, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(door.floors, "push", broken)
    answer = await post(door, {**sender.headers(), "ttl": "1"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    problem(answer)


async def test_other_paths_and_methods_answer_in_the_doors_words(door):
    async with door.client() as web:
        assert (await web.get("/push/a/b/c")).status_code == 404
        problem(await web.get("/push/a/b/c"))
        wrong = await web.put(f"/push/{door.token}")
        assert wrong.status_code == 405
        problem(wrong)
        assert "POST" in wrong.headers["allow"]


# --- who pushes ---------------------------------------------------------------------------------------------------


async def test_unsigned_is_401_unless_the_app_is_open(door, sender):
    answer = await post(door, {"ttl": "1"})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "vapid")
    assert (await post(door, {"ttl": "1", "authorization": "Basic eDp5"})).status_code == 401
    change(door, webpush="open")
    assert (await post(door, {"ttl": "1"})).status_code == 201
    lock(door, sender.key)
    assert (await post(door, {"ttl": "1"})).status_code == 401
    assert (await post(door, {**sender.headers(), "ttl": "1"})).status_code == 201


async def test_a_locked_subscription_takes_one_key_only(door, sender):
    lock(door, sender.key)
    assert (await post(door, {**Sender().headers(), "ttl": "1"})).status_code == 403
    assert (await post(door, {**sender.headers(), "ttl": "1"})).status_code == 201
    # padding or not, it is the same key
    assert (await post(door, {**sender.headers(key=f'"{sender.key}="'), "ttl": "1"})).status_code == 201


async def test_the_form_of_earlier_drafts(door, sender):
    for scheme in ("WebPush", "Bearer"):
        headers = {"authorization": f"{scheme} {sender.token()}", "crypto-key": f"p256ecdsa={sender.key}", "ttl": "1"}
        assert (await post(door, headers)).status_code == 201
    both = {
        "authorization": f"WebPush {sender.token()}",
        "crypto-key": f"dh=abc;p256ecdsa={sender.key}",
        "content-encoding": "aesgcm",
        "encryption": "salt=x",
        "ttl": "1",
    }
    assert (await post(door, both, b"x")).status_code == 201
    assert (await post(door, {"authorization": f"WebPush {sender.token()}", "ttl": "1"})).status_code == 403


async def test_one_token_may_be_used_again_until_its_end(door, sender):
    headers = {**sender.headers(), "ttl": "1"}
    for _ in range(3):
        assert (await post(door, headers)).status_code == 201


NOW = int(time.time())


def _in_words(claims: dict[str, object]) -> str:
    """The same whenever it is asked: times count from now."""
    return ",".join(
        f"{name}{value - NOW:+d}s" if type(value) is int and value > 1_000_000 else f"{name}={value}"
        for name, value in claims.items()
    )


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW - 1},
        {"exp": NOW + 90_000},
        {"exp": None},
        {"exp": "soon"},
        {"exp": True},
        {"exp": 1e300},
        {"iat": NOW + 80_000},
        {"nbf": NOW + 80_000},
        {"aud": None},
        {"aud": "https://other.example"},
        {"aud": "http://door:8080"},
        {"aud": "http://door/push"},
        {"aud": 5},
        {"aud": ["https://other.example"]},
        {"sub": 5},
    ],
    ids=_in_words,
)
async def test_claims_that_are_wrong_are_403(door, sender, claims):
    headers = {"authorization": f"vapid t={signed(sender, claims)}, k={sender.key}", "ttl": "1"}
    answer = await post(door, headers)
    assert answer.status_code == 403
    problem(answer)
    assert not door.floors.pushed


def signed(sender: Sender, claims: dict[str, Any]) -> str:
    """Without a library's own checks of claims."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    body = {"aud": sender.origin, "exp": NOW + 3_600, "sub": "mailto:x@example.com"} | claims
    body = {name: value for name, value in body.items() if value is not None}
    text = ".".join(base64url(json.dumps(part).encode()) for part in ({"alg": "ES256", "typ": "JWT"}, body))
    r, s = decode_dss_signature(sender.private.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


@pytest.mark.parametrize(
    "aud", ["http://door", "https://door", "HTTP://DOOR:80/", ["http://door", "https://x.example"]]
)
async def test_audiences_that_are_right(door, sender, aud):
    assert (await post(door, {**sender.headers(aud=aud), "ttl": "1"})).status_code == 201


async def test_the_audience_is_what_the_configuration_says(sender):
    door = Door(public_urls=["https://push.example", "https://push2.example:8443"])
    for aud, status in (
        ("https://push.example", 201),
        ("https://push.example:443", 201),
        ("https://push2.example:8443", 201),
        ("http://door", 403),
        ("http://push.example", 403),
    ):
        answer = await post(door, {**sender.headers(aud=aud), "ttl": "1"})
        assert answer.status_code == status
        if status == 201:
            assert answer.headers["location"].startswith("https://push.example/push/message/")


@pytest.mark.parametrize("kind", stranger_tokens("http://door"))
async def test_what_is_no_es256_token_is_403(door, sender, kind):
    token = stranger_tokens("http://door")[kind]
    assert (await post(door, {**sender.headers(token=token), "ttl": "1"})).status_code == 403


async def test_keys_and_signatures_that_are_wrong_are_403(door, sender):
    token, other = sender.token(), Sender()
    head, body, signature = token.split(".")
    bad = {
        "another key": (token, other.key),
        "no point": (token, base64url(b"\x04" + b"x" * 64)),
        "compressed": (token, base64url(b"\x02" + sender.point[1:33])),
        "p384": (token, Sender(curve=ec.SECP384R1()).key),
        "no key": (token, ""),
        "garbage": (token, "!!!"),
        "another body": (f"{head}.{base64url(b'{}')}.{signature}", sender.key),
        "signature of zeros": (f"{head}.{body}.{base64url(bytes(64))}", sender.key),
        "der signature": (f"{head}.{body}.{base64url(b'0' * 70)}", sender.key),
        "crit": (sender.token(headers={"crit": ["exp"]}), sender.key),
    }
    for name, (jwt, key) in bad.items():
        answer = await post(door, {"authorization": f"vapid t={jwt}, k={key}", "ttl": "1"})
        assert answer.status_code == 403, name


def test_good_signatures_are_remembered_and_bad_ones_are_not(sender):
    verifier = es256.Verifier(cached=2)
    origins = {"http://door:80"}
    for index in range(4):
        credentials = parse_credentials(sender.headers(jti=str(index))["authorization"], None)
        assert credentials is not None
        assert check_credentials(credentials, origins, NOW, verifier) == sender.key
        assert len(verifier) == min(index + 1, 2)
    other = Sender()
    stolen = parse_credentials(other.headers(token=sender.token(jti="3"))["authorization"], None)
    assert stolen is not None
    with pytest.raises(Forbidden):
        check_credentials(stolen, origins, NOW, verifier)
    assert len(verifier) == 2
    # remembered, and yet its end is looked at each time
    again = parse_credentials(sender.headers(jti="3")["authorization"], None)
    assert again is not None
    with pytest.raises(Forbidden, match="expired"):
        check_credentials(again, origins, NOW + 7_200, verifier)


# --- message resources, discovery ---------------------------------------------------------------------------------


async def pushed(door: Door, sender: Sender, **headers: str) -> httpx.Response:
    answer = await post(door, {**sender.headers(), "ttl": "60", **headers})
    assert answer.status_code in (201, 202), answer.text
    return answer


def set_state(door: Door, seq: int, state: State) -> None:
    door.floors.records[seq] = record("chat", seq, states=[state])


async def test_a_message_says_its_state_and_is_recalled(door, sender):
    url = (await pushed(door, sender)).headers["location"]
    async with door.client() as web:
        shown = await web.get(url)
        assert (shown.status_code, shown.json()["state"]) == (200, "sent")
        assert (await web.delete(url)).status_code == 204
        set_state(door, 1000, State.RECALLED)
        assert (await web.delete(url)).status_code == 204
        set_state(door, 1000, State.ACKED)
        assert (await web.delete(url)).status_code == 410
        assert (await web.get(url)).json()["state"] == "acked"
        del door.floors.records[1000]
        assert (await web.get(url)).status_code == 404
        assert (await web.delete(url[:-1] + "x")).status_code == 404
        problem(await web.delete("http://door/push/message/nonsense"))


async def test_unifiedpush_discovery_and_pages_of_other_origins(door):
    async with door.client() as web:
        found = await web.get(f"/push/{door.token}")
        assert found.json() == {"unifiedpush": {"version": 1}}
        assert found.headers["access-control-allow-origin"] == "*"
        assert (await web.get("/push/AAAAAAAAAAAAAAAAAAAAAA")).status_code == 404
        asked = await web.options("/push/whatever")
        assert asked.status_code == 204
        assert "POST" in asked.headers["access-control-allow-methods"]
        assert "TTL" in asked.headers["access-control-allow-headers"]
        refused = await web.post(f"/push/{door.token}")
        assert refused.headers["access-control-allow-origin"] == "*"
    assert len(f"https://{'x' * 253}/push/{door.token}") < 1_000


# --- receipts -----------------------------------------------------------------------------------------------------


def settle(door: Door, seq: int, state: State) -> None:
    outcome = Outcome(seq, seq, 1, "chat", state, 9, [])
    cursor = len(door.floors.feed) + 1
    from gateway.model.ports import Receipt

    door.floors.feed.append(Receipt(cursor, outcome))
    for wake in list(door.floors.wakes):
        wake()


def receipt_url(answer: httpx.Response) -> str:
    assert answer.status_code == 202
    link = answer.headers["link"]
    assert link.endswith('; rel="urn:ietf:params:push:receipt"')
    return link.partition(">")[0].lstrip("<")


@pytest.mark.parametrize(
    ("state", "status"), [(State.ACKED, 204), (State.EXPIRED, 410), (State.REPLACED, 410), (State.REJECTED, 410)]
)
async def test_a_receipt_is_waited_for(door, sender, state, status):
    asked = await pushed(door, sender, prefer="respond-async")
    url = receipt_url(asked)
    async with door.client() as web:
        assert (await web.get(url, headers={"prefer": "wait=0"})).status_code == 202
        waiting = asyncio.create_task(web.get(url))
        async with asyncio.timeout(60):
            while not door.floors.wakes:
                await asyncio.sleep(0.005)
        settle(door, 77, State.ACKED)  # of a message that asked for none
        settle(door, 1000, state)
        answer = await waiting
        assert answer.status_code == status
        assert asked.headers["location"] in answer.headers["link"]
        later = {"last-event-id": answer.headers["last-event-id"], "prefer": "wait=0"}
        assert (await web.get(url, headers=later)).status_code == 202


async def test_a_subscription_is_used_again_and_shows_its_own_only(door, sender):
    first = receipt_url(await pushed(door, sender, prefer="respond-async"))
    second = await pushed(door, sender, prefer="respond-async", **{"push-receipt": first})
    assert receipt_url(second) == first
    other = receipt_url(await pushed(door, sender, prefer="respond-async"))
    assert other != first
    for seq, state in ((1002, State.ACKED), (1001, State.EXPIRED), (1000, State.ACKED)):
        settle(door, seq, state)
    async with door.client() as web:
        seen = []
        after = "0"
        while (
            answer := await web.get(first, params={"after": after}, headers={"prefer": "wait=0"})
        ).status_code != 202:
            seen.append(answer.status_code)
            after = answer.headers["last-event-id"]
        assert seen == [410, 204]
        assert (await web.get(other, headers={"prefer": "wait=0"})).status_code == 204
        assert (await web.get(first[:-1] + "!", headers={"prefer": "wait=0"})).status_code == 404
        bad = await web.get(first, headers={"last-event-id": "x"})
        assert bad.status_code == 400
        problem(bad)


async def test_another_apps_subscription_is_not_taken(door, sender):
    url = receipt_url(await pushed(door, sender, prefer="respond-async"))
    headers = {**sender.headers(), "ttl": "1", "prefer": "respond-async", "push-receipt": url}
    assert (await post(door, headers, token=door.foreign_token)).status_code == 400


# --- sans-IO ------------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.sampled_from(["ttl", "urgency", "topic", "content-encoding", "prefer"]), st.text(max_size=40))
)
def test_any_header_fields_are_options_or_refused(headers):
    try:
        options = parse_options(headers, 1_000)
    except (BadRequest, UnsupportedMedia):
        return
    assert 0 <= options.ttl_s <= 1_000
    assert len(options.topic) <= 32


@given(st.integers(0, 10**31))
def test_any_whole_number_is_a_ttl(value):
    assert parse_ttl(str(value), 500) == min(value, 500)


@given(st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True))
def test_topics_of_the_alphabet(text):
    assert parse_topic(text) == text


def test_preferences():
    assert parse_prefer(None) == (False, None)
    assert parse_prefer("Respond-Async, wait=5, foo") == (True, 5)
    assert parse_prefer("wait=x") == (False, None)


@given(st.text(max_size=200), st.text(max_size=100))
def test_any_authorization_is_read_or_refused(authorization, crypto_key):
    try:
        credentials = parse_credentials(authorization, crypto_key)
    except Forbidden:
        return
    if credentials is not None:
        with pytest.raises(Forbidden):
            check_credentials(credentials, {"http://door:80"}, NOW, es256.Verifier())


@given(st.text(max_size=100))
def test_any_parameters_and_any_origin(text):
    assert all(key == key.lower() for key in parse_params(text, ",;"))
    origin = normalize_origin(text)
    assert origin == "" or normalize_origin(origin) == origin


@given(st.text(alphabet="abcXYZ019-_.=", max_size=300) | st.text(max_size=50))
def test_any_text_is_no_token_or_has_its_parts(text):
    jws = es256.parse_jws(text)
    assert jws is None or (len(jws.signature) == 64 and jws.header["alg"] == "ES256")


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**63), st.integers(0, 2**32 - 1), st.text(max_size=40))
def test_names_are_read_back_by_their_own_kind_only(app, seq, nonce, text):
    names, others = Names(b"k" * 16), Names(b"j" * 16)
    message = names.message(Message(app, seq))
    subscription = names.subscription(Subscription(app, seq, nonce))
    assert names.parse_message(message) == (app, seq)
    assert names.parse_subscription(subscription) == (app, seq, nonce)
    assert names.parse_message(subscription) is None
    assert names.parse_subscription(message) is None
    assert others.parse_message(message) is None
    assert names.parse_message(text) is None


def test_a_missing_ttl_is_named():
    with pytest.raises(BadRequest) as caught:
        parse_ttl(None, 1)
    assert caught.value.field == "TTL"
