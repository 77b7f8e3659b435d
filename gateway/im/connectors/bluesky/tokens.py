"""Session tokens of accounts that were connected, in memory only: servers allow few logins by password in a day, and a
telephone comes and goes more often. Must never be printed, and holds no password."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict

from gateway.im.connectors.bluesky.form import Login

#: accounts; past it those that were away longest log in by password
_MOST = 20_000


class Tokens:
    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._kept: OrderedDict[bytes, str] = OrderedDict()

    def take(self, login: Login) -> str:
        """Empty where there is none. Taken is gone: who still can use it puts it back."""
        return self._kept.pop(self._name(login), "")

    def keep(self, login: Login, session: str) -> None:
        self._kept[self._name(login)] = session
        if len(self._kept) > _MOST:
            self._kept.popitem(last=False)

    def _name(self, login: Login) -> bytes:
        """Other credentials, another name."""
        text = "\0".join((login.url, login.handle, login.password))
        return hashlib.blake2b(text.encode("utf-8", "replace"), key=self._key).digest()

    def __repr__(self) -> str:
        return f"Tokens({len(self._kept)})"
