"""What is sent to a NATS server without copying a large payload, and requests that cost no task, queue or message each;
must never say that a request did not leave where it may have.

The client of nats-py keeps the connection and the one subscription that all answers come by. It makes that again after
a loss, so an answer that was on its way comes all the same.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nats.aio.client import Client

#: a payload below this is cheaper copied than sent apart
COPIED_BYTES = 4_096
_HEADER_LINE = "NATS/1.0\r\n"
_NOT_OF_A_NAME = re.compile(r"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")
_BLANK = re.compile(r"\s")
#: of the server, where nobody listens
_NOBODY = b"NATS/1.0 503"

#: (payload, header) of an answer; None: its time is over
_Answer = tuple[bytes, bytes | None] | None


async def send_pending(client: Client, pieces: Sequence[bytes]) -> None:
    """Behind what the client has not sent yet; its flusher waits for room."""
    inside: Any = client
    inside._pending += pieces
    inside._pending_data_size += sum(map(len, pieces))
    if inside._flush_queue is not None and inside._flush_queue.empty():
        await inside._flush_pending()


class Requests:
    """Of one client, for its life; holds those who wait, and nobody else."""

    def __init__(self, client: Client) -> None:
        import nats.errors

        self._client: Any = client
        self._errors = nats.errors
        #: of the subscription that answers come by; 0: there is none yet
        self.sid = 0
        self._inbox = b""
        self._count = 0
        self._subscribing = asyncio.Lock()
        #: by the subject that the answer goes to
        self._waiting: dict[bytes, asyncio.Future[_Answer]] = {}

    def hear(self, subject: bytes, payload: bytes, header: bytes | None) -> None:
        waiting = self._waiting.get(subject)
        if waiting is not None and not waiting.done():  # otherwise it is late, or the second
            waiting.set_result((payload, header))

    async def request(
        self, subject: str, payload: bytes, timeout_s: float, headers: dict[str, str] | None = None
    ) -> bytes:
        """The answer's payload. Errors as of the client's `request`; OutboundBufferLimitError: it did not leave, for
        want of a connection, or of room in its time."""
        if not subject or _BLANK.search(subject):
            raise self._errors.BadSubjectError
        header = b"" if headers is None else self._build_header(headers)
        self._check(len(header) + len(payload))
        while self.sid not in self._client._subs:
            await self._subscribe()
            self._check(len(header) + len(payload))
        self._count += 1
        inbox = b"%s%d" % (self._inbox, self._count)
        pieces = _build_request(subject.encode(), inbox, header, payload)
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[_Answer] = loop.create_future()
        self._waiting[inbox] = waiting
        timer = loop.call_later(timeout_s, _end, waiting)
        answer = None
        try:
            await self._send(pieces)
            answer = await waiting
        finally:
            del self._waiting[inbox]
            timer.cancel()
            has_left = answer is not None or not self._withdraw(pieces)
        if answer is None:
            raise self._errors.TimeoutError if has_left else self._errors.OutboundBufferLimitError
        body, answer_header = answer
        if answer_header is not None and answer_header.startswith(_NOBODY):
            raise self._errors.NoRespondersError
        return body

    def _check(self, size: int) -> None:
        """That it can be sent now, and its answer be heard."""
        client = self._client
        if client.is_draining:
            raise self._errors.ConnectionDrainingError
        if not client.is_connected or not client._transport.is_open:
            raise self._errors.OutboundBufferLimitError
        if size > client.max_payload:
            raise self._errors.MaxPayloadError

    async def _subscribe(self) -> None:
        async with self._subscribing:
            if self.sid not in self._client._subs:
                inbox = f"{self._client.new_inbox()}."
                subscription = await self._client.subscribe(f"{inbox}*")
                self._inbox, self.sid = inbox.encode(), subscription._id

    def _build_header(self, headers: dict[str, str]) -> bytes:
        lines = [_HEADER_LINE]
        for name, value in headers.items():
            if not name or _NOT_OF_A_NAME.search(name):
                raise self._errors.Error("nats: no name of a header")
            if "\r" in value or "\n" in value:  # it would end the line
                value = value.replace("\r", " ").replace("\n", " ")
            lines.append(f"{name}: {value.strip()}\r\n")
        lines.append("\r\n")
        return "".join(lines).encode()

    async def _send(self, pieces: Sequence[bytes]) -> None:
        client = self._client
        if client._pending or not client._transport.has_room:
            await send_pending(client, pieces)
        else:
            client._transport.writelines(pieces)

    def _withdraw(self, pieces: Sequence[bytes]) -> bool:
        """False: it was given to the connection."""
        pending = self._client._pending
        for at, piece in enumerate(pending):
            if piece is pieces[0]:
                del pending[at : at + len(pieces)]
                self._client._pending_data_size -= sum(map(len, pieces))
                return True
        return False


def _build_request(subject: bytes, inbox: bytes, header: bytes, payload: bytes) -> tuple[bytes, ...]:
    if header:
        sizes = b"%d %d" % (len(header), len(header) + len(payload))
        head = b"HPUB %s %s %s\r\n%s" % (subject, inbox, sizes, header)
    else:
        head = b"PUB %s %s %d\r\n" % (subject, inbox, len(payload))
    if len(payload) < COPIED_BYTES:
        return (b"%s%s\r\n" % (head, payload),)
    return head, payload, b"\r\n"


def _end(waiting: asyncio.Future[_Answer]) -> None:
    if not waiting.done():
        waiting.set_result(None)
