"""Friends (D11): one asks by number, mailbox or user id, the other accepts, refuses or blocks.

Whoever asks gets the same answer, after the same work and time, from nobody, from somebody who is hidden, who has
blocked or refused them, and from somebody who is told of it: they learn more only where the other accepts. So requests
that wait for others are listed for nobody, and nobody is told of a refusal or a block.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from enum import Enum, auto

from gateway.config.im_section import Im
from gateway.im.ust.addresses import parse_address, parse_domain
from gateway.im.ust.even_pace import even_pace
from gateway.im.ust.rates import PersonRate
from gateway.metrics.names import Metric
from gateway.metrics.sink import Metrics
from gateway.model.errors import BadRequest, Conflict, NotFound, TooManyRequests
from gateway.model.im import Person
from gateway.model.im_people import (
    USER_BYTES,
    Friend,
    FriendState,
    Item,
    ItemKind,
    User,
    build_user_id,
    parse_user_id,
)
from gateway.model.im_ports import Delivering, UserRecords

#: rows of a user who goes that are taken away in one turn of the loop
_SLICE = 64


class Step(Enum):
    """What a request leads to."""

    NOTHING = auto()
    ASK = auto()
    BEFRIEND = auto()


def decide(mine: FriendState | None, theirs: FriendState | None) -> Step:
    """By the states of the one who asks and of the other: each towards the other; None: no row."""
    if mine in (FriendState.FRIENDS, FriendState.BLOCKED) or theirs in (FriendState.REFUSED, FriendState.BLOCKED):
        return Step.NOTHING
    if theirs is FriendState.ASKED:  # both asked; also where this one had refused
        return Step.BEFRIEND
    # a second request before an answer is no news
    return Step.ASK if mine is None or theirs is None else Step.NOTHING


class Friends:
    """Loop thread only."""

    def __init__(self, users: UserRecords, delivering: Delivering, *, settings: Im, metrics: Metrics) -> None:
        self._users = users
        self._delivering = delivering
        self._settings = settings
        self._metrics = metrics
        self._domain = parse_domain(settings.mail_domain) or ""
        self._requests = PersonRate("friend_requests", settings.requests_per_day, metrics)
        #: nobody's id: looked at where there is no other, so that it costs the same
        self._nobody = secrets.token_bytes(USER_BYTES)

    async def ask(self, me: bytes, whom: str, text: str, now_ms: int) -> None:
        """`whom`: a number, a mailbox, a user id. Nothing is answered but errors of the asker's own."""
        mine = self._user(me)
        wanted = parse_user_id(whom) if whom.startswith("user_") else parse_address(whom, "to", ", or a user id")
        if wanted is None:
            raise BadRequest("not the id of a user: user_ and 32 hex digits", field="to")
        if wanted in (me, *mine.addresses, f"{mine.mailbox}@{self._domain}"):
            raise BadRequest("this is you", field="to")
        after_ms = self._requests.take(mine, now_ms)
        if after_ms:
            self._metrics.count(Metric.IM_FRIENDS, label="limit")
            raise TooManyRequests("too many friend requests", after_ms=after_ms)
        async with even_pace(self._settings.answer_step_s):
            await asyncio.gather(*self._ask(mine, self._find(wanted), text, now_ms))

    def _find(self, wanted: bytes | str) -> bytes:
        """Who may be asked so; else nobody's id, after as many look-ups."""
        if isinstance(wanted, bytes):
            found, is_by_address = wanted, False
        else:
            local, _, domain = wanted.rpartition("@")
            is_by_address = not (local and domain == self._domain)
            # by a mailbox here anybody may ask: it is made for that; by another address who is hidden is not found
            at = self._users.find_user(wanted) if is_by_address else self._users.find_mailbox(local)
            found = at if at is not None else self._nobody
        user = self._users.user(found)
        return found if user is not None and (user.is_discoverable or not is_by_address) else self._nobody

    def _ask(self, mine: User, other: bytes, text: str, now_ms: int) -> list[asyncio.Future[None]]:
        """One turn of the loop: two requests to each other at once are one after the other."""
        me = mine.user
        here, there = self._users.friend(me, other), self._users.friend(other, me)
        rows, others_rows = self._users.friends(me), self._users.friends(other)
        most = self._settings.friends_per_user
        step = decide(here.state if here else None, there.state if there else None)
        # that one's own list is full is told, but only of what it shows: else the number of requests that wait would
        # tell how many of them reached somebody
        if sum(row.state is not FriendState.ASKED for row in rows) >= most:
            raise Conflict(f"a list has up to {most} friends and requests: remove some")
        if other == self._nobody:
            step = Step.NOTHING
        elif step is Step.ASK and max(len(rows), len(others_rows)) >= most:
            step = Step.NOTHING
            self._metrics.count(Metric.IM_FRIENDS, label="full")
        if step is Step.ASK:
            self._metrics.count(Metric.IM_FRIENDS, label="asked")
            asked = Friend(me, other, FriendState.ASKED, now_ms)
            done = self._users.put_friends([asked, Friend(other, me, FriendState.WAITING, now_ms)])
            return [done, self._tell(other, ItemKind.FRIEND_REQUEST, mine, now_ms, text=text)]
        if step is Step.BEFRIEND:
            return self._befriend(mine, self._user(other), now_ms)
        self._metrics.count(Metric.IM_FRIENDS, label="nobody")
        return self._write_nothing(me, now_ms)

    def _write_nothing(self, me: bytes, now_ms: int) -> list[asyncio.Future[None]]:
        """As much as a request writes, in one commit that leaves nothing."""
        row = Friend(me, me, FriendState.ASKED, now_ms)
        return [self._users.put_friends([row, row]), self._users.remove_friends([(me, me)])]

    async def answer(self, me: bytes, other: bytes, *, accept: bool, now_ms: int) -> None:
        mine = self._user(me)
        here, them = self._users.friend(me, other), self._users.user(other)
        if here is None or here.state is not FriendState.WAITING or them is None:
            raise NotFound("no request of this user waits for an answer", field="user")
        if not accept:
            self._metrics.count(Metric.IM_FRIENDS, label="refused")
            await self._users.put_friends([Friend(me, other, FriendState.REFUSED, now_ms)])
            return
        await asyncio.gather(*self._befriend(mine, them, now_ms))

    def _befriend(self, mine: User, them: User, now_ms: int) -> list[asyncio.Future[None]]:
        self._metrics.count(Metric.IM_FRIENDS, label="accepted")
        done = self._users.put_friends(
            [
                Friend(mine.user, them.user, FriendState.FRIENDS, now_ms),
                Friend(them.user, mine.user, FriendState.FRIENDS, now_ms),
            ]
        )
        return [
            done,
            self._tell(them.user, ItemKind.FRIEND_ANSWER, mine, now_ms, state="accepted"),
            # for the other devices of the one who accepts
            self._tell(mine.user, ItemKind.CONTACT, them, now_ms, state="there"),
        ]

    async def remove(self, me: bytes, other: bytes, now_ms: int) -> None:
        """Whatever there was between the two: friendship, a request, a refusal, one's own block. Never fails for what
        the other has or is."""
        mine = self._user(me)
        here, there = self._users.friend(me, other), self._users.friend(other, me)
        pairs = [(me, other)]
        # their block stays theirs; and what they asked stays refused
        if there is not None and there.state not in (FriendState.BLOCKED, FriendState.REFUSED):
            pairs.append((other, me))
        done = [self._users.remove_friends(pairs)]
        if here is not None and here.state is FriendState.FRIENDS:
            done.append(self._tell(other, ItemKind.CONTACT, mine, now_ms, state="gone"))
        await asyncio.gather(*done)

    async def block(self, me: bytes, other: bytes, now_ms: int) -> None:
        """Any id, also nobody's (then nothing is kept): that a block is taken tells nothing. `remove` ends it."""
        mine = self._user(me)
        if other == me:
            raise BadRequest("this is you", field="user")
        if self._users.user(other) is None:
            await asyncio.gather(*self._write_nothing(me, now_ms))
            return
        here, there = self._users.friend(me, other), self._users.friend(other, me)
        if here is None and len(self._users.friends(me)) >= self._settings.friends_per_user:
            raise Conflict(f"a list has up to {self._settings.friends_per_user} friends and requests: remove some")
        done = [self._users.put_friends([Friend(me, other, FriendState.BLOCKED, now_ms)])]
        if there is not None and there.state in (FriendState.FRIENDS, FriendState.WAITING):
            done.append(self._users.remove_friends([(other, me)]))
        if here is not None and here.state is FriendState.FRIENDS:
            done.append(self._tell(other, ItemKind.CONTACT, mine, now_ms, state="gone"))  # as after `remove`
        await asyncio.gather(*done)

    def friends(self, me: bytes, after: bytes, limit: int) -> list[tuple[Friend, str]]:
        """A page by id, with names of friends and of those who ask; requests of one's own are not there."""
        rows = (row for row in self._users.friends(me) if row.state is not FriendState.ASKED and row.other > after)
        page = sorted(rows, key=lambda row: row.other)[:limit]
        return [(row, self._name(row)) for row in page]

    def _name(self, row: Friend) -> str:
        if row.state not in (FriendState.FRIENDS, FriendState.WAITING):
            return ""
        user = self._users.user(row.other)
        return user.name if user is not None else ""

    async def end_all(self, me: bytes, now_ms: int) -> None:
        """Of a user who goes: friends are told."""
        mine = self._user(me)
        rows = self._users.friends(me)
        for at in range(0, len(rows), _SLICE):
            part = rows[at : at + _SLICE]
            done = [self._users.remove_friends([pair for row in part for pair in _both(row)])]
            for row in part:
                if row.state is FriendState.FRIENDS:
                    done.append(self._tell(row.other, ItemKind.CONTACT, mine, now_ms, state="gone"))
            await asyncio.gather(*done)

    def _user(self, me: bytes) -> User:
        found = self._users.user(me)
        if found is None:
            raise NotFound("this user is no longer there")
        return found

    def _tell(
        self, user: bytes, kind: ItemKind, by: User, now_ms: int, *, state: str = "", text: str = ""
    ) -> asyncio.Future[None]:
        person = Person(build_user_id(by.user), by.name)
        return self._delivering.deliver(user, [Item(kind, now_ms, by=person, state=state, text=text)]).done


def _both(row: Friend) -> Sequence[tuple[bytes, bytes]]:
    return (row.user, row.other), (row.other, row.user)
