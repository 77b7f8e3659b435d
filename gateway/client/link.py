"""One TCP connection of a Device; knows nothing of frames."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Protocol, cast

from gateway.client.addresses import Stop

_log = logging.getLogger("gateway.client")

CONNECT_S = 10.0
#: what is said to the gateway's TLS port (RFC 7301)
ALPN = "heliograph/1"


class Complaints:
    """Why the gateway can not be reached. What the log alone would show, a TLS that fails, it says there, each once:
    nothing else tells who waits that waiting does not help."""

    def __init__(self) -> None:
        self._said = ""

    def note(self, error: OSError | TimeoutError) -> str:
        """In words."""
        if isinstance(error, ssl.SSLCertVerificationError):
            why = f"The gateway's certificate was refused: {error.verify_message.rstrip('.')}."
        elif alert := _alert(error):
            why = f"The gateway refused TLS: {alert}."
        elif isinstance(error, ssl.SSLError):
            why = f"TLS with the gateway failed: {error.reason or error}."
        else:
            return "The gateway can not be reached."
        if why != self._said:
            self._said = why
            _log.warning("%s Trying again.", why)
        return why

    def note_cut(self, error: Exception | None) -> str:
        """In words, of a connection that was there. With TLS 1.3 the client's handshake is over before the gateway has
        looked at its certificate, so a refusal comes as the end of a connection."""
        return self.note(error) if isinstance(error, ssl.SSLError) and _alert(error) else "The connection was cut."


def _alert(error: Exception) -> str:
    """What the other side said of it: "certificate required"; "" where it said nothing."""
    reason = error.reason if isinstance(error, ssl.SSLError) else ""  # TLSV13_ALERT_CERTIFICATE_REQUIRED
    return (reason or "").partition("_ALERT_")[2].replace("_", " ").lower()


def build_tls(tls: bool | ssl.SSLContext) -> ssl.SSLContext | None:
    """True: TLS 1.2 or newer, the gateway's certificate checked against the system's authorities and its host name. A
    context of one's own is taken as it is: for a private authority, or a certificate of the device's. False: none."""
    if not isinstance(tls, bool):
        return tls
    if not tls:
        return None
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    return context


def is_checked(tls: ssl.SSLContext | None) -> bool:
    """Whoever speaks inside this was found to be the gateway."""
    return tls is not None and tls.verify_mode == ssl.CERT_REQUIRED and tls.check_hostname


class LinkOwner(Protocol):
    def on_connected(self, link: Link) -> None: ...

    def on_data(self, link: Link, data: bytes) -> None: ...

    def on_gone(self, link: Link) -> None: ...


class Link(asyncio.Protocol):
    def __init__(self, owner: LinkOwner) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self.closing = False
        #: what ended it, where something is known
        self.error: Exception | None = None
        #: set when the connection is gone
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def connect(self, stop: Stop, tls: ssl.SSLContext | None, server_name: str) -> None:
        """Raises OSError, TimeoutError. `server_name`: in the certificate, where it is not the stop's own."""
        name = (server_name or stop.name) if tls is not None else None
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_S):
            await loop.create_connection(lambda: self, stop.host, stop.port, ssl=tls, server_hostname=name)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self._owner.on_connected(self)

    def data_received(self, data: bytes) -> None:
        self._owner.on_data(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        if not self.gone.done():
            self.gone.set_result(None)
        self._owner.on_gone(self)

    def write(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def pause(self, paused: bool) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def close(self, last: bytes) -> None:
        """Behind what is written and `last`. It may take for ever where the peer reads nothing; then abort."""
        self.write(last)
        self.closing = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
