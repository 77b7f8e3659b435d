"""A terminal of our own for tests and trials: strict about the CoAP it is sent, and able to misbehave in every way a
terminal may; must never be reachable from anywhere but this machine.

What breaks RFC 7252 or the payload's form is a line in `faults`, which a test expects to be empty.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from gateway.model.coap import (
    CHANGED,
    CONTENT_FORMAT,
    MOST_BYTES,
    OCTET_STREAM,
    POST,
    URI_PATH,
    BadCoap,
    Coap,
    CoapType,
    build_coap,
    build_empty,
    parse_coap,
)
from gateway.paging.app_payload import AppPayload, BadPayload, parse_payload


@dataclass(slots=True, frozen=True)
class Behaviour:
    """Of one request."""

    code: int = CHANGED
    #: the first so many transmissions are lost
    loses: int = 0
    #: reset | silent | separate (empty ACK, answer behind it) | acknowledge (empty ACK, no answer) | other_token |
    #: other_id | garbage | twice | answer_first (the answer comes, and its acknowledgement was lost)
    how: str = "answer"
    delay_s: float = 0.0


class LocalTerminal(asyncio.DatagramProtocol):
    def __init__(self, path: str = "push") -> None:
        self.behaviour = Behaviour()
        self.received: list[AppPayload] = []
        self.raw: list[bytes] = []
        self.faults: list[str] = []
        self.acknowledged: list[int] = []  # message ids of our own that were
        self.was_reset: list[int] = []
        self.datagrams = 0
        self._path = path
        self._transport: asyncio.DatagramTransport | None = None
        self._last: dict[object, tuple[int, int]] = {}  # source → (message id, how often)
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> int:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(host, port))
        self.port = int(self._transport.get_extra_info("sockname")[1])
        return self.port

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.datagrams += 1
        try:
            message = parse_coap(data)
        except BadCoap as exc:
            self.faults.append(str(exc))
            return
        if message.kind is CoapType.ACK:
            self.acknowledged.append(message.message_id)
        elif message.kind is CoapType.RST:
            self.was_reset.append(message.message_id)
        else:
            self.raw.append(data)
            task = asyncio.get_running_loop().create_task(self._answer(data, message, addr))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _check(self, data: bytes, message: Coap) -> AppPayload | None:
        checks = {
            "larger than a datagram should be (§4.6)": len(data) <= MOST_BYTES,
            "not confirmable": message.kind is CoapType.CON,
            "no POST": message.code == POST,
            "a token that could be guessed": len(message.token) == 8,
            "another path": message.path == ((self._path.encode(),) if self._path else ()),
            "no content format": (CONTENT_FORMAT, bytes((OCTET_STREAM,))) in message.options,
            "an option that says nothing here": {number for number, _ in message.options} <= {URI_PATH, CONTENT_FORMAT},
        }
        self.faults += [fault for fault, holds in checks.items() if not holds]
        try:
            return parse_payload(message.payload)
        except BadPayload as exc:
            self.faults.append(str(exc))
            return None

    async def _answer(self, data: bytes, message: Coap, source: object) -> None:
        behaviour = self.behaviour
        last_id, times = self._last.get(source, (-1, 0))
        times = times + 1 if last_id == message.message_id else 1
        self._last[source] = (message.message_id, times)
        payload = self._check(data, message)
        if times <= behaviour.loses or behaviour.how == "silent":
            return
        if times == behaviour.loses + 1 and payload is not None:
            self.received.append(payload)
        if behaviour.delay_s:
            await asyncio.sleep(behaviour.delay_s)
        for answer in self._answers(message, behaviour):
            self.send(answer, source)

    def _answers(self, message: Coap, behaviour: Behaviour) -> list[bytes]:
        other_id = (message.message_id + 1) & 0xFFFF
        right = build_coap(Coap(CoapType.ACK, behaviour.code, message.message_id, message.token))
        separate = build_coap(Coap(CoapType.CON, behaviour.code, other_id, message.token))
        acknowledgement = build_empty(CoapType.ACK, message.message_id)
        return {
            "answer": [right],
            "twice": [right, right],
            "reset": [build_empty(CoapType.RST, message.message_id)],
            "separate": [acknowledgement, separate],
            "answer_first": [separate],
            "acknowledge": [acknowledgement],
            "other_token": [build_coap(Coap(CoapType.ACK, behaviour.code, message.message_id, b"guessed"))],
            "other_id": [build_coap(Coap(CoapType.ACK, behaviour.code, other_id, message.token))],
            "garbage": [b"", b"\x00", b"\xff" * 200, right[:3], build_coap(Coap(CoapType.CON, POST, 7, b"x"))],
        }[behaviour.how]

    def send(self, data: bytes, to: object) -> None:
        if self._transport is not None:
            self._transport.sendto(data, to)  # type: ignore[arg-type]
