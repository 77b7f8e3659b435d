"""Contacts of a bound account (D3), page by page: asked of the network with the first page, and kept for the others for
a little while."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import NamedTuple

from gateway.model.im import Contact
from gateway.model.im_ports import Gate, Supervision

#: lists kept for their next pages; past it the oldest is asked for again
MAX_KEPT = 32
KEPT_S = 60.0


class _Kept(NamedTuple):
    until: float
    contacts: list[Contact]


class AccountContacts:
    """Loop thread only."""

    def __init__(self, gate: Gate, supervision: Supervision) -> None:
        self._gate = gate
        self._supervision = supervision
        self._kept: OrderedDict[int, _Kept] = OrderedDict()

    async def page(self, me: bytes, word: int | str, after: str, limit: int) -> tuple[list[Contact], bool]:
        """Those behind `after` by their remote ids, and whether there are more. GatewayError."""
        number = self._gate.own_account(me, word).number
        contacts = await self._contacts(number, is_first=not after)
        rest = [contact for contact in contacts if contact.remote_id > after]
        has_more = len(rest) > limit
        if not has_more:
            self._kept.pop(number, None)
        return rest[:limit], has_more

    async def _contacts(self, number: int, *, is_first: bool) -> list[Contact]:
        now = asyncio.get_running_loop().time()
        kept = self._kept.get(number)
        if kept is not None and kept.until > now and not is_first:
            return kept.contacts
        contacts = sorted(await self._supervision.contacts(number), key=lambda contact: contact.remote_id)
        while self._kept and (len(self._kept) >= MAX_KEPT or next(iter(self._kept.values())).until <= now):
            self._kept.popitem(last=False)
        self._kept.pop(number, None)
        self._kept[number] = _Kept(now + KEPT_S, contacts)
        return contacts
