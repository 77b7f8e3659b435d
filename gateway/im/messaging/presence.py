"""Who of a user's friends is there: told to those who are there themselves, and at most once in a while, so that a
device that comes and goes tells nobody more than it must; must never tell it to anybody but friends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.model.im import Person
from gateway.model.im_people import FriendState, Item, ItemKind, build_user_id
from gateway.model.im_ports import Delivering, UserRecords

AVAILABLE = "available"
AWAY = "away"


class Presence:
    """`is_present` is the supervisor's word; set before anything is asked."""

    def __init__(self, users: UserRecords, delivering: Delivering, clock: Callable[[], int], presence_s: float) -> None:
        self._users = users
        self._delivering = delivering
        self._clock = clock
        self._presence_s = presence_s
        self.is_present: Callable[[bytes], bool] = lambda _user: False
        #: users whose friends were told that they are there
        self._told: set[bytes] = set()
        self._timers: dict[bytes, asyncio.TimerHandle] = {}

    def changed(self, user: bytes, is_here: bool) -> None:
        """For the supervisor: a user's first device came, or the last one went."""
        if is_here == (user in self._told) and user not in self._timers:
            return
        if user not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[user] = loop.call_later(self._presence_s, self._tell, user)

    def friends_there(self, user: bytes) -> list[bytes]:
        return [friend for friend in self._friends(user) if self.is_present(friend)]

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _tell(self, user: bytes) -> None:
        del self._timers[user]
        is_here = self.is_present(user)
        if is_here == (user in self._told):
            return
        if is_here:
            self._told.add(user)
        else:
            self._told.discard(user)
        row = self._users.user(user)
        if row is None:
            return
        by = Person(build_user_id(user), row.name)
        item = Item(ItemKind.PRESENCE, self._clock(), by=by, state=AVAILABLE if is_here else AWAY)
        for friend in self.friends_there(user):
            self._delivering.tell(friend, item)

    def _friends(self, user: bytes) -> list[bytes]:
        return [friend.other for friend in self._users.friends(user) if friend.state is FriendState.FRIENDS]
