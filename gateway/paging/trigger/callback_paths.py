"""Unguessable paths for what the network reports, one for each thing it reports on; must never be kept as they are, so
that how long a look-up takes tells nothing about them."""

from __future__ import annotations

import hashlib
import secrets
from urllib.parse import urlsplit

#: below the listener's URL; each ends with a name drawn for it
REPORTS, WATCHED = "/3gpp/device-triggering-notifications/", "/3gpp/monitoring-notifications/"
_NAME_BYTES = 24  # 192 random bits
_MOST_NAME_CHARS = 64


class CallbackPaths:
    """`prefix`: a path that may stand before ours, as a proxy leaves it or takes it away."""

    def __init__(self, outside_url: str) -> None:
        self._prefix = urlsplit(outside_url).path.rstrip("/")
        self._key = secrets.token_bytes(32)

    def draw(self, folder: str) -> tuple[str, bytes]:
        """(path, what it is found by)."""
        name = secrets.token_urlsafe(_NAME_BYTES)
        return folder + name, self._digest(name)

    def find(self, path: str) -> tuple[str, bytes] | None:
        """(folder, what to look for) of a path that was asked for; None where it is none of ours."""
        for folder in (REPORTS, WATCHED):
            before, mark, name = path.partition(folder)
            if mark and before in ("", self._prefix) and 0 < len(name) <= _MOST_NAME_CHARS:
                return folder, self._digest(name)
        return None

    def _digest(self, name: str) -> bytes:
        return hashlib.blake2b(name.encode("utf-8", "replace"), key=self._key, digest_size=32).digest()
