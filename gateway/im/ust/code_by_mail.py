"""One-time codes by mail (D1): a CodeSender over the server that takes our own mail; must never show an address or a
code."""

from __future__ import annotations

import time

from gateway.config.im_section import Im
from gateway.im.mime import is_address
from gateway.im.mime_build import build_mail
from gateway.im.own_mail import build_smtp_server
from gateway.im.smtp import send_mail
from gateway.model.errors import ConfigError, InvalidField, MailUnavailable
from gateway.model.im import AuthFailed, Conversation, ConversationKind, Envelope, Person, Rejected, Transient

_MAX_BYTES = 65_536


class CodesByMail:
    """A CodeSender. Built once: ConfigError where the settings are not enough."""

    def __init__(self, settings: Im) -> None:
        if not is_address(settings.smtp_from):
            raise ConfigError("expected the mail address that codes come from", field="im.smtp_from")
        self._server = build_smtp_server(settings)
        self._sender = settings.smtp_from
        self._request_s = settings.request_s
        self._minutes = max(1, round(settings.code_s / 60))

    async def send(self, address: str, code: str) -> None:
        """InvalidField, MailUnavailable."""
        if not is_address(address):
            raise InvalidField("expected a mail address", field="address")
        envelope = Envelope(
            network="mail",
            conversation=Conversation(ConversationKind.DM, address),
            sender=Person(self._sender, is_self=True),
            subject=f"Your code: {code}",
            text=f"Your code is {code}\n\nIt is good for {self._minutes} minutes. Never tell it to anybody.",
        )
        now_ms = time.time_ns() // 1_000_000
        mail, _ = build_mail(envelope, (), sender=self._sender, now_ms=now_ms, max_bytes=_MAX_BYTES)
        try:
            await send_mail(self._server, self._sender, [address], mail, request_s=self._request_s)
        except Rejected:
            raise InvalidField("no mail can be sent to this address", field="address") from None
        except (AuthFailed, Transient):
            raise MailUnavailable from None
