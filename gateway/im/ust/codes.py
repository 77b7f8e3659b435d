"""One-time codes (D1): made, counted, checked once; must never keep a code, or an address, as it is.

Nothing here knows whether an address is a user's: a code for one that is costs the same as for one that is not. A code
holds for whoever asked for it: the same device, or REST; so nobody can use up the tries of a device's code from
elsewhere. Over REST all who ask are one: there somebody else's tries end a code, and their asking replaces it. What
guessing brings: codes_per_day times code_tries guesses a day at one in a million each.

What it can not prevent: somebody who asks for codes for another's address all the time leaves them none for that hour
or day; and a number that the telephone company gave to somebody else lets that person in.
"""

from __future__ import annotations

import hmac
import math
import secrets
from collections import OrderedDict
from dataclasses import dataclass

from gateway.config.im_section import Im
from gateway.im.ust.rates import DAY_MS, HOUR_MS, Rate
from gateway.metrics.names import Metric
from gateway.metrics.sink import Metrics
from gateway.model.errors import BadRequest, TooManyRequests

DIGITS = 6
#: what a code is for, where it is not for adding an address to a user (then it is the user)
SIGN_IN = b""
_ALL = b"all"


@dataclass(slots=True)
class _Code:
    digest: bytes
    until_ms: int
    tries: int = 0


class Codes:
    """Loop thread only."""

    def __init__(self, settings: Im, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._key = secrets.token_bytes(32)  # of this process: a code does not outlive it
        most = settings.codes_total_per_hour
        # as many addresses as there are codes: no count is ever forgotten
        self._by_address = Rate("codes", settings.codes_per_hour, HOUR_MS, metrics, max_keys=most)
        self._by_day = Rate("codes", settings.codes_per_day, DAY_MS, metrics, max_keys=24 * most)
        self._by_device = Rate("codes", settings.codes_per_hour, HOUR_MS, metrics, max_keys=most)
        self._all = Rate("codes", most, HOUR_MS, metrics)
        #: by age; those that are over go when the next one is made
        self._codes: OrderedDict[bytes, _Code] = OrderedDict()
        self._max_codes = most * (math.ceil(settings.code_s / 3_600) + 1)

    def make(self, purpose: bytes, address: str, token: bytes | None, now_ms: int) -> str:
        """A new code; an older one for the same is worth nothing from now on. TooManyRequests."""
        named = self._hash(b"address", address.encode())
        for rate, key, limit in (
            (self._by_address, named, "address"),
            (self._by_day, named, "address"),
            (self._by_device, token or b"", "device"),
            (self._all, _ALL, "total"),
        ):
            if (key or limit != "device") and not rate.room(key, now_ms):
                self._metrics.count(Metric.IM_CODES, label=limit)
                raise TooManyRequests("too many codes were asked for", after_ms=rate.after_ms(now_ms))
        self._by_address.take(named, now_ms)
        self._by_day.take(named, now_ms)
        self._all.take(_ALL, now_ms)
        if token is not None:
            self._by_device.take(token, now_ms)
        code = f"{secrets.randbelow(10**DIGITS):0{DIGITS}d}"
        key = self._place(purpose, address, token)
        self._codes.pop(key, None)
        self._sweep(now_ms)
        self._codes[key] = _Code(self._digest(key, code), now_ms + round(self._settings.code_s * 1000))
        return code

    def check(self, purpose: bytes, address: str, token: bytes | None, code: str, now_ms: int) -> None:
        """BadRequest, the same for a wrong code, one that is over, used or out of tries, and where there was none."""
        key = self._place(purpose, address, token)
        kept = self._codes.get(key)
        given = self._digest(key, code)
        is_right = hmac.compare_digest(given, kept.digest if kept is not None else bytes(32))
        if kept is not None:
            if is_right and now_ms < kept.until_ms:
                self._metrics.count(Metric.IM_CODES, label="right")
                return
            kept.tries += 1
            if kept.tries >= self._settings.code_tries or now_ms >= kept.until_ms:
                del self._codes[key]
        self._metrics.count(Metric.IM_CODES, label="wrong")
        raise BadRequest("this code is wrong, used or too old: try again, or ask for another one", field="code")

    def use(self, purpose: bytes, address: str, token: bytes | None) -> None:
        """It was right, and is worth nothing from now on."""
        self._codes.pop(self._place(purpose, address, token), None)

    def __len__(self) -> int:
        return len(self._codes)

    def _sweep(self, now_ms: int) -> None:
        while self._codes:
            key, oldest = next(iter(self._codes.items()))
            if oldest.until_ms > now_ms and len(self._codes) < self._max_codes:
                break
            del self._codes[key]

    def _place(self, purpose: bytes, address: str, token: bytes | None) -> bytes:
        return self._hash(b"place", purpose, token or b"", address.encode())

    def _digest(self, key: bytes, code: str) -> bytes:
        return self._hash(b"code", key, code.encode("utf-8", "surrogatepass"))

    def _hash(self, *parts: bytes) -> bytes:
        keyed = hmac.new(self._key, digestmod="sha256")
        for part in parts:
            keyed.update(len(part).to_bytes(4))
            keyed.update(part)
        return keyed.digest()
