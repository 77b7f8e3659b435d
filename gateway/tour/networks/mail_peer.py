"""The other person of a mail conversation: writes by the standard library's `smtplib`, reads by IMAPClient, and looks
into our own mailbox as another mail program of ours would."""

from __future__ import annotations

import asyncio
import contextlib
import re
import smtplib
import time
from collections.abc import Callable
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from email.utils import make_msgid
from typing import Any, NamedTuple

from imapclient import IMAPClient  # type: ignore[import-untyped]

from gateway.model.im import Conversation, ConversationKind
from gateway.tour.networks.mail_server import DOMAIN, PASSWORD, MailServer

_PATIENCE_S = 20.0
_PAUSE_S = 0.03
_PLACE = re.compile(r"geo:(-?[0-9.]+),(-?[0-9.]+)")


class Letter(NamedTuple):
    """One mail as the peer's library has it."""

    text: str
    file: bytes
    geo: tuple[float, float] | None
    remote_id: str
    subject: str
    reply_to: str
    raw: bytes

    def __repr__(self) -> str:
        return f"Letter({len(self.raw)} bytes)"


class MailPeer:
    """Writes from `person` to `ours`."""

    def __init__(self, server: MailServer, person: str = "bob", ours: str = "alice") -> None:
        self._server = server
        self.address, self.ours = server.address(person), server.address(ours)
        self.conversation = Conversation(ConversationKind.DM, self.address)
        self._next = 1
        self._read: set[int] = set()

    # --- out

    async def say(self, text: str) -> None:
        mail = self._mail(text)
        await self.say_mail(mail.as_bytes(), str(mail["Message-ID"]))

    async def say_file(self, data: bytes, mime: str, name: str) -> None:
        mail = self._mail("with a file")
        main, _, sub = mime.partition("/")
        mail.add_attachment(data, maintype=main, subtype=sub, filename=name)
        await self.say_mail(mail.as_bytes(), str(mail["Message-ID"]))

    async def say_place(self, latitude: float, longitude: float) -> None:
        await self.say(f"geo:{latitude},{longitude}")

    def _mail(self, text: str) -> EmailMessage:
        mail = EmailMessage()
        mail["From"], mail["To"] = f"Bob Bäcker <{self.address}>", self.ours
        mail["Subject"] = "Von Bob: grüße"
        mail["Message-ID"] = make_msgid(domain=DOMAIN)
        mail.set_content(text)
        return mail

    async def say_mail(self, raw: bytes, message_id: str = "") -> None:
        """Any bytes. Returns when it is in our mailbox: the server's queue keeps no order."""

        def work() -> None:
            with smtplib.SMTP("127.0.0.1", self._server.ports["smtp"], timeout=_PATIENCE_S) as smtp:
                smtp.sendmail(self.address, [self.ours], raw)
            if message_id:
                self._poll(self.ours, lambda imap: imap.search(["HEADER", "Message-ID", message_id]))

        await asyncio.to_thread(work)

    # --- in

    async def hear(self) -> Letter:
        def look(imap: Any) -> Letter | None:
            uids = [uid for uid in imap.search(["UID", f"{self._next}:*"]) if uid >= self._next]
            if not uids:
                return None
            uid = min(uids)
            self._next = uid + 1
            return _letter(imap.fetch([uid], ["BODY.PEEK[]"])[uid][b"BODY[]"])

        letter = await asyncio.to_thread(self._poll, self.address, look)
        assert isinstance(letter, Letter)
        return letter

    async def read_all(self) -> None:
        """No network tells who wrote a mail that it was read."""

    async def hear_read(self) -> str:
        """The next mail of our mailbox that is marked as read, as another program of ours sees it."""

        def look(imap: Any) -> str:
            for uid in imap.search(["SEEN"]):
                if uid not in self._read:
                    self._read.add(uid)
                    head = imap.fetch([uid], ["BODY.PEEK[HEADER]"])[uid][b"BODY[HEADER]"]
                    return str(message_from_bytes(head, policy=default)["Message-ID"])
            return ""

        return str(await asyncio.to_thread(self._poll, self.ours, look))

    async def read_ours(self, message_id: str) -> None:
        """Another program of ours marks a mail as read."""

        def look(imap: Any) -> bool:
            uids = imap.search(["HEADER", "Message-ID", message_id])
            if uids:
                imap.add_flags(uids, [b"\\Seen"])
            return bool(uids)

        await asyncio.to_thread(self._poll, self.ours, look)

    def _poll(self, address: str, look: Callable[[Any], Any]) -> Any:
        """What `look` finds in an inbox, as soon as it finds something."""
        imap = IMAPClient("127.0.0.1", self._server.ports["imap"], ssl=False, timeout=_PATIENCE_S)
        try:
            imap.login(address, PASSWORD)
            until = time.monotonic() + _PATIENCE_S
            while time.monotonic() < until:
                imap.select_folder("INBOX")
                found = look(imap)
                if found:
                    return found
                time.sleep(_PAUSE_S)
            raise TimeoutError("no such mail came")
        finally:
            with contextlib.suppress(Exception):
                imap.logout()


def _letter(raw: bytes) -> Letter:
    mail = message_from_bytes(raw, policy=default)
    assert isinstance(mail, EmailMessage)
    body = mail.get_body(("plain",))
    text = "" if body is None else str(body.get_content()).strip()
    files = [part.get_content() for part in mail.iter_attachments()]
    place = _PLACE.search(text)
    return Letter(
        text,
        files[0] if files and isinstance(files[0], bytes) else b"",
        None if place is None else (float(place[1]), float(place[2])),
        str(mail["Message-ID"] or "").strip("<>"),
        str(mail["Subject"] or ""),
        str(mail["In-Reply-To"] or "").strip("<>"),
        raw,
    )
