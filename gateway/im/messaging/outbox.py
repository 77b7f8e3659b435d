"""What users send (D3 to D8, D13, D15): each recipient accepted or refused with its reason, all that is accepted in one
commit; must never let a message past UST, nor answer before it is durable.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

import msgspec

from gateway.config.im_section import Im
from gateway.im.messaging.draft import Draft, Recipient
from gateway.im.messaging.expiry import Expiry
from gateway.im.messaging.once import Once
from gateway.im.messaging.own import OwnMessages
from gateway.im.messaging.pace import Pace
from gateway.metrics import Metric, Metrics
from gateway.model.errors import (
    Conflict,
    GatewayError,
    InvalidField,
    NotConfigured,
    NotFound,
    QueueFull,
    TooManyRequests,
)
from gateway.model.im import (
    Act,
    Answer,
    Befriend,
    Caps,
    Connector,
    Conversation,
    ConversationKind,
    JoinRoom,
    LeaveRoom,
    MarkRead,
    Media,
    Person,
    Typing,
)
from gateway.model.im_people import Account, AccountState, Outgoing, parse_group_id
from gateway.model.im_ports import Gate, LogRecords, MediaStore, Supervision

#: what one posts to without naming another feed: one's own, as connectors of sites call it
HOME_FEED = "home"

#: so many bytes in logs of a group's members count as one message; and what stands around a text there, about
_UNIT_BYTES, _AROUND_BYTES = 65_536, 256
#: copies of messages among our users that are written in one turn of the loop, about
_COPIES = 512

ACCEPTED = "accepted"
SENT = "sent"
REFUSED = "refused"


class Verdict(NamedTuple):
    """What became of one recipient."""

    state: str
    #: of the RESULT that will come; 0: it is over, or refused
    number: int = 0
    #: own IM: it is sent
    remote_id: str = ""
    error: GatewayError | None = None


class Outbox:
    def __init__(
        self,
        *,
        gate: Gate,
        log: LogRecords,
        own: OwnMessages,
        media: MediaStore,
        supervision: Supervision,
        connectors: Mapping[str, Connector],
        expiry: Expiry,
        config: Im,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        self._gate = gate
        self._log = log
        self._own = own
        self._media = media
        self._supervision = supervision
        self._connectors = connectors
        self._expiry = expiry
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._once: Once[list[Verdict]] = Once()
        self._pace = Pace(config.sends_per_minute)

    async def send(self, user: bytes, to: Sequence[Recipient], draft: Draft, key: str = "") -> list[Verdict]:
        """A verdict for each recipient, in their order. GatewayError where the message itself is none."""
        if not 0 < len(to) <= self._config.recipients:
            raise InvalidField(f"1 to {self._config.recipients} recipients (im.recipients)", field="to")
        draft.check(self._config.max_text_bytes)
        digest = sha256(msgspec.msgpack.encode([list(to), draft])).digest() if key else b""
        # what was sent with this key is known as long as its lines are; another message with it must not pass for it
        seed = f"{key}/{digest.hex()}" if key else ""
        return await self._once.run(user, key, digest, lambda: self._send(user, to, draft, seed))

    async def _send(self, user: bytes, to: Sequence[Recipient], draft: Draft, key: str) -> list[Verdict]:
        media = self._media_of(user, draft)
        size = draft.size()
        self._pay(user, sum(self._price(user, recipient, size) for recipient in to))
        verdicts: list[Verdict] = []
        waits: list[list[asyncio.Future[None]]] = []
        new: dict[int, Outgoing] = {}
        copies = 0
        for index, recipient in enumerate(to):
            if copies >= _COPIES:
                copies = 0
                await asyncio.sleep(0)
            try:
                recipient.check(f"to[{index}]")
                if recipient.user or recipient.group:
                    sent = self._own.send(
                        user, _own_conversation(recipient), draft, media, f"{key}/{index}" if key else ""
                    )
                    verdicts.append(Verdict(SENT, remote_id=sent.remote_id))
                    waits.append(sent.done)
                    copies += len(sent.done)
                    continue
                outgoing = self._address(user, recipient, draft, media, _txn_id(user, key, index))
                known = self._find(outgoing) if key else None
                if known is None:
                    new[index] = outgoing
                verdicts.append(Verdict(ACCEPTED, number=(known or outgoing).number))
            except GatewayError as exc:
                verdicts.append(self._refused(exc))
            waits.append([])
        self._put(new, verdicts, waits)
        await self._wait(verdicts, waits)
        for index, outgoing in new.items():
            if verdicts[index].state == ACCEPTED:
                self._let_go(outgoing)
        return verdicts

    async def act(self, user: bytes, account: int | str, act: Act) -> int:
        """The number of the RESULT that will come. GatewayError."""
        bound = self._account(user, account)
        self._check_act(bound, act)
        if not isinstance(act, MarkRead):
            self._pay(user, 1)
        outgoing = self._build(bound)
        outgoing = msgspec.structs.replace(outgoing, act=act)
        await asyncio.shield(self._log.put_outgoing([outgoing]))
        self._let_go(outgoing)
        return outgoing.number

    def typing(self, user: bytes, account: int | str, act: Typing) -> None:
        """Now or never. GatewayError where it can never be."""
        bound = self._account(user, account)
        self._check_act(bound, act)
        self._supervision.try_act(bound.number, act)

    # --- one recipient -----------------------------------------------------------------------------------------------

    def _address(
        self, user: bytes, recipient: Recipient, draft: Draft, media: tuple[Media, ...], txn_id: str
    ) -> Outgoing:
        try:
            account = self._account(user, recipient.site or recipient.account or 0)
        except NotFound:
            raise NotFound("you have no such account", field="site" if recipient.site else "account") from None
        kind = ConversationKind.FEED if recipient.site else recipient.kind
        if draft.replaces and not self._caps(account).edits:
            raise InvalidField(f"{account.network} can not change what was sent", field="replaces")
        conversation = recipient.conversation or (HOME_FEED if kind is ConversationKind.FEED else "")
        envelope = draft.address(
            Conversation(kind, conversation), account.network, media, Person("", is_self=True), txn_id
        )
        return msgspec.structs.replace(self._build(account), envelope=envelope)

    def _account(self, user: bytes, account: int | str) -> Account:
        bound = self._gate.own_account(user, account)
        if bound.state is AccountState.BAD_CREDENTIALS:
            raise Conflict("the network does not take the account's credentials: give others first", field="account")
        return bound

    def _build(self, account: Account) -> Outgoing:
        now_ms = self._clock()
        return Outgoing(
            self._log.reserve_outgoing(),
            account.user,
            account.number,
            now_ms,
            now_ms + int(self._config.outgoing_s * 1_000),
        )

    def _caps(self, account: Account) -> Caps:
        connector = self._connectors.get(account.network)
        if connector is None:
            raise NotConfigured(f"{account.network} is not served here (im.networks)", field="account")
        return connector.caps

    def _check_act(self, account: Account, act: Act) -> None:
        caps = self._caps(account)
        match act:
            case MarkRead():
                can, what = caps.read_marks, "read marks"
            case Typing():
                can, what = caps.typing, "signs of typing"
            case Befriend() | Answer():
                can, what = caps.befriend, "friend requests"
            case JoinRoom() | LeaveRoom():
                can, what = caps.rooms, "rooms"
        if not can:
            raise InvalidField(f"{account.network} has no {what}", field="account")

    def _find(self, outgoing: Outgoing) -> Outgoing | None:
        """The same, from a request before a restart, where it still waits."""
        assert outgoing.envelope is not None
        txn_id = outgoing.envelope.txn_id
        return next(
            (
                other
                for other in self._log.outgoing(outgoing.account)
                if other.envelope is not None and other.envelope.txn_id == txn_id
            ),
            None,
        )

    # --- all of them -------------------------------------------------------------------------------------------------

    def _media_of(self, user: bytes, draft: Draft) -> tuple[Media, ...]:
        media = []
        for index, ref in enumerate(draft.media):
            file = self._media.file(user, ref)
            if file is None:
                raise InvalidField("no such file of yours: upload it first", field=f"media[{index}]")
            media.append(file.media)
        return tuple(media)

    def _price(self, user: bytes, recipient: Recipient, size: int) -> int:
        """Each member of a group has it in a log: without this, long texts to a large one would fill the store."""
        group = parse_group_id(recipient.group)
        if group is None:
            return 1
        try:
            members = len(self._gate.own_group(user, group).members)
        except NotFound:
            return 1
        return max(1, members * (size + _AROUND_BYTES) // _UNIT_BYTES)

    def _pay(self, user: bytes, count: int) -> None:
        wait_ms = self._pace.take(user, self._clock(), count)
        if wait_ms:
            raise TooManyRequests(
                f"more than {self._config.sends_per_minute} messages in a minute (im.sends_per_minute)",
                after_ms=wait_ms,
            )

    def _put(self, new: dict[int, Outgoing], verdicts: list[Verdict], waits: list[list[asyncio.Future[None]]]) -> None:
        """In one commit; where an account has too many already, the others all the same."""
        if not new:
            return
        try:
            done = self._log.put_outgoing(list(new.values()))
        except QueueFull:
            for index, outgoing in new.items():
                try:
                    waits[index] = [self._log.put_outgoing([outgoing])]
                except GatewayError as exc:
                    verdicts[index] = self._refused(exc)
        except GatewayError as exc:
            for index in new:
                verdicts[index] = self._refused(exc)
        else:
            for index in new:
                waits[index] = [done]

    async def _wait(self, verdicts: list[Verdict], waits: list[list[asyncio.Future[None]]]) -> None:
        for index, futures in enumerate(waits):
            try:
                for future in futures:
                    await asyncio.shield(future)
            except GatewayError as exc:
                verdicts[index] = self._refused(exc)

    def _let_go(self, outgoing: Outgoing) -> None:
        account = self._gate.owner(outgoing.account)
        self._metrics.count(Metric.IM_ACCEPTED, label="unbound" if account is None else account.network)
        self._expiry.note(outgoing.account, outgoing.expires_ms)
        self._supervision.wake(outgoing.account)

    def _refused(self, error: GatewayError) -> Verdict:
        self._metrics.count(Metric.IM_REFUSED, label=error.name)
        return Verdict(REFUSED, error=error)


def _own_conversation(recipient: Recipient) -> Conversation:
    if recipient.user:
        return Conversation(ConversationKind.DM, recipient.user)
    return Conversation(ConversationKind.ROOM, recipient.group)


def _txn_id(user: bytes, key: str, index: int) -> str:
    if not key:
        return secrets.token_hex(16)
    return sha256(b"\0".join((user, key.encode(), str(index).encode()))).hexdigest()[:32]
