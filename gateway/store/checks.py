"""What a registration and an app may hold; must name the field of whatever it refuses, and never quote its value."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric import ec

from gateway.model.cohort import is_language, is_os
from gateway.model.errors import InvalidField
from gateway.model.quiet import is_timezone, parse_span
from gateway.model.registration import Profile

MAX_DEVICE_BYTES = 128
MAX_APP_CHARS = 64
MAX_VERSION_CHARS = 64
MAX_ACCOUNT_BYTES = 128
MAX_ALIAS_CHARS = 128
MAX_TAGS = 100
MAX_TAG_CHARS = 64
MAX_ADDRESSES = 8
#: a Web Push subscription has an endpoint of up to 1,000 bytes and two keys beside it
MAX_ADDRESS_CHARS = 2_048
MAX_CHANNEL_CHARS = 32
VAPID_KEY_BYTES = 65
VAPID_KEY_CHARS = 87
_APP = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_APP_CHARS}}}")


def check_app_name(name: str) -> None:
    if not _APP.fullmatch(name):
        raise InvalidField(f"app must be 1 to {MAX_APP_CHARS} of A-Z a-z 0-9 . _ -", field="app")


def check_triple(device: str, app: str, version: str, account: str) -> None:
    if not device or _size(device, "device") > MAX_DEVICE_BYTES:
        raise InvalidField(f"device must be 1 to {MAX_DEVICE_BYTES} bytes", field="device")
    check_app_name(app)
    if len(version) > MAX_VERSION_CHARS or not version.isascii():
        raise InvalidField(f"version must be at most {MAX_VERSION_CHARS} ASCII characters", field="version")
    if _size(account, "account") > MAX_ACCOUNT_BYTES:
        raise InvalidField(f"account must be at most {MAX_ACCOUNT_BYTES} bytes", field="account")


def check_labels(
    alias: str | None,
    tags: Sequence[str] | None,
    addresses: Mapping[str, str] | None,
    fallback: Sequence[str] | None,
) -> None:
    """None is always good: it leaves the field as it is."""
    if alias is not None:
        _size(alias, "alias")
        if len(alias) > MAX_ALIAS_CHARS:
            raise InvalidField(f"alias must be at most {MAX_ALIAS_CHARS} characters", field="alias")
    if tags is not None:
        if len(tags) > MAX_TAGS:
            raise InvalidField(f"tags must be at most {MAX_TAGS}", field="tags")
        for tag in tags:
            _size(tag, "tags")
            if not 0 < len(tag) <= MAX_TAG_CHARS:
                raise InvalidField(f"a tag must be 1 to {MAX_TAG_CHARS} characters", field="tags")
    if addresses is not None:
        if len(addresses) > MAX_ADDRESSES:
            raise InvalidField(f"addresses must be at most {MAX_ADDRESSES}", field="addresses")
        for channel, address in addresses.items():
            _check_channel(channel, "addresses")
            _size(address, "addresses")
            if not 0 < len(address) <= MAX_ADDRESS_CHARS:
                raise InvalidField(f"an address must be 1 to {MAX_ADDRESS_CHARS} characters", field="addresses")
    if fallback is not None:
        if len(fallback) > MAX_ADDRESSES:
            raise InvalidField(f"fallback must be at most {MAX_ADDRESSES} channels", field="fallback")
        for channel in fallback:
            _check_channel(channel, "fallback")


def check_profile(profile: Profile) -> None:
    """InvalidField names what is no OS name, language tag, time zone or span of the day."""
    if profile.os and not is_os(profile.os):
        raise InvalidField("os must be at most 32 of a-z 0-9 . _ -", field="os")
    if profile.locale and not is_language(profile.locale):
        raise InvalidField("locale must be a language tag, such as pt-BR", field="locale")
    if profile.timezone and not is_timezone(profile.timezone):
        raise InvalidField("timezone must be an IANA time zone, such as Europe/Berlin", field="timezone")
    if profile.quiet and parse_span(profile.quiet) is None:
        raise InvalidField("quiet must be a span of the day, such as 22:00-07:00", field="quiet")


def check_vapid_key(key: str | None) -> None:
    """RFC 8292 §3.2: an uncompressed point on P-256, base64url without padding; "" takes the lock away."""
    if not key:
        return
    try:
        point = base64.b64decode(key.encode("ascii") + b"=", altchars=b"-_", validate=True)
        if len(point) != VAPID_KEY_BYTES or len(key) != VAPID_KEY_CHARS or point[0] != 4:
            raise ValueError
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except (binascii.Error, ValueError):  # UnicodeEncodeError is one
        raise InvalidField(
            f"vapid_key must be an uncompressed P-256 point: {VAPID_KEY_CHARS} characters of base64url",
            field="vapid_key",
        ) from None


def _check_channel(channel: str, field: str) -> None:
    _size(channel, field)
    if not 0 < len(channel) <= MAX_CHANNEL_CHARS:
        raise InvalidField(f"a channel's name must be 1 to {MAX_CHANNEL_CHARS} characters", field=field)


def _size(text: str, field: str) -> int:
    """Bytes of UTF-8; a lone surrogate has none."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise InvalidField(f"{field} is not valid Unicode", field=field) from None
