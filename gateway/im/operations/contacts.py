"""What a user asks of their address book (D9): which of these numbers are users who agreed to be found."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.im.operation import Ask, Caller, Operation, Reply
from gateway.im.ust.discovery import Discovery
from gateway.model.im_people import build_user_id


class FindContacts(Ask):
    numbers: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(min_length=1, max_length=100_000)]
    #: ISO 3166, two capital letters: how numbers without a country code are read; empty: they are not
    region: Annotated[str, Meta(max_length=2)] = ""


class FoundContact(msgspec.Struct):
    #: as it was asked for
    number: str
    user: str

    def __repr__(self) -> str:
        return "FoundContact(hidden)"


class FoundContacts(Reply):
    """A number that is not there is nobody's, or of somebody who is hidden: nothing tells which."""

    found: list[FoundContact]
    #: places, from 0, of those that are no numbers
    unreadable: tuple[int, ...] = ()


class ContactOperations:
    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery

    def operations(self) -> tuple[Operation, ...]:
        return (
            Operation(
                "find_contacts",
                "POST",
                "/v1/im/contacts",
                FindContacts,
                FoundContacts,
                self._find,
                "Which of these numbers are users",
            ),
        )

    async def _find(self, caller: Caller, ask: FindContacts) -> FoundContacts:
        found, unreadable = await self._discovery.find(caller.me, ask.numbers, ask.region, caller.now_ms)
        contacts = [FoundContact(ask.numbers[one.place], build_user_id(one.user)) for one in found]
        return FoundContacts(found=contacts, unreadable=tuple(unreadable))
