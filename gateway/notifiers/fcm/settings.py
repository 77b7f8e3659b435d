"""An app's settings for FCM; must never print the service account."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.notifiers.fields import (
    Field,
    build_fingerprint,
    build_pem,
    build_refusal,
    check_ca,
    check_fields,
    check_url,
)

NAME = "fcm"
PUBLIC_URL = "https://fcm.googleapis.com"
PUBLIC_TOKEN_URL = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address, no password
FIELDS = (
    Field(
        "service_account",
        secret=True,
        required=True,
        says="the text of the service account's JSON file (Firebase console, Service accounts, new private key)",
    ),
    Field("url", default=PUBLIC_URL, says="FCM's address, for an upstream of your own"),
    Field("token_url", default=PUBLIC_TOKEN_URL, says="where access tokens come from, for an upstream of your own"),
    Field("ca", says="authority to trust instead of the usual ones (PEM), for an upstream of your own"),
)
SECRETS = frozenset(each.name for each in FIELDS if each.secret)
_PROJECT = re.compile(r"[a-z0-9][a-z0-9:.-]{0,127}")


class _ServiceAccount(msgspec.Struct):
    """What is used of Google's JSON file."""

    project_id: str
    private_key: str
    client_email: str
    private_key_id: str = ""


@dataclass(slots=True, frozen=True)
class AppSettings:
    """Ready to use."""

    url: str
    token_url: str
    project: str
    email: str
    key_id: str
    key: str = field(repr=False)
    ca: str = field(repr=False)
    #: of all of it, so that changed settings get a connection and an access token of their own
    fingerprint: str = field(repr=False)


def build_app_settings(settings: Mapping[str, str]) -> AppSettings | None:
    """None where something needed is missing; `check_settings` says what."""
    account = _parse_account(settings.get("service_account", ""))
    if account is None:
        return None
    return AppSettings(
        url=(settings.get("url") or PUBLIC_URL).rstrip("/"),
        token_url=settings.get("token_url") or PUBLIC_TOKEN_URL,
        project=account.project_id,
        email=account.client_email,
        key_id=account.private_key_id,
        key=build_pem(account.private_key),
        ca=build_pem(settings.get("ca", "")),
        fingerprint=build_fingerprint(settings),
    )


def _parse_account(text: str) -> _ServiceAccount | None:
    try:
        account = msgspec.json.decode(text, type=_ServiceAccount)
    except (msgspec.DecodeError, UnicodeError):
        return None
    return account if _PROJECT.fullmatch(account.project_id) and account.client_email else None


def check_settings(settings: Mapping[str, str]) -> None:
    """Raises BadRequest: field and fix."""
    check_fields(NAME, FIELDS, settings)
    for name, default in (("url", PUBLIC_URL), ("token_url", PUBLIC_TOKEN_URL)):
        check_url(NAME, name, settings.get(name) or default)
    check_ca(NAME, settings.get("ca", ""))
    account = _parse_account(settings["service_account"])
    if account is None:
        raise build_refusal(
            NAME,
            "service_account",
            "is not the text of a service account's JSON file with project_id, client_email and private_key",
        )
    try:
        key = load_pem_private_key(build_pem(account.private_key).encode(), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise build_refusal(NAME, "service_account", "holds no RSA private key in private_key; download it again")
