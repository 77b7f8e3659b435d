"""Our users among themselves, with no network of anybody else (D5, D10): written into both sides' logs in one commit;
must never write to somebody whom UST does not call reachable.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

import msgspec

from gateway.im.messaging.delivery import Deliverer
from gateway.im.messaging.draft import Draft
from gateway.im.messaging.pace import Pace
from gateway.im.messaging.results import observe
from gateway.metrics import Metric, Metrics
from gateway.model.errors import GatewayError, InvalidField, TooManyRequests
from gateway.model.im import OWN, Conversation, ConversationKind, Media, Person
from gateway.model.im_people import Item, ItemKind, build_user_id, parse_group_id, parse_user_id
from gateway.model.im_ports import Gate, MediaStore, UserRecords

#: pushes whose acks are reported to senders; past it the oldest is no longer (counted)
MOST_PUSHES = 200_000
#: characters of an id that is made here
_MOST_ID = 32


class Sent(NamedTuple):
    remote_id: str
    done: list[asyncio.Future[None]]


class _Pushed:
    """One message on its way to the devices of one user: shared by the pushes to each of them."""

    __slots__ = ("is_told", "receiver", "remote_id", "sender")

    def __init__(self, sender: bytes, receiver: bytes, remote_id: str) -> None:
        self.sender = sender
        self.receiver = receiver
        self.remote_id = remote_id
        self.is_told = False


class OwnMessages:
    def __init__(
        self,
        gate: Gate,
        users: UserRecords,
        deliverer: Deliverer,
        media: MediaStore,
        metrics: Metrics,
        clock: Callable[[], int],
        per_minute: int,
    ) -> None:
        self._gate = gate
        self._users = users
        self._deliverer = deliverer
        self._media = media
        self._metrics = metrics
        self._clock = clock
        self._pushed: OrderedDict[int, _Pushed] = OrderedDict()
        # a log holds so many items: without a bound, marks of a friend would drive out what was written
        self._marks, self._signs = Pace(per_minute), Pace(per_minute)

    # --- messages -------------------------------------------------------------------------------------------------

    def send(self, me: bytes, to: Conversation, draft: Draft, media: tuple[Media, ...], seed: str) -> Sent:
        """`seed`: makes the same id again, empty for none. GatewayError where `me` may not, or nothing can be kept."""
        now_ms = self._clock()
        receivers = self._receivers(me, to)
        if draft.replaces and not self._deliverer.has_sent(me, to, draft.replaces):
            raise InvalidField("you have sent no such message in this conversation", field="replaces")
        remote_id = _build_remote_id(now_ms, me, to, seed)
        envelope = msgspec.structs.replace(
            draft.address(to, OWN, media, self._person(me), ""), remote_id=remote_id, at_remote_ms=now_ms, at_ms=now_ms
        )
        done = []
        for receiver in receivers:
            for one in media:
                self._media.share(one.ref, receiver)
            theirs = msgspec.structs.replace(envelope, conversation=_seen_by(me, to))
            appended = self._deliverer.append(receiver, [Item(ItemKind.MESSAGE, now_ms, envelope=theirs)])
            done.append(appended.done)
            sequences = self._deliverer.push(receiver, appended.items)
            if to.kind is ConversationKind.DM:
                self._remember(sequences, _Pushed(me, receiver, remote_id))
        mine = msgspec.structs.replace(envelope, sender=self._person(me, is_self=True))
        done.append(self._deliverer.deliver(me, [Item(ItemKind.MESSAGE, now_ms, envelope=mine)]).done)
        self._metrics.count(Metric.IM_ACCEPTED, label=OWN)
        return Sent(remote_id, done)

    def mark_read(self, me: bytes, conversation: Conversation, remote_id: str) -> list[asyncio.Future[None]]:
        """The others learn it (D10), and one's own other devices."""
        now_ms = self._clock()
        receivers = self._receivers(me, conversation)
        if len(remote_id) > _MOST_ID:
            raise InvalidField("this is no message of ours", field="remote_id")
        _pay(self._marks, me, now_ms, "read marks")
        done = []
        for receiver in receivers:
            item = Item(
                ItemKind.READ,
                now_ms,
                conversation=_seen_by(me, conversation),
                by=self._person(me),
                remote_id=remote_id,
            )
            done.append(self._deliverer.deliver(receiver, [item]).done)
        item = Item(
            ItemKind.READ,
            now_ms,
            conversation=conversation,
            by=self._person(me, is_self=True),
            remote_id=remote_id,
        )
        done.append(self._deliverer.deliver(me, [item]).done)
        return done

    def typing(self, me: bytes, conversation: Conversation, *, is_typing: bool) -> None:
        now_ms = self._clock()
        state = "typing" if is_typing else "paused"
        receivers = self._receivers(me, conversation)
        _pay(self._signs, me, now_ms, "signs of typing")
        for receiver in receivers:
            seen = _seen_by(me, conversation)
            item = Item(ItemKind.TYPING, now_ms, conversation=seen, by=self._person(me), state=state)
            self._deliverer.tell(receiver, item)

    # --- what became of them -----------------------------------------------------------------------------------------

    def on_acked(self, sequence: int) -> None:
        """A device has taken a push: the sender is told, once for each message."""
        pushed = self._pushed.pop(sequence, None)
        if pushed is None or pushed.is_told:
            return
        pushed.is_told = True
        item = Item(
            ItemKind.DELIVERED,
            self._clock(),
            conversation=Conversation(ConversationKind.DM, build_user_id(pushed.receiver)),
            by=self._person(pushed.receiver),
            remote_id=pushed.remote_id,
        )
        try:
            self._deliverer.deliver(pushed.sender, [item]).done.add_done_callback(observe)
        except GatewayError:
            self._metrics.count(Metric.IM_DROPPED, label="delivered")

    def _remember(self, sequences: list[int], pushed: _Pushed) -> None:
        for sequence in sequences:
            self._pushed[sequence] = pushed
        while len(self._pushed) > MOST_PUSHES:
            self._pushed.popitem(last=False)
            self._metrics.count(Metric.IM_DROPPED, label="delivered")

    # --- people ------------------------------------------------------------------------------------------------------

    def _receivers(self, me: bytes, to: Conversation) -> list[bytes]:
        """By UST's word. GatewayError."""
        if to.kind is ConversationKind.DM:
            other = parse_user_id(to.remote_id)
            if other is None:
                raise InvalidField("not the id of a user: user_ and 32 hex digits", field="user")
            self._gate.check_reachable(me, other)
            return [other]
        group = parse_group_id(to.remote_id)
        if to.kind is not ConversationKind.ROOM or group is None:
            raise InvalidField("not the id of a group: group_ and 32 hex digits", field="group")
        return [member for member in self._gate.own_group(me, group).members if member != me]

    def _person(self, user: bytes, *, is_self: bool = False) -> Person:
        row = self._users.user(user)
        return Person(build_user_id(user), "" if row is None else row.name, is_self)


def _pay(pace: Pace, me: bytes, now_ms: int, what: str) -> None:
    after_ms = pace.take(me, now_ms, 1)
    if after_ms:
        raise TooManyRequests(f"too many {what} in a minute (im.sends_per_minute)", after_ms=after_ms)


def _seen_by(me: bytes, to: Conversation) -> Conversation:
    """The same conversation from the other side."""
    if to.kind is ConversationKind.DM:
        return Conversation(ConversationKind.DM, build_user_id(me))
    return to


def _build_remote_id(now_ms: int, me: bytes, to: Conversation, seed: str) -> str:
    if seed:
        return sha256(b"\0".join((me, to.remote_id.encode(), seed.encode()))).hexdigest()[:32]
    return f"{now_ms:012x}{secrets.token_hex(10)}"
