"""A user's log, from where a device was on (D2): oldest first; and who of one's friends is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from gateway.im.messaging.presence import Presence
from gateway.im.operation import Ask, Caller, Operation, Reply
from gateway.im.operations.pages import fit
from gateway.model.im_people import Item, build_user_id
from gateway.model.im_ports import LogRecords

#: items read at once: of a page that is full of long ones no more are opened than it has room for
_SLICE = 16


class HistoryAsk(Ask):
    #: a cursor; what is behind it is answered
    after: Annotated[int, Meta(ge=0, le=2**62)] = 0
    #: fewer come where they are too long for one answer
    limit: Annotated[int, Meta(ge=1, le=500)] = 100


class HistoryReply(Reply):
    items: list[Item]
    #: there is more behind the last of them
    more: bool
    #: oldest cursor that is kept, 0: none. Where it is past `after` + 1, what was between is gone
    first: int
    #: newest cursor
    last: int


class PresenceAsk(Ask):
    pass


class PresenceReply(Reply):
    #: ids of friends with a device on line
    available: list[str]


def build_history_operations(log: LogRecords, presence: Presence) -> list[Operation]:
    async def history(caller: Caller, ask: HistoryAsk) -> HistoryReply:
        items, more = fit(_read(log, caller.me, ask.after), ask.limit)
        return HistoryReply(items=items, more=more, first=log.first(caller.me), last=log.last(caller.me))

    async def there(caller: Caller, _: PresenceAsk) -> PresenceReply:
        return PresenceReply(available=[build_user_id(friend) for friend in presence.friends_there(caller.me)])

    return [
        Operation(
            "history", "GET", "/v1/im/history", HistoryAsk, HistoryReply, history, "What happened since a cursor"
        ),
        Operation("presence", "GET", "/v1/im/presence", PresenceAsk, PresenceReply, there, "Which friends are there"),
    ]


def _read(log: LogRecords, user: bytes, after: int) -> Iterator[Item]:
    while items := log.after(user, after, _SLICE):
        yield from items
        after = items[-1].cursor
