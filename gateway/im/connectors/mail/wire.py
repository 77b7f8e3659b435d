"""The bytes of one IMAP connection beneath IMAPClient: every command has a deadline and a budget, and its socket is
ours; runs in threads, one at a time.

Neither imaplib nor IMAPClient bounds what a server may send: a literal is read in one piece whatever size it claims,
and a server that sends a byte now and then would hold its thread for ever.
"""

from __future__ import annotations

import contextlib
import imaplib
import socket
import ssl
import time
from typing import Any

from imapclient import IMAPClient  # type: ignore[import-untyped]

#: bytes of one line of an answer
LINE_BYTES = 1_048_576
#: bytes of all answers to one command
ANSWER_BYTES = 16_777_216


class Wire(imaplib.IMAP4):
    """Connected already; with a context it speaks TLS from the first byte."""

    def __init__(self, sock: socket.socket, host: str, context: ssl.SSLContext | None, request_s: float) -> None:
        self._given, self._context = sock, context
        self._buffer = bytearray()
        self.begin(request_s)
        super().__init__(host)

    def begin(self, seconds: float, budget: int = ANSWER_BYTES) -> None:
        """A command: over by then, with at most so many bytes of answers."""
        self._deadline = time.monotonic() + seconds
        self._budget = budget

    def open(self, host: str = "", port: int = 143, timeout: float | None = None) -> None:  # noqa: ARG002
        self.host, self.port = host, port
        self.sock: socket.socket = self._given
        if self._context is not None:
            self._wrap(self._context)

    def _wrap(self, context: ssl.SSLContext) -> None:
        self.sock.settimeout(self._left())
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host)

    def upgrade(self, context: ssl.SSLContext) -> None:
        """STARTTLS; what came in the clear behind its answer is nobody's (RFC 2595 §4)."""
        answer, _ = self._simple_command("STARTTLS")
        if answer != "OK" or self._buffer:
            raise self.abort("no TLS")
        self._wrap(context)

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _fill(self) -> None:
        self.sock.settimeout(self._left())
        data = self.sock.recv(65_536)
        self._budget -= len(data)
        if not data or self._budget < 0:
            raise self.abort("hung up, or too much of an answer")
        self._buffer += data

    def has_more(self) -> bool:
        """Something came already that no selector would tell of."""
        return bool(self._buffer) or (isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0)

    # --- what imaplib calls

    def readline(self) -> bytes:
        looked = 0
        while (at := self._buffer.find(b"\n", looked)) < 0:
            looked = len(self._buffer)
            if looked > LINE_BYTES:
                raise self.abort("a line without an end")
            self._fill()
        return self._take(at + 1)

    def read(self, size: int) -> bytes:
        if size > self._budget + len(self._buffer):
            raise self.abort("a literal that is too large")
        while len(self._buffer) < size:
            self._fill()
        return self._take(size)

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def send(self, data: Any) -> None:
        self.sock.settimeout(self._left())
        self.sock.sendall(data)

    def shutdown(self) -> None:
        self.hang_up()
        self.sock.close()

    def hang_up(self) -> None:
        """From any thread: who reads or writes comes back at once."""
        with contextlib.suppress(OSError):
            # of a TLS socket too: its own `shutdown` would change it beneath the thread that reads
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def _log(self, line: str) -> None:
        """imaplib would keep the last ten commands, and with them the password."""


class Client(IMAPClient):  # type: ignore[misc]
    """IMAPClient over a wire."""

    def __init__(self, wire_of: Any, host: str) -> None:
        self._wire_of = wire_of
        super().__init__(host, 0, ssl=False)
        self.wire.debug = 0  # it would log texts and passwords
        self.normalise_times = False

    def _create_IMAP4(self) -> Wire:
        wire: Wire = self._wire_of()
        self.wire = wire
        return wire

    def _set_read_timeout(self) -> None:
        """The wire has deadlines of its own."""

    def forget_capabilities(self) -> None:
        """What was said before TLS, or before the login, is not true any more."""
        self._cached_capabilities = None
        self.wire.untagged_responses.pop("CAPABILITY", None)
