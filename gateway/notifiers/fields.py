"""Fields of a notifier's settings: which there are, which are secret, how a bad one is refused; must never repeat a
value, for it may be a key."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from gateway.model.errors import BadRequest
from gateway.model.registration import App


class Field(NamedTuple):
    name: str
    says: str
    secret: bool = False
    required: bool = False
    default: str = ""


def build_refusal(notifier: str, key: str, message: str) -> BadRequest:
    """The error of one setting: its name, what is wrong and the fix."""
    return BadRequest(f"{key} {message}.", field=f"notifiers.{notifier}.{key}")


def check_fields(notifier: str, fields: Sequence[Field], settings: Mapping[str, str]) -> None:
    """BadRequest for a name that is none and for one that is missing."""
    known = {field.name for field in fields}
    for key in settings:
        if key not in known:
            raise build_refusal(notifier, key, f"is no setting of {notifier}; there are: {', '.join(sorted(known))}")
    for field in fields:
        if field.required and not settings.get(field.name):
            raise build_refusal(notifier, field.name, f"is missing: {field.says}")


def build_pem(text: str) -> str:
    """A PEM with its line ends put right: one that was pasted by hand often has them as two characters each."""
    if "\n" not in text.strip():
        text = text.replace("\\r", "").replace("\\n", "\n")
    return text.strip() + "\n" if text.strip() else ""


def is_host(host: str) -> bool:
    """Can a resolver be asked for this name (lower case, without brackets)? It raises no OSError for what is none."""
    try:
        (host if host.isascii() else httpx.URL(f"https://{host}").raw_host.decode()).encode("idna")
    except (UnicodeError, httpx.InvalidURL):
        return False
    return True


def is_clean(url: str) -> bool:
    """Nothing in it that some would leave out and others send as it is."""
    return not any(char <= " " or char == "\x7f" for char in url)


def check_url(notifier: str, key: str, url: str) -> None:
    """An https URL with a host and nothing behind the path."""
    try:
        parts = urlsplit(url)
        usable = (
            is_clean(url)
            and is_host(parts.hostname or "")
            and parts.scheme == "https"
            and bool(parts.hostname)
            and not parts.query
            and not parts.fragment
        )
        usable = usable and parts.username is None and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise build_refusal(notifier, key, "is no https URL; write it as https://push.example.com")


def holds_private_key(text: str) -> bool:
    """Is there a private key in this PEM, or PEMs? Settings that are shown must have none."""
    return "PRIVATE KEY-----" in text


@lru_cache(maxsize=1_024)
def _hash(settings: tuple[tuple[str, str], ...]) -> str:
    return hashlib.sha256(repr(sorted(settings)).encode()).hexdigest()[:16]


def build_fingerprint(settings: Mapping[str, str]) -> str:
    """Of all of it: what changes gets a lane, connections and tokens of its own. Tells nothing of what is in it."""
    return _hash(tuple(settings.items()))


def build_lane(app: App, notifier: str, upstream: str = "") -> str:
    """Name of a lane. With the app's settings as they are now: a corrected one does not inherit the rest, nor the open
    circuit, of what was wrong."""
    return f"{app.name} {upstream or '-'} {build_fingerprint(app.notifiers.get(notifier, {}))}"


def check_ca(notifier: str, ca: str) -> None:
    if not ca:
        return
    if holds_private_key(ca):
        raise build_refusal(
            notifier, "ca", "holds a private key, and is shown to whoever may read the app; leave it out"
        )
    try:
        ssl.create_default_context(cadata=build_pem(ca))
    except (ssl.SSLError, ValueError):
        raise build_refusal(
            notifier, "ca", "holds no certificate; give the PEM of the authority (-----BEGIN CERTIFICATE-----…)"
        ) from None
