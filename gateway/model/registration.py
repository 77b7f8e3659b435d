"""Apps and registrations: who can be pushed to, and by whom."""

from __future__ import annotations

import base64
import binascii
from enum import IntEnum
from typing import NamedTuple

import msgspec

from gateway.model.cohort import Cohort

TOKEN_BYTES = 16
TOKEN_CHARS = 22
#: app version of registrations that stand for a subscriber no device of whom is known: they are in no audience but that
#: of their own token or id
PAGING_ONLY = "paging-only"
#: among a device's addresses: the token of the paging-only registration of the subscriber it says it belongs to. Only
#: who was paged there has it, so it is the proof
CLAIM = "claim"


class Limits(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """What an app or one of its keys may send; 0 = no limit here."""

    #: pushes a second, on average
    per_s: int = 0
    #: pushes at once on top of that; 0 = as many as per_s
    burst: int = 0
    #: pushes a day (UTC)
    per_day: int = 0


class ApiKey(msgspec.Struct):
    """A provider's key; only its hash is kept."""

    id: str
    hash: bytes
    created_at: int  # Unix seconds
    label: str = ""
    limits: Limits = Limits()


class ApnsKey(msgspec.Struct):
    """A provider's key at the APNs door (ES256)."""

    key_id: str  # the JWT's kid
    team_id: str  # its iss
    public_key: str  # PEM


class App(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One tenant: its keys, defaults and addresses. Times in milliseconds, 0 or None = the gateway's default."""

    name: str
    number: int = 0  # assigned by the store
    keys: list[ApiKey] = []
    #: wait this long for the device's ack before the first notifier (B3)
    ack_ms: int = 0
    #: wait this long for an ack after a notifier took it, then recheck (B5)
    notifier_ack_ms: int = 0
    ttl_s: int = 0
    #: notifiers in order, where the registration names none
    fallback: list[str] = []
    #: settings of each notifier, by its name: {"webhook": {"url": "https://…"}}
    notifiers: dict[str, dict[str, str]] = {}
    #: receipts are posted here, signed with the secret
    receipts_url: str = ""
    receipts_secret: str = ""
    #: in the store alone: notifiers and receipts_secret, sealed
    sealed: bytes = b""
    created_at: int = 0
    #: how often it was changed: of two copies in a fleet, the higher is the newer
    changes: int = 0
    limits: Limits = Limits()
    #: pushes of normal urgency and below that one registration gets in an hour and in a day; 0 = no limit
    device_per_hour: int = 0
    device_per_day: int = 0
    #: who may use the Web Push door: "off" nobody, "open" anybody who knows a token, "vapid" who signs (RFC 8292)
    webpush: str = "vapid"
    #: the APNs door: closed while apns_topic is empty
    apns_topic: str = ""
    apns_keys: list[ApnsKey] = []
    #: SHA-256 of client certificates that may push, lower-case hex
    apns_certificates: list[str] = []


class Registration(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One (device, app, account) and its token (A1)."""

    number: int  # dense, assigned by the store; never reused while live
    token: bytes  # TOKEN_BYTES random-looking bytes
    device: str
    app: str
    version: str
    account: str = ""
    alias: str = ""
    tags: list[str] = []
    addresses: dict[str, str] = {}
    #: when each was last registered, Unix ms, exact to a day; since the registration itself where it is not named
    addressed_at: dict[str, int] = {}
    fallback: list[str] | None = None
    created_at: int = 0  # Unix seconds
    revoked_at: int = 0
    #: the device said this account is not in use there: nothing for it leaves the gateway until it registers again (A5)
    signed_out: bool = False
    #: how many earlier tokens of this triple were revoked
    generation: int = 0
    os: str = ""
    locale: str = ""
    timezone: str = ""
    quiet: str = ""

    #: only who signs with this key may push through the Web Push door (RFC 8292 §4): uncompressed P-256 point,
    #: base64url; empty = no such lock
    vapid_key: str = ""

    @property
    def cohort(self) -> Cohort:
        return Cohort(self.version, self.os, self.locale, self.timezone, self.quiet)


class Profile(NamedTuple):
    """What a device or its provider says of a registration; None leaves it as it is, "" takes it away."""

    os: str | None = None
    locale: str | None = None
    timezone: str | None = None
    quiet: str | None = None


NO_PROFILE = Profile()


class Loss(IntEnum):
    """Why a token is dead; the number is stored, so never renumber."""

    REVOKED = 0  # by the provider
    FORGOTTEN = 1  # the device gave it up


class DeadToken(NamedTuple):
    """A token that was live once."""

    app: str
    at_ms: int  # Unix milliseconds
    reason: Loss


class Whereabouts(NamedTuple):
    """What is known of a token, whoever asks. Neither: it never was, or is forgotten."""

    number: int = -1  # of a live registration
    dead: DeadToken | None = None


def build_token(token: bytes) -> str:
    """Text form of a token: base64url without padding, 22 characters."""
    return base64.urlsafe_b64encode(token).rstrip(b"=").decode()


def parse_token(text: str) -> bytes | None:
    """Token bytes, or None where the text is no canonical token."""
    if len(text) != TOKEN_CHARS:
        return None
    try:
        token = base64.b64decode(text.encode("ascii") + b"==", altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError, ValueError):
        return None
    return token if build_token(token) == text else None
