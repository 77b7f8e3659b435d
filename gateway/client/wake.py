"""Hears over IP that there is something to fetch, while the app keeps no connection (C11); must never believe what it
hears: anybody can send a datagram, so it is a reason to connect and no more.

The gateway's side is the pager `ip`: a confirmable CoAP POST to the app's port (RFC 7252). What is no such request is
answered as the standard has it, or not at all.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from gateway.model.coap import (
    BAD_REQUEST,
    CHANGED,
    EMPTY,
    MOST_BYTES,
    NOT_ALLOWED,
    NOT_FOUND,
    POST,
    URI_PATH,
    BadCoap,
    Coap,
    CoapType,
    build_coap,
    build_empty,
    parse_coap,
)

#: answers kept so that a request that is sent again is answered alike, and wakes nobody twice (RFC 7252 §4.5)
MOST_ANSWERED = 64
#: version 1 of the payload, and its shortest form
PAYLOAD_VERSION, LEAST_PAYLOAD_BYTES = 1, 39


class WakeListener:
    """`on_wake` is called on the loop with the payload, at most once in `quiet_s`: what comes sooner is acknowledged,
    for the app fetches all there is when it connects.

    ```python
    wake = asyncio.Event()
    listener = WakeListener(lambda _payload: wake.set())
    await listener.start(16_000)
    await wake.wait()
    async with Device(host, port) as device: ...  # it fetches what there is
    ```
    """

    def __init__(self, on_wake: Callable[[bytes], None], *, path: str = "push", quiet_s: float = 1.0) -> None:
        self._on_wake = on_wake
        self._path = (path.encode(),) if path else ()
        self._quiet_s = quiet_s
        self._transport: asyncio.DatagramTransport | None = None
        self._answered: OrderedDict[tuple[object, int], bytes] = OrderedDict()
        self._woken_at = float("-inf")
        #: datagrams that were no request for this app
        self.refused = 0
        self.port = 0

    async def start(self, port: int, host: str = "0.0.0.0") -> int:  # noqa: S104 - a terminal's own address changes
        """Returns the port, for 0 takes a free one. OSError."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Protocol(self), local_addr=(host, port))
        self.port = int(self._transport.get_extra_info("sockname")[1])
        return self.port

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def handle(self, data: bytes, source: object) -> bytes:
        """The answer to a datagram, empty where there is none. Raises nothing but what `on_wake` does."""
        try:
            message = parse_coap(data[: MOST_BYTES + 1])
        except BadCoap:
            self.refused += 1
            return b""
        if message.kind in (CoapType.ACK, CoapType.RST):
            return b""  # to nothing that was asked
        key = (source, message.message_id)
        if key in self._answered:
            return self._answered[key]
        answer = self._answer(message)
        if len(self._answered) >= MOST_ANSWERED:
            self._answered.popitem(last=False)
        self._answered[key] = answer
        return answer

    def _answer(self, message: Coap) -> bytes:
        code = self._check(message)
        if code == CHANGED:
            self._wake(message.payload)
        else:
            self.refused += 1
        if message.kind is CoapType.NON:
            return b""
        if code == EMPTY:
            return build_empty(CoapType.RST, message.message_id)
        return build_coap(Coap(CoapType.ACK, code, message.message_id, message.token))

    def _check(self, message: Coap) -> int:
        """Code of the answer; EMPTY: what came is reset."""
        if not message.is_request:
            return EMPTY  # a ping (§4.3), or an answer to nothing
        if any(number & 1 and number not in (URI_PATH, 3, 7) for number, _ in message.options):
            return 0x82  # 4.02: a critical option that is not known (§5.4.1); Uri-Host and Uri-Port are any
        if message.path != self._path:
            return NOT_FOUND
        if message.code != POST:
            return NOT_ALLOWED
        if len(message.payload) < LEAST_PAYLOAD_BYTES or message.payload[0] != PAYLOAD_VERSION:
            return BAD_REQUEST
        return CHANGED

    def _wake(self, payload: bytes) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._woken_at < self._quiet_s:
            return
        self._woken_at = now
        self._on_wake(payload)

    def receive(self, data: bytes, source: object) -> None:
        answer = self.handle(data, source)
        if answer and self._transport is not None:
            self._transport.sendto(answer, source)  # type: ignore[arg-type]


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, listener: WakeListener) -> None:
        self._listener = listener

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._listener.receive(data, addr)
