"""An app's settings for APNs; must never print a key.

Either a provider token's key (`key`, `key_id`, `team_id`) or a client certificate (`certificate`, `certificate_key`).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.notifiers.connections import EncryptedKey, build_context
from gateway.notifiers.fields import (
    Field,
    build_fingerprint,
    build_pem,
    build_refusal,
    check_ca,
    check_fields,
    check_url,
    holds_private_key,
)

NAME = "apns"
PUBLIC_URL = "https://api.push.apple.com"
FIELDS = (
    Field("topic", required=True, says="the app's bundle id, such as com.example.shop"),
    Field("key_id", says="10 characters that name the key, as on Apple's page of keys"),
    Field("team_id", says="10 characters that name your team, as on Apple's membership page"),
    Field("key", secret=True, says="the key itself: the text of the .p8 file (PEM, P-256)"),
    Field("certificate", says="instead of a key: the client certificate (PEM, with what it needs to its authority)"),
    Field("certificate_key", secret=True, says="the certificate's private key (PEM)"),
    Field("url", default=PUBLIC_URL, says="https://api.sandbox.push.apple.com for builds from Xcode"),
    Field("ca", says="authority to trust instead of the usual ones (PEM), for an upstream of your own"),
)
SECRETS = frozenset(each.name for each in FIELDS if each.secret)
_ID = re.compile(r"[A-Z0-9]{10}")
_TOPIC = re.compile(r"[A-Za-z0-9.-]{1,255}")


@dataclass(slots=True, frozen=True)
class AppSettings:
    """Ready to use."""

    url: str
    topic: str
    key_id: str
    team_id: str
    key: str = field(repr=False)
    certificate: str = field(repr=False)
    certificate_key: str = field(repr=False)
    ca: str = field(repr=False)
    #: of all of it, so that changed settings get a connection of their own
    fingerprint: str = field(repr=False)


def build_app_settings(settings: Mapping[str, str]) -> AppSettings | None:
    """None where something needed is missing; `check_settings` says what."""
    key, certificate = build_pem(settings.get("key", "")), build_pem(settings.get("certificate", ""))
    has_token = bool(key and settings.get("key_id") and settings.get("team_id"))
    if not settings.get("topic") or not (has_token or certificate):
        return None
    return AppSettings(
        url=(settings.get("url") or PUBLIC_URL).rstrip("/"),
        topic=settings["topic"],
        key_id=settings.get("key_id", ""),
        team_id=settings.get("team_id", ""),
        key=key if has_token else "",
        certificate=certificate,
        certificate_key=build_pem(settings.get("certificate_key", "")),
        ca=build_pem(settings.get("ca", "")),
        fingerprint=build_fingerprint(settings),
    )


def read_end(pem: str) -> float:
    """Unix seconds at which the certificate ends; of more than one the first, which is the one that is shown. Raises
    ValueError."""
    return x509.load_pem_x509_certificates(build_pem(pem).encode())[0].not_valid_after_utc.timestamp()


def check_settings(settings: Mapping[str, str], now_s: float) -> None:
    """Raises BadRequest: field and fix. `now_s`: Unix seconds."""
    check_fields(NAME, FIELDS, settings)
    if not _TOPIC.fullmatch(settings["topic"]):
        raise build_refusal(NAME, "topic", "is no bundle id; it looks like com.example.shop")
    check_url(NAME, "url", settings.get("url") or PUBLIC_URL)
    check_ca(NAME, settings.get("ca", ""))
    if settings.get("certificate"):
        if holds_private_key(settings["certificate"]):
            raise build_refusal(
                NAME, "certificate", "holds a private key, which would be shown; give that part as certificate_key"
            )
        if settings.get("key"):
            raise build_refusal(NAME, "key", "and certificate exclude each other; leave one of them out")
        try:
            build_context("", build_pem(settings["certificate"]), build_pem(settings.get("certificate_key", "")))
            ends_s = read_end(settings["certificate"])
        except EncryptedKey:
            raise build_refusal(
                NAME, "certificate_key", "is encrypted; give it without a pass phrase (openssl pkey -in key.pem)"
            ) from None
        except (ssl.SSLError, ValueError, OSError):
            raise build_refusal(
                NAME, "certificate", "and certificate_key are no matching pair of PEMs (certificate, private key)"
            ) from None
        if ends_s <= now_s:
            raise build_refusal(NAME, "certificate", "has expired; give the renewed one and its key")
        return
    for name in ("key", "key_id", "team_id"):
        if not settings.get(name):
            raise build_refusal(NAME, name, "is missing: give key, key_id and team_id, or certificate instead")
    for name in ("key_id", "team_id"):
        if not _ID.fullmatch(settings[name]):
            raise build_refusal(NAME, name, "has 10 characters, A to Z and 0 to 9")
    try:
        key = load_pem_private_key(build_pem(settings["key"]).encode(), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise build_refusal(NAME, "key", "is no P-256 private key; give the text of the .p8 file as it is")
