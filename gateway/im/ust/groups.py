"""Ad-hoc groups of our own users (D5): who makes one takes friends in, and so may every member with friends of theirs;
the owner renames and removes. Every member is told of every change, and asks who is in it now.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

from msgspec.structs import replace

from gateway.config.im_section import Im
from gateway.im.messaging.pace import Pace
from gateway.im.ust.names import check_name
from gateway.model.errors import Conflict, Forbidden, GatewayError, NotFound, TooManyRequests
from gateway.model.im import Conversation, ConversationKind, Person
from gateway.model.im_people import USER_BYTES, Group, Item, ItemKind, build_group_id, build_user_id
from gateway.model.im_ports import Delivering, Gate, UserRecords

#: members told in one turn of the loop
_SLICE = 64


class Groups:
    """Loop thread only. Members of a group: in the order in which they came."""

    def __init__(self, users: UserRecords, delivering: Delivering, gate: Gate, *, settings: Im) -> None:
        self._users = users
        self._delivering = delivering
        self._gate = gate
        self._settings = settings
        # every member's log has every change: without a bound it would hold little else
        self._pace = Pace(settings.sends_per_minute)

    def groups(self, me: bytes, after: bytes, limit: int) -> list[Group]:
        """A page by id."""
        return sorted((one for one in self._users.groups(me) if one.group > after), key=lambda one: one.group)[:limit]

    def group(self, me: bytes, group: bytes) -> Group:
        return self._gate.own_group(me, group)

    def name_of(self, user: bytes) -> str:
        found = self._users.user(user)
        return found.name if found is not None else ""

    async def create(self, me: bytes, name: str, others: Sequence[bytes], now_ms: int) -> Group:
        name = check_name(name)
        if self._users.user(me) is None:
            raise NotFound("this user is no longer there")
        if len(self._users.groups(me)) >= self._settings.groups_per_user:
            raise Conflict(f"a user is in up to {self._settings.groups_per_user} groups: leave one first")
        new = self._new_members(me, (me,), others)
        self._pay(me, now_ms)
        group = Group(secrets.token_bytes(USER_BYTES), name, me, (me, *new), now_ms)
        return await self._change(group, group.members, me, "created", now_ms)

    async def add(self, me: bytes, group_id: bytes, others: Sequence[bytes], now_ms: int) -> Group:
        group = self._gate.own_group(me, group_id)
        new = self._new_members(me, group.members, others)
        if new:
            self._pay(me, now_ms)
            group = replace(group, members=(*group.members, *new))
            group = await self._change(group, group.members, me, "added", now_ms)
        return group

    async def rename(self, me: bytes, group_id: bytes, name: str, now_ms: int) -> Group:
        group = replace(self._owned(me, group_id), name=check_name(name))
        self._pay(me, now_ms)
        return await self._change(group, group.members, me, "renamed", now_ms)

    async def remove(self, me: bytes, group_id: bytes, other: bytes, now_ms: int) -> Group:
        """One of the members goes, as the owner says."""
        group = self._owned(me, group_id)
        if other == me:
            raise Conflict("this is you: leave the group instead", field="user")
        if other not in group.members:
            raise NotFound("nobody of this id is in the group", field="user")
        told = group.members
        group = replace(group, members=tuple(one for one in group.members if one != other))
        return await self._change(group, told, me, "removed", now_ms)

    async def leave(self, me: bytes, group_id: bytes, now_ms: int) -> None:
        await self._leave(me, self._gate.own_group(me, group_id), now_ms)

    async def leave_all(self, me: bytes, now_ms: int) -> None:
        """Of a user who goes."""
        for group in self._users.groups(me):
            now = self._users.group(group.group)  # others change it meanwhile
            if now is not None and me in now.members:
                await self._leave(me, now, now_ms)

    async def _leave(self, me: bytes, group: Group, now_ms: int) -> None:
        members = tuple(one for one in group.members if one != me)
        await self._change(replace(group, members=members), group.members, me, "left", now_ms)

    def _pay(self, me: bytes, now_ms: int) -> None:
        after_ms = self._pace.take(me, now_ms, 1)
        if after_ms:
            raise TooManyRequests("too many changes of groups in a minute (im.sends_per_minute)", after_ms=after_ms)

    def _owned(self, me: bytes, group_id: bytes) -> Group:
        group = self._gate.own_group(me, group_id)
        if group.owner != me:
            raise Forbidden("the owner of the group alone may do this")
        return group

    def _new_members(self, me: bytes, members: Sequence[bytes], others: Sequence[bytes]) -> list[bytes]:
        """Friends of `me` who are not in it yet; each with room for one more group."""
        present = set(members)
        new = [other for other in dict.fromkeys(others) if other not in present]
        if len(members) + len(new) > self._settings.group_members:
            raise Conflict(f"a group has up to {self._settings.group_members} members", field="members")
        for other in new:
            problem: GatewayError | None = None
            try:
                self._gate.check_reachable(me, other)
            except NotFound:
                problem = NotFound("one of them is no friend of yours", field="members")
            if problem is not None:
                raise problem
            if len(self._users.groups(other)) >= self._settings.groups_per_user:
                raise Conflict("one of them is in too many groups", field="members")
        return new

    async def _change(self, group: Group, told: Sequence[bytes], by: bytes, state: str, now_ms: int) -> Group:
        # who is gone for good is told nothing, and is no member of what is kept
        there = {user for user in told if self._users.user(user) is not None}
        told = [user for user in told if user in there]
        members = tuple(user for user in group.members if user in there)
        # the one who is in it for longest comes after an owner who went; without members it is gone
        owner = group.owner if group.owner in members or not members else members[0]
        group = replace(group, members=members, owner=owner)
        done = [self._users.put_group(group)]
        conversation = Conversation(ConversationKind.ROOM, build_group_id(group.group))
        person = Person(build_user_id(by), self.name_of(by))
        item = Item(ItemKind.GROUP, now_ms, conversation=conversation, by=person, state=state, text=group.name)
        for at in range(0, len(told), _SLICE):
            done += [self._delivering.deliver(user, [item]).done for user in told[at : at + _SLICE]]
            await asyncio.gather(*done)
            done = []
        return group
