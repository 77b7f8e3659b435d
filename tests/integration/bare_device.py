"""A device by hand: it sends what it is told, keeps every frame that comes, and knows nothing of the SDK.

Bodies are plain maps, packed and unpacked with msgspec alone, so that the gateway's own field types prove nothing here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from gateway.model.errors import GatewayError
from gateway.model.frames import FrameReader, FrameType, build_varint

PATIENCE_S = 60.0


class Frame(NamedTuple):
    kind: int
    body: Any  # a map, a list of ids, or None


def frame(kind: int, raw: bytes) -> bytes:
    """A frame round any bytes, msgpack or not."""
    return bytes((kind,)) + build_varint(len(raw)) + raw


def pack(kind: int, body: Any = None) -> bytes:
    return frame(kind, b"" if body is None else msgspec.msgpack.encode(body))


class BareDevice(asyncio.Protocol):
    """One device; `connect` again is a new link of the same device."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.port = port
        self.host = host
        self.device = ""
        self.secret = b""
        #: what came and was not taken yet
        self.frames: list[Frame] = []
        self.closed = True
        self.reset = False
        self._news = asyncio.Event()

    # --- the link

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        for kind, body in self._reader.feed(data):
            self.frames.append(Frame(kind, msgspec.msgpack.decode(body) if body else None))
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.reset = exc is not None
        self._news.set()

    async def connect(self, *, receive_buffer: int = 0) -> BareDevice:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(sock, (self.host, self.port))
        except OSError:
            sock.close()
            raise
        self._reader = FrameReader(1 << 28)
        self.frames = []
        self.closed = False
        self.reset = False
        await loop.create_connection(lambda: self, sock=sock)
        return self

    def close(self) -> None:
        """FIN, as an app that ends."""
        self.transport.close()

    def vanish(self) -> None:
        """RST, as a process that was killed with unread bytes."""
        self.transport.abort()

    # --- frames out

    def send_raw(self, data: bytes) -> None:
        self.transport.write(data)

    def send(self, kind: int, body: Any = None) -> None:
        self.transport.write(pack(kind, body))

    def ack(self, *ids: int) -> None:
        self.send(FrameType.ACK, list(ids))

    def shown(self, *ids: int) -> None:
        self.send(FrameType.SHOWN, list(ids))

    # --- frames in

    async def until(self, found: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
        """Wait for frames until `found` gives something."""
        try:
            async with asyncio.timeout(timeout_s):
                while not (answer := found()):
                    if self.closed:
                        raise AssertionError(f"the gateway closed the link before {what}; left: {self.frames[-5:]}")
                    self._news.clear()
                    await self._news.wait()
                return answer
        except TimeoutError:
            raise AssertionError(f"no {what} in {timeout_s} s; there is: {self.frames[-5:]}") from None

    def take(self, kind: int) -> Any:
        """The oldest frame of this kind that is here, taken out; None where there is none."""
        for i, found in enumerate(self.frames):
            if found.kind == kind:
                return self.frames.pop(i)
        return None

    async def receive(self, kind: int, timeout_s: float = PATIENCE_S) -> Any:
        """Body of the next frame of this kind; frames of other kinds stay."""
        return (await self.until(lambda: self.take(kind), FrameType(kind).name, timeout_s)).body

    async def end(self, timeout_s: float = PATIENCE_S) -> list[Frame]:
        """Wait for the gateway to close the link; returns all that came and was not taken."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.closed:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"the link was not closed in {timeout_s} s; there is: {self.frames[-5:]}") from None
        return self.frames

    # --- small dialogues

    async def login(self, **hello: Any) -> dict[str, Any]:
        """Connect where needed, HELLO, WELCOME."""
        if self.closed:
            await self.connect()
        self.send(FrameType.HELLO, self.hello(**hello))
        welcome: dict[str, Any] = await self.receive(FrameType.WELCOME)
        self.device = welcome["device"]
        self.secret = welcome.get("secret") or self.secret
        return welcome

    def hello(self, **fields: Any) -> dict[str, Any]:
        known = {"device": self.device, "secret": self.secret} if self.device else {}
        return {"v": 1, **known, **fields}

    async def register(self, app: str = "shop", account: str = "", *, version: str = "1.0", **fields: Any) -> str:
        """REGISTER, TOKEN; returns the token."""
        self.send(FrameType.REGISTER, {"req": 7, "app": app, "version": version, "account": account, **fields})
        token: str = (await self.receive(FrameType.TOKEN))["token"]
        return token

    async def join(self, app: str = "shop", account: str = "", *, version: str = "1.0", **hello: Any) -> str:
        """Log in and register; returns the token."""
        await self.login(**hello)
        return await self.register(app, account, version=version)

    async def ask(self, kind: int, answer: int = FrameType.DONE, **body: Any) -> dict[str, Any]:
        self.send(kind, {"req": 9, **body})
        got: dict[str, Any] = await self.receive(answer)
        assert got["req"] == 9
        return got

    async def sync(self) -> None:
        """All the gateway's loop had to send to this link until now is here when this returns."""
        self.send(FrameType.STATE, {"req": 0xFFFF_FFFF})
        await self.until(self._take_sync, "DONE")

    def _take_sync(self) -> bool:
        for i, found in enumerate(self.frames):
            if found.kind == FrameType.DONE and found.body["req"] == 0xFFFF_FFFF:
                del self.frames[i]
                return True
        return False

    async def notes(self, count: int, *, ack: bool = False, timeout_s: float = PATIENCE_S) -> list[dict[str, Any]]:
        """The next so many notifications, in the order they came."""
        out: list[dict[str, Any]] = []
        while len(out) < count:
            out.append(await self.receive(FrameType.NOTIFY, timeout_s))
            if ack:
                self.ack(out[-1]["id"])
        return out

    async def note(self, *, ack: bool = False, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        return (await self.notes(1, ack=ack, timeout_s=timeout_s))[0]

    def waiting(self, kind: int = FrameType.NOTIFY) -> list[Any]:
        """Bodies of frames of this kind that are here and not taken."""
        return [found.body for found in self.frames if found.kind == kind]

    async def error(self, expected: type[GatewayError], *, req: int = 0) -> dict[str, Any]:
        """The next ERROR, checked against the table of errors."""
        body: dict[str, Any] = await self.receive(FrameType.ERROR)
        check_error(body, expected, req=req)
        return body

    async def sent_away(self, expected: type[GatewayError], kind: int = FrameType.GOAWAY) -> dict[str, Any]:
        """The link ends with this as its very last frame."""
        frames = await self.end()
        assert frames, "the link was closed without a word"
        assert frames[-1].kind == kind, frames[-1]
        body: dict[str, Any] = frames[-1].body
        check_error(body, expected)
        return body


def check_error(body: dict[str, Any], expected: type[GatewayError], *, req: int = 0) -> None:
    """Number, name, retry and wait as gateway.model.errors has them."""
    got = {
        "code": body["code"],
        "name": body["name"],
        "retry": body.get("retry", False),
        "after_ms": body.get("after_ms", 0),
        "req": body.get("req", 0),
    }
    assert got == {
        "code": expected.code,
        "name": expected.name,
        "retry": expected.retryable,
        "after_ms": expected.after_ms,
        "req": req,
    }


async def close_all(*devices: BareDevice) -> None:
    """Close these links and wait until they are."""
    for device in devices:
        if not device.closed:
            device.close()
    for device in devices:
        with contextlib.suppress(AssertionError):
            await device.end()
