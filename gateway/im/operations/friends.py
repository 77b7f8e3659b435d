"""What a user asks of friends (D11): ask, answer, remove, block, list."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.im.operation import Ask, Caller, Operation, Reply
from gateway.im.operations.ids import IdText, read_user_id
from gateway.im.operations.pages import fit
from gateway.im.operations.users import AddressText, Done
from gateway.im.ust.friends import Friends
from gateway.model.im_people import FriendState, build_user_id

MAX_PAGE = 500


class AskFriend(Ask):
    #: number with its country code, mailbox, or user id
    to: AddressText
    text: Annotated[str, Meta(max_length=500)] = ""


class AnswerFriend(Ask):
    user: IdText
    accept: bool


class OneFriend(Ask):
    user: IdText


class ListFriends(Ask):
    #: user id behind which the page begins; empty: at the first
    after: Annotated[str, Meta(max_length=40)] = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = MAX_PAGE


class FriendView(msgspec.Struct, omit_defaults=True):
    user: str
    #: friends, waiting (for my answer), refused, blocked (by me)
    state: FriendState
    since_ms: int
    name: str = ""


class FriendList(Reply):
    friends: list[FriendView]
    #: `after` of the next page; absent: there is none
    next: str = ""


class FriendOperations:
    def __init__(self, friends: Friends) -> None:
        self._friends = friends

    def operations(self) -> tuple[Operation, ...]:
        one = "/v1/im/friends/{user}"
        return (
            Operation("friends", "GET", "/v1/im/friends", ListFriends, FriendList, self._list, "My friends"),
            Operation(
                "ask_friend",
                "POST",
                "/v1/im/friends",
                AskFriend,
                Done,
                self._ask,
                "Ask somebody to be friends; the answer never tells whether they are a user",
            ),
            Operation(
                "answer_friend", "POST", one + "/answer", AnswerFriend, Done, self._answer, "Accept or refuse a request"
            ),
            Operation(
                "remove_friend", "DELETE", one, OneFriend, Done, self._remove, "End a friendship, a request or a block"
            ),
            Operation("block_friend", "POST", one + "/block", OneFriend, Done, self._block, "Hear no more of them"),
        )

    async def _list(self, caller: Caller, ask: ListFriends) -> FriendList:
        after = read_user_id(ask.after, "after") if ask.after else b""
        page = self._friends.friends(caller.me, after, ask.limit)
        rows = [FriendView(build_user_id(row.other), row.state, row.since_ms, name) for row, name in page]
        views, more = fit(rows, ask.limit)
        return FriendList(friends=views, next=views[-1].user if more or len(views) == ask.limit else "")

    async def _ask(self, caller: Caller, ask: AskFriend) -> Done:
        await self._friends.ask(caller.me, ask.to, ask.text, caller.now_ms)
        return Done()

    async def _answer(self, caller: Caller, ask: AnswerFriend) -> Done:
        await self._friends.answer(caller.me, read_user_id(ask.user), accept=ask.accept, now_ms=caller.now_ms)
        return Done()

    async def _remove(self, caller: Caller, ask: OneFriend) -> Done:
        await self._friends.remove(caller.me, read_user_id(ask.user), caller.now_ms)
        return Done()

    async def _block(self, caller: Caller, ask: OneFriend) -> Done:
        await self._friends.block(caller.me, read_user_id(ask.user), caller.now_ms)
        return Done()
