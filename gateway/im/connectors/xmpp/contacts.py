"""A roster and presences (RFC 6121) → contacts; must raise nothing for whatever XML it is given."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.im.connectors.xmpp import words
from gateway.im.connectors.xmpp.incoming import cut
from gateway.im.connectors.xmpp.words import CLIENT, Element, split_jid
from gateway.model.im import Contact

#: longest address (RFC 7622 §3.1) and name
ADDRESS_CHARACTERS = 3_071
NAME_BYTES = 1_024


def parse_roster(answer: Element) -> Iterator[Contact]:
    for item in answer.iterfind(f"{words.ROSTER}query/{words.ROSTER}item"):
        _, contact = parse_item(item)
        if contact is not None:
            yield contact


def parse_item(item: Element) -> tuple[str, Contact | None]:
    """Whom it is about, empty where that is nobody; None: gone."""
    address, resource = split_jid(item.get("jid", ""))
    if not address or resource or len(address) > ADDRESS_CHARACTERS:
        return "", None
    subscription = item.get("subscription", "none")
    if subscription == "remove":
        return address, None
    return address, Contact(address, cut(item.get("name", ""), NAME_BYTES), subscription == "both")


def parse_presence(presence: Element) -> str:
    """What they say of themselves."""
    return cut(presence.findtext(f"{CLIENT}status") or "", NAME_BYTES)
