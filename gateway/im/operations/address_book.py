"""The contacts of a bound account, as its network has them now (D3): nothing of it is kept."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from gateway.im.operation import Ask, Caller, Operation, Reply
from gateway.model.im import Contact
from gateway.model.im_ports import Gate, Supervision


class ContactsAsk(Ask):
    #: number, or the user's own name for it
    account: Annotated[str, Meta(min_length=1, max_length=200)]
    #: a page begins behind this contact's remote id
    after: Annotated[str, Meta(max_length=2_048)] = ""
    limit: Annotated[int, Meta(ge=1, le=500)] = 100


class ContactsReply(Reply):
    #: by remote id
    contacts: list[Contact]
    more: bool


def build_address_book_operations(gate: Gate, supervision: Supervision) -> list[Operation]:
    async def contacts(caller: Caller, ask: ContactsAsk) -> ContactsReply:
        word = ask.account
        account = gate.own_account(caller.me, int(word) if word.isascii() and word.isdigit() else word)
        found = sorted(await supervision.contacts(account.number), key=lambda contact: contact.remote_id)
        page = [contact for contact in found if contact.remote_id > ask.after]
        return ContactsReply(contacts=page[: ask.limit], more=len(page) > ask.limit)

    return [
        Operation(
            "contacts",
            "GET",
            "/v1/im/accounts/{account}/contacts",
            ContactsAsk,
            ContactsReply,
            contacts,
            "Contacts of a bound account, as its network has them now",
        )
    ]
