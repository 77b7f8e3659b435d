"""An app's settings for Web Push; must never print the VAPID key."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from gateway.notifiers.fields import Field, build_fingerprint, build_pem, build_refusal, check_ca, check_fields

NAME = "webpush"
FIELDS = (
    Field(
        "vapid_key",
        secret=True,
        required=True,
        says="the app's VAPID private key: PEM (P-256), or 32 bytes as base64url",
    ),
    Field("subject", required=True, says="whom a push service can reach about it: mailto:… or https://…"),
    Field("ca", says="authority to trust instead of the usual ones (PEM), for a push service of your own"),
    Field("private", says="yes: this app's subscriptions may lead to private addresses; default: as the gateway says"),
)
SECRETS = frozenset(each.name for each in FIELDS if each.secret)


@dataclass(slots=True, frozen=True)
class AppSettings:
    """Ready to use."""

    subject: str
    allows_private: bool
    key: str = field(repr=False)  # PEM
    #: base64url of the public key, 65 bytes: what a page passes as applicationServerKey
    public_key: str
    ca: str = field(repr=False)
    fingerprint: str = field(repr=False)


def encode(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """base64url, padded or not. Raises ValueError."""
    try:
        return base64.b64decode(text.rstrip("=").encode("ascii") + b"=" * (-len(text.rstrip("=")) % 4), b"-_", True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("no base64url") from error


def parse_key(text: str) -> ec.EllipticCurvePrivateKey:
    """A PEM, or the 32 bytes of the private number as most VAPID tools print it. Raises ValueError."""
    if "-----BEGIN" in text:
        try:
            key = load_pem_private_key(build_pem(text).encode(), None)
        except TypeError as error:
            raise ValueError("encrypted") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("not P-256")
        return key
    raw = decode(text.strip())
    if len(raw) != 32:
        raise ValueError("not 32 bytes")
    return ec.derive_private_key(int.from_bytes(raw, "big"), ec.SECP256R1())


@lru_cache(maxsize=1_000)
def _key_texts(text: str) -> tuple[str, str]:
    """(PEM, public key as base64url). Kept, for deriving them takes a fraction of a millisecond with each push."""
    key = parse_key(text)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return pem, encode(key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def build_app_settings(settings: Mapping[str, str]) -> AppSettings | None:
    """None where something needed is missing or unusable; `check_settings` says what."""
    try:
        pem, public = _key_texts(settings.get("vapid_key", ""))
    except ValueError:
        return None
    return AppSettings(
        subject=settings.get("subject", ""),
        allows_private=settings.get("private", "") == "yes",
        key=pem,
        public_key=public,
        ca=build_pem(settings.get("ca", "")),
        fingerprint=build_fingerprint(settings),
    )


def check_settings(settings: Mapping[str, str]) -> None:
    """Raises BadRequest: field and fix."""
    check_fields(NAME, FIELDS, settings)
    check_ca(NAME, settings.get("ca", ""))
    try:
        parse_key(settings["vapid_key"])
    except ValueError:
        raise build_refusal(
            NAME, "vapid_key", "is no P-256 private key: give its PEM, or its 32 bytes as base64url (43 characters)"
        ) from None
    try:
        subject = urlsplit(settings["subject"])
        usable = (subject.scheme == "mailto" and "@" in subject.path) or (
            subject.scheme == "https" and bool(subject.hostname)
        )
    except ValueError:
        usable = False
    if not usable:
        raise build_refusal(NAME, "subject", "is neither mailto:someone@example.com nor an https URL")
    if settings.get("private", "") not in ("", "yes", "no"):
        raise build_refusal(NAME, "private", "is yes or no")
