"""What becomes of a mail for one of our users (D14): whose it is, its text and files, into the log and to the devices.
Answers in the words of SMTP; must never raise, and never say 250 before it is durable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from gateway.config.im_section import Im
from gateway.im.mime import (
    UNKNOWN_SENDER,
    Chosen,
    Head,
    Leaf,
    choose,
    decode_text,
    decode_transfer,
    find_place,
    is_address,
    made_id,
    note,
    split_parts,
)
from gateway.metrics import Metric, Metrics
from gateway.model.errors import GatewayError
from gateway.model.im import Conversation, ConversationKind, Envelope, Kind, Media, Person
from gateway.model.im_people import Item, ItemKind
from gateway.model.im_ports import Delivering, MediaRefused, MediaStore, UserRecords

#: RFC 5321 §6.3: a mail that came through more servers goes in a circle
HOPS = 50
#: files of one mail
FILES = 32
_PIECE = 65_536
NETWORK = "mail"


class _Parsed(NamedTuple):
    head: Head
    chosen: Chosen
    left_out: int
    text: str
    message_id: str


class MailIntake:
    def __init__(
        self,
        settings: Im,
        users: UserRecords,
        media: MediaStore,
        delivering: Delivering,
        metrics: Metrics,
        clock_ms: Callable[[], int],
        account_of: Callable[[bytes], int] = lambda _user: 0,
    ) -> None:
        self._settings = settings
        self._domain = settings.mail_domain.lower()
        self._users = users
        self._media = media
        self._delivering = delivering
        self._metrics = metrics
        self._clock_ms = clock_ms
        #: the account that the user answers from; 0: there is none
        self._account_of = account_of

    def check_recipient(self, address: str) -> str:
        """Why not, as SMTP says it; empty: welcome."""
        try:
            user = self._user(address)
        except GatewayError:
            self._metrics.count(Metric.IM_MAILS, label="store")
            return "451 4.3.0 come back later"
        if user is not None:
            return ""
        if address.rpartition("@")[2].lower() != self._domain or not self._domain:
            self._metrics.count(Metric.IM_MAILS, label="relay")
            return "550 5.7.1 nothing is relayed here"
        self._metrics.count(Metric.IM_MAILS, label="unknown")
        return "550 5.1.1 no such mailbox"

    def _user(self, address: str) -> bytes | None:
        local, at, domain = address.rpartition("@")
        if not at or not self._domain or domain.lower() != self._domain or not is_address(address):
            return None
        return self._users.find_mailbox(local.partition("+")[0].lower())

    async def take(self, sender: str, recipients: list[str], mail: bytes) -> list[str]:
        """An answer for each recipient."""
        parsed = await asyncio.to_thread(self._parse, mail)
        if parsed.head.hops > HOPS:
            self._metrics.count(Metric.IM_MAILS, len(recipients), label="loop")
            return ["554 5.4.6 this mail goes in a circle"] * len(recipients)
        done: dict[bytes, str] = {}
        answers = []
        for address in recipients:
            try:
                user = self._user(address)
                if user is None:  # it was there when it was named
                    answers.append("550 5.1.1 no such mailbox")
                    continue
                if user not in done:
                    done[user] = await self._deliver(user, sender, parsed, mail)
                answers.append(done[user])
            except GatewayError:
                self._metrics.count(Metric.IM_MAILS, label="store")
                answers.append("451 4.3.0 come back later")
            except Exception:
                # LMTP wants an answer for each recipient, whatever happens
                self._metrics.count(Metric.IM_MAILS, label="fault")
                answers.append("451 4.3.0 this failed here, come back later")
        return answers

    def _parse(self, mail: bytes) -> _Parsed:
        head, leaves, left_out = split_parts(mail)
        chosen = choose(leaves)
        body = chosen.body
        text = "" if body is None else decode_text(mail[body.start : body.end], body, self._settings.max_text_bytes)
        return _Parsed(head, chosen, left_out, text, head.message_id or made_id(mail))

    async def _deliver(self, user: bytes, sender: str, parsed: _Parsed, mail: bytes) -> str:
        files: list[Media] = []
        refused = parsed.left_out + max(0, len(parsed.chosen.attachments) - FILES)
        self._count_files("left_out", refused)
        for leaf in parsed.chosen.attachments[:FILES]:
            data = await asyncio.to_thread(_decode, mail, leaf)
            try:
                wanted = Media("", leaf.mime, len(data), leaf.name)
                files.append(await self._media.take(_pieces(data), user=user, media=wanted))
                self._count_files("taken", 1)
            except MediaRefused:
                refused += 1
                self._count_files("refused", 1)
        text = parsed.text
        if refused:
            text = note(text, f"{refused} files or parts of this mail were not taken", self._settings.max_text_bytes)
        envelope = self._envelope(sender, parsed, text, files)
        account = self._account_of(user)
        item = Item(ItemKind.MESSAGE, self._clock_ms(), account=account, envelope=envelope)
        await self._delivering.deliver(user, [item], account=account).done
        self._metrics.count(Metric.IM_MAILS, label="taken")
        return "250 2.0.0 OK"

    def _count_files(self, result: str, count: int) -> None:
        if count:
            self._metrics.count(Metric.IM_MAIL_FILES, count, label=result)

    def _envelope(self, sender: str, parsed: _Parsed, text: str, files: list[Media]) -> Envelope:
        head, now_ms = parsed.head, self._clock_ms()
        peer = head.sender or (sender.lower() if is_address(sender) else UNKNOWN_SENDER)
        return Envelope(
            network=NETWORK,
            conversation=Conversation(ConversationKind.DM, peer),
            sender=Person(peer, head.sender_name),
            remote_id=parsed.message_id,
            kind=Kind.MAIL,
            text=text,
            subject=head.subject,
            media=tuple(files),
            geo=find_place(text),
            reply_to=head.in_reply_to,
            at_remote_ms=head.at_ms or now_ms,
            at_ms=now_ms,
        )


def _decode(mail: bytes, leaf: Leaf) -> bytes:
    return decode_transfer(mail[leaf.start : leaf.end], leaf.encoding)


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), _PIECE):
        yield data[at : at + _PIECE]
