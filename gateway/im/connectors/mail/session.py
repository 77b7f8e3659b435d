"""One mailbox that is connected: new mails of its INBOX as events, mails out by SMTP, files on demand (D14, D15)."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.mail.form import Mailbox
from gateway.im.connectors.mail.letters import (
    FileRef,
    build_envelope,
    build_file_ref,
    made_remote_id,
    parse_file_ref,
    parse_made_id,
    placeholder,
)
from gateway.im.connectors.mail.link import Link, Refused, Threads, open_socket
from gateway.im.connectors.mail.pieces import Decoder
from gateway.im.connectors.mail.structure import parse_structure
from gateway.im.connectors.mail.wire import ANSWER_BYTES, Client
from gateway.im.mime import HEAD_BYTES, RAW_TIMES, Leaf, choose, is_address, parse_head, split_parts
from gateway.im.mime_build import build_mail, check_outgoing
from gateway.im.smtp import send_mail
from gateway.model.im import (
    Act,
    Contact,
    Conversation,
    ConversationKind,
    CursorForgotten,
    Envelope,
    Event,
    MarkRead,
    Media,
    MediaFile,
    Message,
    Moved,
    Person,
    ReadUpTo,
    Rejected,
    Transient,
)

#: UIDs asked for at once while catching up
_WINDOW = 10_000
#: mails in one go, before others have their turn
_BATCH = 50
#: \Seen flags that one wake-up is told of, and mails that one mark marks
_MARKS = 500
#: bytes of a file in one piece
_PIECE = 262_144
_SEEN = b"\\Seen"


class _Found(NamedTuple):
    uids: list[int]
    #: all below were looked at
    upto: int


class MailSession:
    """Made by `open_session`."""

    def __init__(
        self,
        mailbox: Mailbox,
        link: Link,
        settings: ConnectorSettings,
        threads: Threads,
        context: ssl.SSLContext | None,
        uidvalidity: int,
        next_uid: int,
        known_next: int,
    ) -> None:
        self.me = Person(mailbox.address, is_self=True)
        self._mailbox = mailbox
        self._link = link
        self._settings = settings
        self._threads = threads
        self._context = context
        self._uidvalidity = uidvalidity
        self._next = next_uid
        #: UIDs below are the server's own word, so that windows may be used
        self._known_next = known_next
        self._can_idle = True

    # --- in

    def _cursor(self) -> bytes:
        return b"%d.%d" % (self._uidvalidity, self._next)

    async def events(self) -> AsyncIterator[Event]:
        # who goes before anything has come has a place to go on at
        yield Moved(self._cursor())
        while True:
            async with self._link.turn():
                found = await self._find()
            for uid in found.uids:
                async with self._link.turn():
                    envelope = await self._read(uid)
                self._next = uid + 1
                yield Moved(self._cursor()) if envelope is None else Message(envelope, self._cursor())
            if found.upto > self._next:
                self._next = found.upto
                yield Moved(self._cursor())
            if found.uids or self._next < self._known_next:
                continue
            async with self._link.turn():
                reads = await self._wait()
            for read in reads:
                yield read

    async def _find(self) -> _Found:
        first = self._next
        if first < self._known_next:
            last = min(first + _WINDOW, self._known_next) - 1
            uids = await self._search(f"{first}:{last}")
            upto = last + 1
        else:
            # the last mail is in `n:*` even where its UID is less than n
            uids = await self._search(f"{first}:*")
            upto = first
        uids = sorted(uid for uid in set(uids) if uid >= first)
        return _Found(uids, upto) if len(uids) <= _BATCH else _Found(uids[:_BATCH], 0)

    async def _search(self, uids: str) -> list[int]:
        def work(client: Client) -> list[int]:
            for _ in range(10):
                found = list(client.search(["UID", uids]))
                # a mail that came while it searched was told of now, and IDLE would not tell it again
                if not client.wire.untagged_responses.pop("EXISTS", None):
                    break
            return found

        try:
            return await self._link.run(work)
        except Refused:
            raise Transient("the mail server does not search") from None

    async def _read(self, uid: int) -> Envelope | None:
        """None: it is gone. A mail that can not be read comes all the same, as one that says so."""
        try:
            return await self._link.run(partial(self._read_parts, uid=uid))
        except Refused:
            pass
        try:
            return await self._link.run(partial(self._read_whole, uid=uid))
        except Refused:
            return placeholder(self._uidvalidity, uid, self._now_ms())

    def _read_parts(self, client: Client, uid: int) -> Envelope | None:
        head_item = f"BODY.PEEK[HEADER]<0.{HEAD_BYTES}>"
        got = _row(client.fetch([uid], ["BODYSTRUCTURE", head_item, "INTERNALDATE"]), uid, b"BODYSTRUCTURE")
        if got is None:
            return None
        head = parse_head(_bytes(got, b"BODY[HEADER]"))
        leaves, left_out = parse_structure(got[b"BODYSTRUCTURE"])
        chosen = choose(leaves)
        body = b""
        if chosen.body is not None:
            limit = RAW_TIMES * self._settings.text_bytes
            path = chosen.body.path
            row = _row(client.fetch([uid], [f"BODY.PEEK[{path}]<0.{limit}>"]), uid, b"")
            body = b"" if row is None else _bytes(row, f"BODY[{path}]".encode())
        files = [self._media(leaf, uid) for leaf in chosen.attachments]
        return build_envelope(
            self._mailbox.address,
            head,
            chosen.body,
            body,
            files,
            left_out=left_out,
            remote_id=head.message_id or made_remote_id(self._uidvalidity, uid),
            at_remote_ms=_date_ms(got.get(b"INTERNALDATE")) or head.at_ms or self._now_ms(),
            at_ms=self._now_ms(),
            text_bytes=self._settings.text_bytes,
        )

    def _read_whole(self, client: Client, uid: int) -> Envelope | None:
        """As much of it as a text needs, without its files: for a mail whose structure nobody can read."""
        limit = RAW_TIMES * self._settings.text_bytes
        row = _row(client.fetch([uid], [f"BODY.PEEK[]<0.{limit}>"]), uid, b"")
        if row is None:
            return None
        data = _bytes(row, b"BODY[]")
        head, leaves, left_out = split_parts(data)
        body = choose(leaves).body
        return build_envelope(
            self._mailbox.address,
            head,
            body,
            b"" if body is None else data[body.start : body.end],
            [],
            left_out=left_out + len(leaves) - (body is not None),
            remote_id=head.message_id or made_remote_id(self._uidvalidity, uid),
            at_remote_ms=head.at_ms or self._now_ms(),
            at_ms=self._now_ms(),
            text_bytes=self._settings.text_bytes,
        )

    def _media(self, leaf: Leaf, uid: int) -> Media:
        size = leaf.size * 3 // 4 if leaf.encoding == "base64" and leaf.size >= 0 else leaf.size
        return Media(
            build_file_ref(FileRef(self._uidvalidity, uid, leaf.path, leaf.encoding)), leaf.mime, size, leaf.name
        )

    @staticmethod
    def _now_ms() -> int:
        return time.time_ns() // 1_000_000

    # --- waiting

    async def _wait(self) -> list[ReadUpTo]:
        """Until something may be new. What was read elsewhere is told."""
        try:
            told = await self._idle()
        except Refused:
            raise Transient("the mail server does not wait for mails") from None
        places = _seen_places(told)[-_MARKS:]
        if not places:
            return []
        try:
            return await self._link.run(partial(self._reads, places=places))
        except Refused:
            return []

    async def _idle(self) -> list[Any]:
        if self._can_idle:
            self._can_idle = await self._link.run(lambda client: client.has_capability("IDLE"))
        if self._can_idle:
            return await self._link.idle(self._settings.idle_s)
        await self._link.rest(self._settings.request_s)
        return await self._link.run(lambda client: list(client.noop()[1]))

    def _reads(self, client: Client, places: list[int]) -> list[ReadUpTo]:
        client.use_uid = False
        try:
            rows = client.fetch(places, ["UID", "BODY.PEEK[HEADER.FIELDS (MESSAGE-ID FROM)]"])
        finally:
            client.use_uid = True
        newest: dict[str, tuple[int, str]] = {}
        for row in rows.values():
            uid = row.get(b"UID")
            if not isinstance(uid, int):
                continue
            head = parse_head(_bytes(row, b"BODY[HEADER.FIELDS (MESSAGE-ID FROM)]"))
            if head.sender and head.sender != self._mailbox.address:
                remote_id = head.message_id or made_remote_id(self._uidvalidity, uid)
                newest[head.sender] = max(newest.get(head.sender, (0, "")), (uid, remote_id))
        return [
            ReadUpTo(Conversation(ConversationKind.DM, peer), self.me, remote_id)
            for peer, (_, remote_id) in newest.items()
        ]

    # --- out

    async def send(self, envelope: Envelope, files: Sequence[MediaFile] = ()) -> str:
        recipient = check_outgoing(envelope)
        settings, server = self._settings, self._mailbox.smtp
        build = partial(
            build_mail,
            envelope,
            files,
            sender=self._mailbox.address,
            now_ms=self._now_ms(),
            max_bytes=settings.media_bytes,
        )
        try:
            mail, remote_id = await self._threads.run(build, settings.request_s)
        except (OSError, ValueError, LookupError):
            raise Rejected("a file of it is not there any more, or it can not be said as a mail") from None
        sock = await open_socket(
            server.host, server.port, allows_private=settings.private_hosts, request_s=settings.request_s
        )
        await send_mail(
            server,
            self._mailbox.address,
            [recipient],
            mail,
            request_s=settings.request_s,
            context=self._context,
            sock=sock,
        )
        return remote_id

    async def contacts(self) -> AsyncIterator[Contact]:
        raise Rejected("a mailbox has no contacts")
        yield  # an iterator all the same

    async def act(self, act: Act) -> None:
        if not isinstance(act, MarkRead):
            raise Rejected("a mailbox can not do this")
        async with self._link.turn():
            try:
                await self._link.run(partial(self._mark_read, act=act))
            except Refused:
                raise Rejected("the mail server does not mark it as read") from None

    def _mark_read(self, client: Client, act: MarkRead) -> None:
        made = parse_made_id(act.remote_id)
        if made is not None:
            named = [made[1]] if made[0] == self._uidvalidity else []
        elif re.fullmatch(r"[!-~]{1,512}", act.remote_id):
            named = list(client.search(["HEADER", "Message-ID", f"<{act.remote_id}>"]))
        else:
            named = []
        if not named:
            raise Rejected("remote_id: no such mail")
        # up to it, as a conversation is read
        peer = act.conversation.remote_id
        before = client.search(["UID", f"1:{max(named)}", "UNSEEN", "FROM", peer]) if is_address(peer) else []
        client.add_flags(sorted({*named, *sorted(before)[-_MARKS:]}), [_SEEN], silent=True)

    async def fetch(self, media: Media) -> AsyncIterator[bytes]:
        ref = parse_file_ref(media.ref)
        if ref is None or ref.uidvalidity != self._uidvalidity:
            raise Rejected("this file is not there any more")
        decoder = Decoder(ref.encoding)
        at = taken = 0
        while True:
            async with self._link.turn():
                try:
                    piece = await self._link.run(partial(_fetch_piece, ref=ref, at=at), ANSWER_BYTES)
                except Refused:
                    raise Rejected("the mail server does not give this file") from None
            if piece is None or (not piece and not at):
                raise Rejected("this file is not there any more")
            data = decoder.feed(piece) if len(piece) == _PIECE else decoder.feed(piece) + decoder.end()
            at, taken = at + len(piece), taken + len(data)
            if taken > self._settings.media_bytes or at > 4 * self._settings.media_bytes:
                raise Rejected(f"this file is larger than {self._settings.media_bytes} bytes")
            if data:
                yield data
            if len(piece) < _PIECE:
                return


def _fetch_piece(client: Client, ref: FileRef, at: int) -> bytes | None:
    row = _row(client.fetch([ref.uid], [f"BODY.PEEK[{ref.path}]<{at}.{_PIECE}>"]), ref.uid, b"")
    return None if row is None else _bytes(row, f"BODY[{ref.path}]".encode())[:_PIECE]


def _row(rows: Any, uid: int, needed: bytes) -> dict[bytes, Any] | None:
    """None: there is no such mail (any more)."""
    row = rows.get(uid)
    return (
        row
        if isinstance(row, dict) and any(key not in (b"SEQ", b"FLAGS") for key in row) and (not needed or needed in row)
        else None
    )


def _bytes(row: dict[bytes, Any], item: bytes) -> bytes:
    """The value of an item, asked for with or without a range."""
    for key, value in row.items():
        if isinstance(key, bytes) and key.upper().split(b"<")[0] == item and isinstance(value, bytes):
            return value
    return b""


def _date_ms(value: Any) -> int:
    try:
        return max(0, int(value.timestamp() * 1_000))
    except (AttributeError, ValueError, OverflowError, TypeError):
        return 0


def _seen_places(told: list[Any]) -> list[int]:
    """Sequence numbers, as they are after all that was told, of mails that are read now."""
    places: list[int] = []
    for entry in told:
        if not isinstance(entry, tuple) or len(entry) < 2 or not isinstance(entry[0], int):
            continue
        if entry[1] == b"EXPUNGE":
            places = [place - (place > entry[0]) for place in places if place != entry[0]]
        elif entry[1] == b"FETCH" and len(entry) > 2 and isinstance(entry[2], tuple):
            pairs = dict(zip(entry[2][::2], entry[2][1::2], strict=False))
            flags = pairs.get(b"FLAGS")
            if isinstance(flags, tuple) and _SEEN in flags and entry[0] > 0:
                places = [place for place in places if place != entry[0]] + [entry[0]]
    return places


def parse_cursor(cursor: bytes) -> tuple[int, int]:
    """UIDVALIDITY and the next UID. CursorForgotten for what is none."""
    found = re.fullmatch(rb"([0-9]{1,10})\.([0-9]{1,10})", cursor)
    if found is None:
        raise CursorForgotten("this is no cursor of a mailbox")
    return int(found[1]), int(found[2])


async def open_session(
    mailbox: Mailbox,
    cursor: bytes | None,
    link: Link,
    settings: ConnectorSettings,
    threads: Threads,
    context: ssl.SSLContext | None,
) -> MailSession:
    """From the cursor on, or from now on. CursorForgotten where the mailbox was made anew."""
    wanted = None if cursor is None else parse_cursor(cursor)
    await link.open(mailbox, context, allows_private=settings.private_hosts)
    async with link.turn():
        try:
            answer = await link.run(_select)
        except Refused:
            raise Transient("the mail server does not open the inbox") from None
    uidvalidity, uidnext = answer
    if wanted is not None and wanted[0] != uidvalidity:
        raise CursorForgotten("the mailbox was made anew (UIDVALIDITY)")
    next_uid = uidnext if wanted is None else wanted[1]
    return MailSession(mailbox, link, settings, threads, context, uidvalidity, next_uid, uidnext)


def _select(client: Client) -> tuple[int, int]:
    answer = client.select_folder("INBOX")
    uidvalidity, uidnext = answer.get(b"UIDVALIDITY"), answer.get(b"UIDNEXT")
    if not isinstance(uidnext, int):
        uidnext = max(client.search(["UID", "*"]), default=0) + 1
    if not isinstance(uidvalidity, int):
        raise ValueError
    return uidvalidity, uidnext
