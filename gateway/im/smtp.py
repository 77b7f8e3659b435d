"""One mail to one SMTP server; must never log, retry, or speak in the clear where TLS is asked for."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import NamedTuple

import aiosmtplib

from gateway.im.mime import is_address
from gateway.model.im import AuthFailed, Rejected, Transient

#: bytes a second that a server has to take at least
_SLOWEST = 65_536
TLS_MODES = ("tls", "starttls", "never")


class SmtpServer(NamedTuple):
    host: str
    port: int
    #: one of TLS_MODES
    tls: str
    user: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return "SmtpServer(hidden)"


async def send_mail(
    server: SmtpServer,
    sender: str,
    recipients: Sequence[str],
    mail: bytes,
    *,
    request_s: float,
    context: ssl.SSLContext | None = None,
    sock: socket.socket | None = None,
) -> None:
    """Returns when the server has it. AuthFailed, Transient, Rejected, and nothing else. `sock`: connected already."""
    if not all(is_address(address) for address in (sender, *recipients)):
        if sock is not None:
            sock.close()
        raise Rejected("an address is not one that SMTP can say")
    client = aiosmtplib.SMTP(
        hostname=server.host,
        port=None if sock is not None else server.port,
        sock=sock,
        use_tls=server.tls == "tls",
        start_tls=server.tls == "starttls",
        tls_context=context,
        local_hostname=sender.rpartition("@")[2],
        timeout=request_s,
    )
    is_in_doubt = False
    try:
        async with asyncio.timeout(4 * request_s + len(mail) / _SLOWEST):
            await client.connect()
            if client.is_ehlo_or_helo_needed:
                await client.ehlo()
            if server.user and client.supports_extension("auth"):
                await client.login(server.user, server.password)
            is_in_doubt = True
            await client.sendmail(sender, list(recipients), mail)
    except Exception as exc:
        raise _classify(exc, is_in_doubt=is_in_doubt) from None
    finally:
        client.close()


def _classify(exc: Exception, *, is_in_doubt: bool) -> Exception:
    if isinstance(exc, aiosmtplib.SMTPAuthenticationError):
        if 500 <= exc.code < 600:
            return AuthFailed("the mail server does not take these credentials")
        return Transient(f"the mail server can not check credentials now ({exc.code})")
    if isinstance(exc, aiosmtplib.SMTPRecipientsRefused):
        codes = [refused.code for refused in exc.recipients]
        return _by_code(next((code for code in codes if code < 500), codes[0] if codes else 450), "the recipient")
    if isinstance(exc, aiosmtplib.SMTPConnectResponseError | aiosmtplib.SMTPHeloError):
        return Transient(f"the mail server does not serve now ({exc.code})")
    if isinstance(exc, aiosmtplib.SMTPResponseException):
        return _by_code(exc.code, "the mail")
    if isinstance(exc, aiosmtplib.SMTPNotSupported):
        return Transient("the mail server does not offer what is asked of it (STARTTLS, AUTH)")
    if isinstance(exc, ssl.SSLError) or isinstance(exc.__cause__, ssl.SSLError):
        return Transient("no TLS with the mail server: its certificate is not good, or it speaks none")
    if isinstance(exc, ValueError) and not isinstance(exc, UnicodeDecodeError):
        return Rejected("an address is not one that SMTP can say")
    if isinstance(exc, TimeoutError):
        return Transient("the mail server did not answer in time", is_in_doubt=is_in_doubt)
    # it may have gone between the last byte of the mail and the answer
    return Transient("the connection to the mail server was lost, or there is none", is_in_doubt=is_in_doubt)


def _by_code(code: int, what: str) -> Exception:
    if 500 <= code < 600 and code != 530:
        return Rejected(f"the mail server refused {what} ({code})")
    return Transient(f"the mail server does not take {what} now ({code})")
