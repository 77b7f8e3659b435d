"""Mail out from a user's mailbox in the service's own domain (D15), with the words of a connector's session: it never
retries, stores or logs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial

from gateway.config.im_section import Im
from gateway.im.mime import is_address
from gateway.im.mime_build import build_mail
from gateway.im.own_mail import build_smtp_server
from gateway.im.smtp import send_mail
from gateway.model.errors import ConfigError
from gateway.model.im import AuthFailed, Envelope, MediaFile, Rejected, Transient


class OwnMailbox:
    """Of all users. Built once: ConfigError where the settings are not enough."""

    def __init__(self, settings: Im) -> None:
        if not is_address(f"a@{settings.mail_domain}"):
            raise ConfigError("expected the domain of the mailboxes that users have here", field="im.mail_domain")
        self._server = build_smtp_server(settings)
        self._domain = settings.mail_domain.lower()
        self._request_s = settings.request_s
        self._max_bytes = settings.mail_bytes

    def address(self, local_part: str) -> str:
        return f"{local_part}@{self._domain}"

    async def send(self, local_part: str, envelope: Envelope, files: Sequence[MediaFile] = ()) -> str:
        """The remote id, once the server has it; the same for each try of one `txn_id`. `local_part`: the sender's
        User.mailbox. Transient, Rejected."""
        sender = self.address(local_part)
        if not is_address(sender):
            raise Rejected("the user has no mailbox here")
        build = partial(
            build_mail, envelope, files, sender=sender, now_ms=time.time_ns() // 1_000_000, max_bytes=self._max_bytes
        )
        try:
            mail, remote_id = await asyncio.to_thread(build)
        except (OSError, ValueError, LookupError):
            raise Rejected("a file of it is not there any more, or it can not be said as a mail") from None
        recipient = envelope.conversation.remote_id
        try:
            await send_mail(self._server, sender, [recipient], mail, request_s=self._request_s)
        except AuthFailed:
            # ours, and no fault of the user's
            raise Transient("the mail server of this gateway does not take its credentials (im.smtp_user)") from None
        return remote_id
