"""Page keys of registrations and tickets of invitations (C13); must never need a row in a store for either.

A page key is derived from the server's key and the token: a device that registers again gets the same one, and another
once its token is revoked. A ticket is one block under the app's cipher, so that the gateway alone can make one or read
it. What a ticket says is therefore true, though it comes back through a device and an app's server.

```
0-5    sequence of the push
6-9    number of the registration
10-13  expiry, Unix seconds
14-15  HMAC-SHA-256 of these, the AID and the index of the server, the first 2 bytes
```

A made-up block is taken with a chance of 2^-48 for a wrong registration or check, and less for the expiry; guesses are
counted, and the app's server asks through its own API key.
"""

from __future__ import annotations

import hmac
import struct
import time
from collections.abc import Callable
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

#: what the server's secret for service pages is derived for
PURPOSE = b"service pages"
_CHECK_BYTES = 2
_PUSH_BYTES = 6
_REST = struct.Struct(">II")


class Ticket(NamedTuple):
    """What one says, once it was read."""

    push: int
    registration: int
    expires_s: int


class ServiceKeys:
    """`secret`: the server's, of at least 16 bytes, the same on every start."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise ValueError("the key of service pages takes at least 16 bytes")
        self._secret = secret

    def page_key(self, token: bytes) -> bytes:
        """32 bytes; of one registration."""
        return hmac.digest(self._secret, b"page key\0" + token, "sha256")

    def build_ticket(self, app: str, ticket: Ticket, aid: str, server: int) -> bytes:
        plain = ticket.push.to_bytes(_PUSH_BYTES, "big") + _REST.pack(ticket.registration, ticket.expires_s)
        return self._cipher(app).encryptor().update(plain + self._check(app, plain, aid, server))

    def parse_ticket(self, app: str, block: bytes, aid: str, server: int) -> Ticket | None:
        """None where the gateway has not made it for this app, AID and server."""
        plain = self._cipher(app).decryptor().update(block)
        said, check = plain[:-_CHECK_BYTES], plain[-_CHECK_BYTES:]
        if not hmac.compare_digest(check, self._check(app, said, aid, server)):
            return None
        registration, expires_s = _REST.unpack_from(said, _PUSH_BYTES)
        return Ticket(int.from_bytes(said[:_PUSH_BYTES], "big"), registration, expires_s)

    def _cipher(self, app: str) -> Cipher[ECB]:
        # ECB is the bare permutation, which is what is wanted: one block, and no two are the same
        key = hmac.digest(self._secret, b"ticket cipher\0" + app.encode(), "sha256")[:16]
        return Cipher(AES(key), ECB())  # noqa: S305

    def _check(self, app: str, plain: bytes, aid: str, server: int) -> bytes:
        said = app.encode() + b"\0" + aid.encode() + b"\0" + bytes((server,)) + plain  # no name has a zero byte
        return hmac.digest(self._secret, b"ticket check\0" + said, "sha256")[:_CHECK_BYTES]


class Counters:
    """Numbers of pages, which devices tell a replayed page by: always a larger one, over restarts too.

    They are microseconds of the clock, so nothing is stored. That is safe: a device keeps the last 64 numbers and
    refuses one that it has, or that is below all of them; so a clock that was put back costs at most the pages of the
    time it was put back by, and only of a device that had 64 pages in it. It never makes an old page good.
    """

    def __init__(self, clock: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._clock = clock
        self._last = 0

    def next(self) -> int:
        self._last = max(self._last + 1, self._clock())
        return self._last
