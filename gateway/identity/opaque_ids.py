"""The written forms of an opaque id (C2, C6): made of random bits alone, never of anything a network knows.

Canonical is `local@host`, the form of an External Identifier (TS 23.682); `https://host/push/local` is the same as a
URL; `com.MNOcmcc.HOSTguangdong.User987654321` is read too and means 987654321@guangdong.cmcc.com.
"""

from __future__ import annotations

import base64
import re
import secrets
from typing import NamedTuple

LOCAL_CHARS = 26
#: 26 characters of base32 hold 130 bits, all of them drawn
_DRAWN_BYTES = 17
MAX_CHARS = 512
URL_PATH = "/push/"

_LOCAL = re.compile(r"[a-z2-7]{26}")
_LEGACY_LOCAL = r"[A-Za-z0-9]{1,64}"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_LEGACY = re.compile(rf"([A-Za-z]{{2,63}})\.MNO({_LABEL})\.HOST({_LABEL})\.User({_LEGACY_LOCAL})")
HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")


class OpaqueId(NamedTuple):
    """What stands in every form; both parts in lower case."""

    local: str
    host: str

    @property
    def canonical(self) -> str:
        return f"{self.local}@{self.host}"

    @property
    def url(self) -> str:
        return f"https://{self.host}{URL_PATH}{self.local}"

    @property
    def legacy(self) -> str:
        """Empty where the host has not exactly three labels."""
        labels = self.host.split(".")
        if len(labels) != 3:
            return ""
        host, operator, top = labels
        return f"{top}.MNO{operator}.HOST{host}.User{self.local}"


def draw_local() -> str:
    """A fresh one from the system's generator: 130 bits, no counter, nothing constant (C2)."""
    return base64.b32encode(secrets.token_bytes(_DRAWN_BYTES)).decode()[:LOCAL_CHARS].lower()


def parse_opaque_id(text: str) -> OpaqueId | None:
    """None where it is in none of the forms; letters may be of either case."""
    if len(text) > MAX_CHARS or not text.isascii():
        return None
    if (legacy := _LEGACY.fullmatch(text)) is not None:
        top, operator, host, local = (part.lower() for part in legacy.groups())
        return OpaqueId(local, f"{host}.{operator}.{top}")
    lowered = text.lower()
    if lowered.startswith("https://"):
        host, slash, rest = lowered.removeprefix("https://").partition("/")
        prefix = URL_PATH.removeprefix("/")
        local = rest.removeprefix(prefix) if slash and rest.startswith(prefix) else ""
    else:
        local, _, host = lowered.partition("@")
    if _LOCAL.fullmatch(local) is None or HOST.fullmatch(host) is None:
        return None
    return OpaqueId(local, host)
