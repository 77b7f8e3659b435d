"""What a user asks of ad-hoc groups (D5): create, add, rename, remove, leave, list."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.im.operation import Ask, Caller, Operation, Reply
from gateway.im.operations.ids import IdText, read_group_id, read_user_id
from gateway.im.operations.pages import fit
from gateway.im.operations.users import Done, NameText
from gateway.im.ust.groups import Groups
from gateway.model.im_people import Group, build_group_id, build_user_id

MAX_PAGE = 100

Members = Annotated[tuple[IdText, ...], Meta(max_length=10_000)]


class CreateGroup(Ask):
    name: NameText
    #: friends of mine; I am a member by myself
    members: Members = ()


class AddMembers(Ask):
    group: IdText
    #: friends of mine
    members: Members


class RenameGroup(Ask):
    group: IdText
    name: NameText


class RemoveMember(Ask):
    group: IdText
    user: IdText


class OneGroup(Ask):
    group: IdText


class ListGroups(Ask):
    #: group id behind which the page begins; empty: at the first
    after: Annotated[str, Meta(max_length=40)] = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = MAX_PAGE


class Member(msgspec.Struct, omit_defaults=True):
    user: str
    name: str = ""


class GroupView(Reply):
    group: str
    name: str
    owner: str
    #: in the order in which they came
    members: list[Member]
    created_ms: int


class GroupHead(msgspec.Struct):
    group: str
    name: str
    owner: str
    members: int
    created_ms: int


class GroupList(Reply):
    groups: list[GroupHead]
    #: `after` of the next page; absent: there is none
    next: str = ""


class GroupOperations:
    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    def operations(self) -> tuple[Operation, ...]:
        one = "/v1/im/groups/{group}"
        members = one + "/members"
        return (
            Operation("groups", "GET", "/v1/im/groups", ListGroups, GroupList, self._list, "My groups"),
            Operation("group", "GET", one, OneGroup, GroupView, self._one, "A group and who is in it"),
            Operation(
                "create_group", "POST", "/v1/im/groups", CreateGroup, GroupView, self._create, "Make a group of friends"
            ),
            Operation("add_members", "POST", members, AddMembers, GroupView, self._add, "Take friends of mine in"),
            Operation(
                "remove_member", "DELETE", members + "/{user}", RemoveMember, GroupView, self._remove, "As its owner"
            ),
            Operation("rename_group", "PATCH", one, RenameGroup, GroupView, self._rename, "As its owner"),
            Operation("leave_group", "POST", one + "/leave", OneGroup, Done, self._leave, "Leave a group"),
        )

    async def _list(self, caller: Caller, ask: ListGroups) -> GroupList:
        after = read_group_id(ask.after, "after") if ask.after else b""
        page = self._groups.groups(caller.me, after, ask.limit)
        rows = [
            GroupHead(build_group_id(one.group), one.name, build_user_id(one.owner), len(one.members), one.created_ms)
            for one in page
        ]
        heads, more = fit(rows, ask.limit)
        return GroupList(groups=heads, next=heads[-1].group if more or len(heads) == ask.limit else "")

    async def _one(self, caller: Caller, ask: OneGroup) -> GroupView:
        return self._view(self._groups.group(caller.me, read_group_id(ask.group)))

    async def _create(self, caller: Caller, ask: CreateGroup) -> GroupView:
        return self._view(await self._groups.create(caller.me, ask.name, _read(ask.members), caller.now_ms))

    async def _add(self, caller: Caller, ask: AddMembers) -> GroupView:
        group = read_group_id(ask.group)
        return self._view(await self._groups.add(caller.me, group, _read(ask.members), caller.now_ms))

    async def _remove(self, caller: Caller, ask: RemoveMember) -> GroupView:
        group, user = read_group_id(ask.group), read_user_id(ask.user)
        return self._view(await self._groups.remove(caller.me, group, user, caller.now_ms))

    async def _rename(self, caller: Caller, ask: RenameGroup) -> GroupView:
        return self._view(await self._groups.rename(caller.me, read_group_id(ask.group), ask.name, caller.now_ms))

    async def _leave(self, caller: Caller, ask: OneGroup) -> Done:
        await self._groups.leave(caller.me, read_group_id(ask.group), caller.now_ms)
        return Done()

    def _view(self, group: Group) -> GroupView:
        return GroupView(
            group=build_group_id(group.group),
            name=group.name,
            owner=build_user_id(group.owner),
            members=[Member(build_user_id(one), self._groups.name_of(one)) for one in group.members],
            created_ms=group.created_ms,
        )


def _read(members: tuple[str, ...]) -> list[bytes]:
    return [read_user_id(one, "members") for one in members]
