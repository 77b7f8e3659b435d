"""The one way out to a user's devices and into their log; must never push what is not appended in the same turn."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.im.messaging.tip import build_tip
from gateway.model.im import Conversation
from gateway.model.im_people import Item
from gateway.model.im_ports import Appended, LogRecords, Pushes, UserRecords


class Deliverer:
    """`Delivering` of gateway.model.im_ports."""

    def __init__(self, log: LogRecords, users: UserRecords, pushes: Pushes) -> None:
        self._log = log
        self._users = users
        self._pushes = pushes

    def deliver(self, user: bytes, items: Sequence[Item], *, account: int = 0, cursor: bytes | None = None) -> Appended:
        """Append, and push what is new to all the user's devices, in one commit. StoreUnavailable, QueueFull."""
        appended = self.append(user, items, account=account, cursor=cursor)
        self.push(user, appended.items)
        return appended

    def append(self, user: bytes, items: Sequence[Item], *, account: int = 0, cursor: bytes | None = None) -> Appended:
        """Alone: whoever calls it pushes in the same turn."""
        return self._log.append(user, items, account=account, cursor=cursor)

    def has_sent(self, user: bytes, conversation: Conversation, remote_id: str) -> bool:
        """In own IM, as far back as the user's log goes."""
        found = self._log.message(user, 0, conversation, remote_id)
        return found is not None and found.sender.is_self

    def push(self, user: bytes, items: Sequence[Item]) -> list[int]:
        """What was appended in this turn, to every device; the pushes' sequences, without those that could not be."""
        if not items:
            return []
        sequences = []
        devices = self._users.devices(user)
        for item in items:
            title, text, urgent = build_tip(item)
            for token in devices:
                sequences.append(self._pushes.push(token, item, title=title, text=text, urgent=urgent))
        return [sequence for sequence in sequences if sequence]

    def tell(self, user: bytes, item: Item) -> None:
        for token in self._users.devices(user):
            self._pushes.tell(token, item)
