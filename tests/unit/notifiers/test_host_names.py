"""Host names that no resolver can be asked for, and URLs that some would send otherwise than they stand there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.model.errors import BadRequest
from gateway.model.registration import App
from gateway.notifiers.apns import settings as apns
from gateway.notifiers.fcm import settings as fcm
from gateway.notifiers.webhook import settings as webhook
from gateway.notifiers.webpush.settings import encode
from gateway.notifiers.webpush.subscription import parse_subscription

NO_NAMES = ["a..b", f"{'a' * 64}.example", "\u00e9..x"]
POINT = ec.generate_private_key(ec.SECP256R1()).public_key()
KEYS = {
    "p256dh": encode(POINT.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)),
    "auth": encode(b"a" * 16),
}


@pytest.mark.parametrize("host", [*NO_NAMES, "..", "example..", ".example"])
def test_subscription_there_is_no_address_of_a_device(host: str) -> None:
    def parse(host: str) -> object:
        return parse_subscription(msgspec.json.encode({"endpoint": f"https://{host}/x", "keys": KEYS}).decode())

    assert parse(host) is None
    assert parse("push.example.") is not None
    assert parse("[::1]") is not None


@pytest.mark.parametrize("host", NO_NAMES)
def test_webhook_there_is_refused_and_one_that_was_taken_before_is_no_endpoint(host: str) -> None:
    refuses(webhook.check_settings, {"url": f"http://{host}/"}, "notifiers.webhook.url")
    assert webhook.parse_endpoint(App(name="shop", notifiers={"webhook": {"url": f"http://{host}/"}})) is None


@pytest.mark.parametrize(
    "url", ["http://exa mple/", "http://a/b c", "http://a/\r\nx: y", "http://a/\t", " http://a/", "http://a/\x7f"]
)
def test_webhook_url_with_a_space_or_a_control_character_is_refused(url: str) -> None:
    refuses(webhook.check_settings, {"url": url}, "notifiers.webhook.url")


@pytest.mark.parametrize("url", ["http://a/b%20c", "https://b\u00fccher.example/", "http://[::1]:8080/?a=b"])
def test_webhook_url_that_is_one_is_taken(url: str) -> None:
    webhook.check_settings({"url": url})


@pytest.mark.parametrize("url", ["https://a..b", "https://a b", "https://a/\r\nb"])
def test_push_service_there_is_refused(url: str) -> None:
    refuses(partial(apns.check_settings, now_s=0.0), {"topic": "com.example.shop", "url": url}, "notifiers.apns.url")
    refuses(fcm.check_settings, {"service_account": "{}", "url": url}, "notifiers.fcm.url")


def refuses(check: Callable[[Mapping[str, str]], None], settings: Mapping[str, str], field: str) -> None:
    with pytest.raises(BadRequest) as error:
        check(settings)
    assert error.value.field == field
