"""Sending, and what one does to conversations and contacts of bound accounts (D3 to D8, D10, D11, D13, D15)."""

from __future__ import annotations

import asyncio
from typing import Annotated

from msgspec import Meta, Struct, field

from gateway.im.geo import GeoError, check_geo
from gateway.im.messaging.draft import Draft, Recipient
from gateway.im.messaging.outbox import Outbox, Verdict
from gateway.im.messaging.own import OwnMessages
from gateway.im.operation import Ask, Caller, Operation, Reply
from gateway.model.errors import InvalidField
from gateway.model.im import (
    Act,
    Answer,
    Befriend,
    Conversation,
    ConversationKind,
    Geo,
    JoinRoom,
    LeaveRoom,
    MarkRead,
    Typing,
)

#: of a network: addresses, at:// URIs, Message-IDs
Remote = Annotated[str, Meta(max_length=2_048)]
GivenRemote = Annotated[str, Meta(min_length=1, max_length=2_048)]
#: number, or the user's own name for it; 0: own IM
AccountWord = Annotated[int, Meta(ge=0, le=2**62)] | Annotated[str, Meta(min_length=1, max_length=200)]


class To(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Exactly one of `account`, `user`, `group` and `site`."""

    account: AccountWord | None = None
    conversation: Remote = ""
    kind: ConversationKind = ConversationKind.DM
    user: Annotated[str, Meta(max_length=64)] = ""
    group: Annotated[str, Meta(max_length=64)] = ""
    site: Annotated[str, Meta(max_length=200)] = ""

    def __repr__(self) -> str:
        return "To(hidden)"


class Place(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    latitude: float
    longitude: float
    accuracy_m: float | None = None
    altitude_m: float | None = None

    def __repr__(self) -> str:
        return "Place(hidden)"


class SendAsk(Ask):
    to: Annotated[list[To], Meta(min_length=1, max_length=10_000)]
    text: Annotated[str, Meta(max_length=1_048_576)] = ""
    subject: Annotated[str, Meta(max_length=998)] = ""
    #: names of uploaded files
    media: Annotated[list[Annotated[str, Meta(max_length=200)]], Meta(max_length=20)] = field(default_factory=list)
    geo: Place | None = None
    #: remote ids
    reply_to: Remote = ""
    replaces: Remote = ""
    idempotency_key: Annotated[str, Meta(max_length=200)] = ""


class Taken(Struct, omit_defaults=True, kw_only=True):
    """`state`: accepted (a RESULT with this number will come), sent (own IM), refused."""

    state: str
    number: int = 0
    remote_id: str = ""
    error: str = ""
    field: str = ""
    reason: str = ""
    retry_after_ms: int = 0

    def __repr__(self) -> str:
        return f"Taken({self.state})"


class SendReply(Reply):
    results: list[Taken]


class ConversationAsk(Ask):
    account: AccountWord
    conversation: GivenRemote
    kind: ConversationKind = ConversationKind.DM


class MarkReadAsk(ConversationAsk, kw_only=True):
    remote_id: GivenRemote


class TypingAsk(ConversationAsk):
    is_typing: bool = True


class ContactAsk(Ask):
    account: AccountWord
    remote_id: GivenRemote
    text: Annotated[str, Meta(max_length=1_000)] = ""


class AnswerAsk(Ask):
    account: AccountWord
    remote_id: GivenRemote
    accept: bool


class RoomAsk(Ask):
    account: AccountWord
    room: GivenRemote


class ActReply(Reply):
    """`number` of the RESULT that will come; 0: it is done."""

    number: int = 0


def build_message_operations(outbox: Outbox, own: OwnMessages) -> list[Operation]:
    async def send(caller: Caller, ask: SendAsk) -> SendReply:
        to = [
            Recipient(_number(one.account), one.conversation, one.kind, one.user, one.group, one.site) for one in ask.to
        ]
        draft = Draft(ask.text, ask.subject, tuple(ask.media), _geo(ask.geo), ask.reply_to, ask.replaces)
        verdicts = await outbox.send(caller.me, to, draft, ask.idempotency_key)
        return SendReply(results=[_taken(verdict) for verdict in verdicts])

    async def mark_read(caller: Caller, ask: MarkReadAsk) -> ActReply:
        conversation = Conversation(ask.kind, ask.conversation)
        account = _number(ask.account)
        if account == 0:
            for done in own.mark_read(caller.me, conversation, ask.remote_id):
                await asyncio.shield(done)
            return ActReply()
        return await act(caller, account, MarkRead(conversation, ask.remote_id))

    async def typing(caller: Caller, ask: TypingAsk) -> ActReply:
        conversation = Conversation(ask.kind, ask.conversation)
        account = _number(ask.account)
        if account == 0:
            own.typing(caller.me, conversation, is_typing=ask.is_typing)
        else:
            outbox.typing(caller.me, account, Typing(conversation, ask.is_typing))
        return ActReply()

    async def befriend(caller: Caller, ask: ContactAsk) -> ActReply:
        return await act(caller, ask.account, Befriend(ask.remote_id, ask.text))

    async def answer(caller: Caller, ask: AnswerAsk) -> ActReply:
        return await act(caller, ask.account, Answer(ask.remote_id, ask.accept))

    async def join(caller: Caller, ask: RoomAsk) -> ActReply:
        return await act(caller, ask.account, JoinRoom(ask.room))

    async def leave(caller: Caller, ask: RoomAsk) -> ActReply:
        return await act(caller, ask.account, LeaveRoom(ask.room))

    async def act(caller: Caller, account: int | str, wanted: Act) -> ActReply:
        return ActReply(number=await outbox.act(caller.me, _number(account), wanted))

    base = "/v1/im/accounts/{account}"
    return [
        Operation("send", "POST", "/v1/im/messages", SendAsk, SendReply, send, "Send a message to one or many"),
        Operation("mark_read", "POST", "/v1/im/read", MarkReadAsk, ActReply, mark_read, "Say what has been read"),
        Operation("typing", "POST", "/v1/im/typing", TypingAsk, ActReply, typing, "Say that one is typing"),
        Operation(
            "befriend",
            "POST",
            f"{base}/requests",
            ContactAsk,
            ActReply,
            befriend,
            "Ask somebody on a network for contact",
        ),
        Operation(
            "answer",
            "POST",
            f"{base}/answers",
            AnswerAsk,
            ActReply,
            answer,
            "Answer a request from somebody on a network",
        ),
        Operation("join_room", "POST", f"{base}/join", RoomAsk, ActReply, join, "Join a room of a network"),
        Operation("leave_room", "POST", f"{base}/leave", RoomAsk, ActReply, leave, "Leave a room of a network"),
    ]


def _number(account: int | str | None) -> int | str:
    """A path has words only: one of digits alone is a number."""
    if isinstance(account, str) and account.isascii() and account.isdigit() and len(account) < 19:
        return int(account)
    return account  # type: ignore[return-value]


def _geo(place: Place | None) -> Geo | None:
    if place is None:
        return None
    try:
        return check_geo(Geo(place.latitude, place.longitude, place.accuracy_m, place.altitude_m))
    except GeoError as exc:
        raise InvalidField(str(exc), field="geo") from None


def _taken(verdict: Verdict) -> Taken:
    error = verdict.error
    if error is None:
        return Taken(state=verdict.state, number=verdict.number, remote_id=verdict.remote_id)
    return Taken(
        state=verdict.state,
        error=error.name,
        field=error.field,
        reason=error.message,
        retry_after_ms=error.after_ms if error.retryable else 0,
    )
