"""Opaque ids in the place of tokens (C1, C12): from a live id to a registration, by the same index as a token; must
never lead an id to a device on that device's word alone, nor tell an unknown id from one that ended.

A subscriber has one *paging-only* registration in an app. Its device id is a keyed hash of the subscriber's handle that
nobody can log in with, so its token is derived like any other, stands in the same index and outlives every restart; all
ids of the subscriber lead to it. It has no link ever: its pushes go to the pagers, to the id it was last reached by.

Whoever pages it tells the terminal its token (`paging/app_payload.py`). A device that registers with this token as its
`claim`, beside one of the subscriber's live ids, has shown that pages to the subscriber come to it: ids lead to that
device's registration then, channel first, as long as one of its addresses is a live id of the same subscriber.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Protocol

from gateway.identity.resolver import Found, Resolver
from gateway.metrics import Metric, Metrics
from gateway.model.errors import GatewayError, UnknownApp
from gateway.model.ports import Directory
from gateway.model.registration import CLAIM, PAGING_ONLY, Registration, build_token, parse_token

#: among the addresses of a paging-only registration: the id it was last reached by; no pager's, so none takes it away
_ID = "id"
#: a registration has at most 8 addresses: the id, a claim, and these
_MOST_PAGERS = 6
#: of device ids that stand for subscribers
_PREFIX = "subscriber:"
_HASH_BYTES = 24


class Registrations(Directory, Protocol):
    """What a directory can do beside what delivery asks of it."""

    def known(self, device: str, app: str, account: str) -> tuple[bytes, int, int]:
        """(token, generation, number) of a triple; the number is -1 where it has no live registration."""
        ...

    def register(
        self,
        device: str,
        app: str,
        version: str,
        account: str,
        *,
        addresses: Mapping[str, str] | None = None,
        fallback: Sequence[str] | None = None,
    ) -> tuple[Registration, bool, asyncio.Future[None] | None]:
        """(registration, created, its commit): made where the triple has none. Usable at once."""
        ...


class OpaqueIndex:
    """model.opaque_tokens.OpaqueTokens. Loop thread only. `pagers`: names of those that are configured; `key`: a secret
    that stays the same."""

    def __init__(
        self, resolver: Resolver, directory: Registrations, pagers: Sequence[str], key: bytes, metrics: Metrics
    ) -> None:
        self._resolver = resolver
        self._directory = directory
        self._pagers = tuple(pagers)[:_MOST_PAGERS]
        self._key = key
        self._metrics = metrics

    @property
    def has_pagers(self) -> bool:
        return bool(self._pagers)

    # --- look-up --------------------------------------------------------------------------------------------

    def find(self, text: str, app: str) -> int:
        found, paged = self._look(text, app)
        return -1 if found is None or paged < 0 else self._lead(paged, found, app)

    def reach(self, text: str, app: str) -> int:
        found, paged = self._look(text, app)
        if found is None:
            return -1
        if paged < 0:
            return self._make(found, app) if self._pagers else -1
        if self._pagers:
            self._refresh(paged, found, app)
        return self._lead(paged, found, app)

    def leads(self, text: str, app: str) -> bool:
        """Would a push reach somebody? Makes nothing."""
        found, paged = self._look(text, app)
        return found is not None and (paged >= 0 or bool(self._pagers))

    def select(self, local: str) -> tuple[str, str]:
        """(canonical form, app) of an id in the path of its URL form; empty where it is not one of a single app."""
        found = self._resolver.select(local)
        return ("", "") if found is None else (found.canonical, found.issued.name)

    def _look(self, text: str, app: str) -> tuple[Found | None, int]:
        """Whom it stands for, and the number of its paging-only registration, -1 where there is none."""
        found = self._resolver.look_up(text, app)
        # the triple is built and looked up whatever comes of it
        device = self._device(b"" if found is None else found.subscriber.handle)
        return found, self._directory.known(device, app, "")[2]

    def _lead(self, paged: int, found: Found, app: str) -> int:
        claimed = self._claimed(paged, found, app)
        return claimed if claimed >= 0 else paged

    def _device(self, handle: bytes) -> str:
        return _PREFIX + hmac.digest(self._key, handle, "sha256")[:_HASH_BYTES].hex()

    def _claimed(self, number: int, found: Found, app: str) -> int:
        """The registration of a device that showed that it is the subscriber's, or -1."""
        paged = self._directory.registration(number)
        claim = paged.addresses.get(CLAIM, "") if paged is not None else ""
        claimed = self._directory.find(claim, app) if claim else -1
        device = self._directory.registration(claimed) if claimed >= 0 else None
        if device is None or device.signed_out or not self._belongs(device, found.subscriber.handle, found.canonical):
            return -1
        return claimed

    def _belongs(self, device: Registration, handle: bytes, canonical: str = "") -> bool:
        """Is one of its addresses a live id of the subscriber? A phone that was given away has none by and by."""
        addresses = {address for channel, address in device.addresses.items() if channel != CLAIM}
        if canonical in addresses:
            return True
        found = (self._resolver.look_up(address, device.app) for address in sorted(addresses))
        return any(each is not None and each.subscriber.handle == handle for each in found)

    # --- paging-only registrations --------------------------------------------------------------------------

    def is_ended(self, registration: Registration) -> bool:
        """Is it a paging-only one that no id leads to any more?"""
        return is_paging_only(registration) and (
            self._resolver.look_up(registration.addresses.get(_ID, ""), registration.app) is None
        )

    def _make(self, found: Found, app: str) -> int:
        device = self._device(found.subscriber.handle)
        addresses, chain = self._wanted(found, app)
        registration, _, _ = self._directory.register(device, app, PAGING_ONLY, "", addresses=addresses, fallback=chain)
        self._metrics.count(Metric.PAGING_ONLY, label="made")
        return registration.number

    def _wanted(self, found: Found, app: str) -> tuple[dict[str, str], list[str]]:
        """The id at every pager; the app's own chain as far as it pages, else every pager."""
        record = self._directory.app(app)
        if record is None:
            raise UnknownApp
        chain = [name for name in record.fallback if name in self._pagers]
        return dict.fromkeys((_ID, *self._pagers), found.canonical), chain or list(self._pagers)

    def _refresh(self, number: int, found: Found, app: str) -> None:
        """It is paged at the id that lasts longest of those a provider used. Where this can not be written now, what
        there is goes on."""
        paged = self._directory.registration(number)
        if paged is None:
            return
        addresses, chain = self._wanted(found, app)
        known = paged.addresses.get(_ID, "")
        is_paged = any(name in paged.addresses for name in self._pagers)
        if (
            paged.fallback == chain
            and is_paged
            and (found.canonical == known or not self._lasts_longer(known, found, app))
        ):
            return  # also where a pager said that this address is dead: it is not tried again with the same id
        kept = {CLAIM: paged.addresses[CLAIM]} if CLAIM in paged.addresses else {}
        with contextlib.suppress(GatewayError):
            self._directory.update(number, addresses=addresses | kept, fallback=chain)
            self._metrics.count(Metric.PAGING_ONLY, label="renewed")

    def _lasts_longer(self, known: str, found: Found, app: str) -> bool:
        """Than the id it is paged at? So two ids that are good at once do not take turns."""
        other = self._resolver.look_up(known, app)
        if other is None:
            return True
        ours, theirs = found.issued.until_ms, other.issued.until_ms
        return bool(theirs) and (not ours or theirs < ours)

    # --- claims ---------------------------------------------------------------------------------------------

    def claim(self, registration: Registration) -> bool:
        """Nothing is said of what became of it: the device would learn which tokens there are."""
        proof = registration.addresses.get(CLAIM, "")
        # a token and nothing else: an id leads to the same registration, and whoever was told one may know it
        number = self._directory.find(proof, registration.app) if parse_token(proof) is not None else -1
        paged = self._directory.registration(number) if number >= 0 else None
        if paged is None or not is_paging_only(paged) or not self._is_proof(registration, paged):
            self._metrics.count(Metric.PAGING_ONLY, label="claim_refused")
            return True
        token = build_token(registration.token)
        if paged.addresses.get(CLAIM) == token:
            return False
        with contextlib.suppress(GatewayError):  # it says so again when it connects the next time
            self._directory.update(number, addresses=paged.addresses | {CLAIM: token})
            self._metrics.count(Metric.PAGING_ONLY, label="claimed")
        return True

    def _is_proof(self, registration: Registration, paged: Registration) -> bool:
        found = (
            self._resolver.look_up(address, registration.app)
            for channel, address in sorted(registration.addresses.items())
            if channel != CLAIM
        )
        return any(each is not None and self._device(each.subscriber.handle) == paged.device for each in found)


def is_paging_only(registration: Registration) -> bool:
    return registration.version == PAGING_ONLY and registration.device.startswith(_PREFIX)
