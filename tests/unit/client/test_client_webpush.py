"""Web Push on the device: keys, the subscription, opening; with the example of RFC 8291 Appendix A."""

from __future__ import annotations

import base64
from typing import Any

import http_ece
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.content import Notification, WebPushMessage, parse_webpush
from gateway.client.webpush import CanNotOpen, Subscription


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


PRIVATE = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"
PUBLIC = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
AUTH = "BTBZMqHH6r4Tts7J_aSIgg"
BODY = (
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A"
    "_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
)


@pytest.fixture
def subscription() -> Subscription:
    return Subscription.load(decode(PRIVATE) + decode(AUTH))


def test_the_example_of_the_rfc(subscription):
    described = subscription.describe("https://push.example.net/", "token")
    assert described == {"endpoint": "https://push.example.net/push/token", "keys": {"p256dh": PUBLIC, "auth": AUTH}}
    opened = subscription.open(WebPushMessage(decode(BODY), "aes128gcm"))
    assert opened == b"When I grow up, I want to be a watermelon"


def test_keys_are_kept_and_never_shown():
    made = Subscription.generate()
    again = Subscription.load(made.export())
    assert again.describe("http://h", "t") == made.describe("http://h", "t")
    assert repr(made) == "<Subscription>"
    assert len(made.public_key) == 65
    with pytest.raises(ValueError, match="48"):
        Subscription.load(b"short")
    with pytest.raises(ValueError, match="16"):
        Subscription(ec.generate_private_key(ec.SECP256R1()), b"short")


@pytest.mark.parametrize("encoding", ["aes128gcm", "aesgcm"])
def test_what_was_sealed_is_opened_and_by_nobody_else(encoding):
    mine, other = Subscription.generate(), Subscription.generate()
    sender = ec.generate_private_key(ec.SECP256R1())
    salt = b"s" * 16
    body = http_ece.encrypt(
        b"hello",
        salt=salt,
        private_key=sender,
        dh=mine.public_key,
        auth_secret=mine.export()[32:],
        version=encoding,
    )
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    point = sender.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    fields: dict[str, Any] = {}
    if encoding == "aesgcm":
        text = base64.urlsafe_b64encode
        fields = {
            "encryption": f"keyid=x; salt={text(salt).decode().rstrip('=')}",
            "crypto_key": f"p256ecdsa=abc,keyid=x;dh={text(point).decode()}",
        }
    message = WebPushMessage(body, encoding, **fields)
    assert mine.open(message) == b"hello"
    for bad in (message, WebPushMessage(body[:-1] + b"\0", encoding, **fields)):
        with pytest.raises(CanNotOpen):
            other.open(bad)


@given(st.binary(min_size=1, max_size=200), st.sampled_from(["aes128gcm", "aesgcm", "", "gzip"]), st.text(), st.text())
def test_any_message_is_opened_or_refused(body, encoding, encryption, crypto_key):
    subscription = Subscription.load(decode(PRIVATE) + decode(AUTH))
    with pytest.raises(CanNotOpen):
        subscription.open(WebPushMessage(body, encoding, encryption, crypto_key))


def test_a_message_without_a_body_is_open_already(subscription):
    assert subscription.open(WebPushMessage(b"")) == b""


def test_only_what_came_through_the_door_is_a_web_push():
    def of(data: Any) -> WebPushMessage | None:
        return Notification(1, "a", "", "", "", data, False, False, 2, 0, 0, "").webpush

    assert of({"webpush": {"body": b"x", "content_encoding": "aes128gcm"}}) == WebPushMessage(b"x", "aes128gcm")
    assert of({"webpush": {"body": b""}}) == WebPushMessage(b"")
    for other in (
        None,
        5,
        {},
        {"webpush": 1},
        {"webpush": {"body": "text"}},
        {"webpush": {"body": b"", "encryption": 1}},
    ):
        assert of(other) is None
    assert of({"webpush": {"body": b""}, "more": 1}) is None


@given(
    st.recursive(
        st.none() | st.binary() | st.text(), lambda x: st.dictionaries(st.sampled_from(["webpush", "body"]), x)
    )
)
def test_any_data_is_a_web_push_or_not(data):
    message = parse_webpush(data)
    assert message is None or isinstance(message.body, bytes)
