"""Keys with which a user without a device connection asks over REST: `usk_` and 256 random bits, kept as their SHA-256;
must never keep or show a key itself."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections import OrderedDict

from gateway.config.im_section import Im
from gateway.im.ust.rates import DAY_MS
from gateway.model.errors import StoreUnavailable
from gateway.model.im_ports import UserRecords

_PREFIX = "usk_"
_KEY = re.compile(r"usk_[A-Za-z0-9_-]{43}")
#: keys whose last renewal is known (about 200 bytes each); one that is forgotten is renewed at its next use
MAX_RENEWED = 100_000


class Sessions:
    """Loop thread only."""

    def __init__(self, users: UserRecords, settings: Im) -> None:
        self._users = users
        self._ms = round(settings.session_days * DAY_MS)
        #: not written at every use
        self._renew_ms = min(DAY_MS, self._ms // 10)
        self._renewed: OrderedDict[bytes, int] = OrderedDict()

    def make(self, user: bytes, now_ms: int) -> tuple[str, asyncio.Future[None]]:
        """A new key, good once the future resolves. StoreUnavailable."""
        key = _PREFIX + secrets.token_urlsafe(32)
        digest = _digest(key)
        done = self._users.put_session(digest, user, now_ms + self._ms)
        self._note(digest, now_ms)
        return key, done

    def user(self, key: str, now_ms: int) -> bytes | None:
        """Whose it is; None where it is none, unknown, or was not used for too long. A use keeps it alive."""
        if _KEY.fullmatch(key) is None:
            return None
        digest = _digest(key)
        user = self._users.session(digest)
        if user is None:
            self._renewed.pop(digest, None)
            return None
        if abs(now_ms - self._renewed.get(digest, -DAY_MS)) >= self._renew_ms:
            self._renew(digest, user, now_ms)
        return user

    def end(self, key: str) -> asyncio.Future[None] | None:
        """None where it is no key at all. StoreUnavailable."""
        if _KEY.fullmatch(key) is None:
            return None
        digest = _digest(key)
        self._renewed.pop(digest, None)
        return self._users.remove_session(digest)

    def _renew(self, digest: bytes, user: bytes, now_ms: int) -> None:
        try:
            done = self._users.put_session(digest, user, now_ms + self._ms)
        except StoreUnavailable:
            return  # it holds a while longer, and is renewed at a later use
        done.add_done_callback(_look_at)
        self._note(digest, now_ms)

    def _note(self, digest: bytes, now_ms: int) -> None:
        self._renewed[digest] = now_ms
        self._renewed.move_to_end(digest)
        if len(self._renewed) > MAX_RENEWED:
            self._renewed.popitem(last=False)


def _look_at(done: asyncio.Future[None]) -> None:
    if not done.cancelled():
        done.exception()  # the next use tries again


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
