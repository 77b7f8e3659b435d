"""A gateway in a test's hands, strict about the protocol: over a real socket, and as bytes for the sans-IO core."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.model import frames
from gateway.model.frames import FrameReader, FrameType, build_frame, parse_body, parse_ids

BODIES: dict[int, type | None] = {
    FrameType.PING: None,
    FrameType.HELLO: frames.Hello,
    FrameType.REGISTER: frames.Register,
    FrameType.UNREGISTER: frames.Unregister,
    FrameType.FETCH: frames.Fetch,
    FrameType.STATE: frames.State,
    FrameType.UP: frames.Up,
}


def parse_sent(kind: int, body: bytes) -> tuple[FrameType, Any]:
    """A frame a device sent, checked; AssertionError where the device may not send it."""
    if kind in (FrameType.ACK, FrameType.WHOLE, FrameType.SHOWN):
        ids = parse_ids(body)
        assert ids, "an empty confirmation says nothing"
        return FrameType(kind), ids
    assert kind in BODIES, f"a device must not send frame {kind:#x}"
    as_type = BODIES[kind]
    if as_type is None:
        assert body == b""
        return FrameType(kind), None
    return FrameType(kind), parse_body(body, as_type)


def welcome(**fields: Any) -> bytes:
    values = {"v": 1, "device": "dev~1", "heartbeat": 60, "heartbeat_min": 30, "heartbeat_max": 240}
    values |= {"window": 32, "max_frame": 65_536, "now_ms": 1_800_000_000_000, "whole": True}
    return build_frame(FrameType.WELCOME, frames.Welcome(**(values | fields)))


def token(req: int, text: str) -> bytes:
    return build_frame(FrameType.TOKEN, frames.Token(req=req, token=text))


def notify(id: int, token: str = "", **fields: Any) -> bytes:
    return build_frame(FrameType.NOTIFY, frames.Notify(id=id, token=token, **fields))


def goaway(error: type, **fields: Any) -> bytes:
    values = {"code": error.code, "name": error.name, "retry": error.retryable}
    return build_frame(FrameType.GOAWAY, frames.Goaway(**(values | fields)))


def error(kind: type, **fields: Any) -> bytes:
    values = {"code": kind.code, "name": kind.name, "message": "no", "retry": kind.retryable, "after_ms": kind.after_ms}
    return build_frame(FrameType.ERROR, frames.Error(**(values | fields)))


class Conversation:
    """One accepted connection, as seen by a script: expect frames in order, send what you like."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader()
        self._ready: list[tuple[FrameType, Any]] = []

    async def next(self) -> tuple[FrameType, Any] | None:
        """The next frame, None at the end of the stream."""
        while not self._ready:
            data = await self._reader.read(65_536)
            if not data:
                assert len(self._frames) == 0, "the device left in the middle of a frame"
                return None
            self._ready += [parse_sent(*frame) for frame in self._frames.feed(data)]
        return self._ready.pop(0)

    async def expect(self, kind: FrameType) -> Any:
        frame = await self.next()
        assert frame is not None, f"expected {kind.name}, the device left"
        assert frame[0] is kind, f"expected {kind.name}, got {frame}"
        return frame[1]

    async def expect_end(self) -> None:
        frame = await self.next()
        assert frame is None, f"expected the end, got {frame}"

    def send(self, *data: bytes) -> None:
        self._writer.write(b"".join(data))

    async def login(self, **fields: Any) -> frames.Hello:
        hello: frames.Hello = await self.expect(FrameType.HELLO)
        self.send(welcome(**fields))
        return hello

    async def bind(self, text: str) -> frames.Register:
        register: frames.Register = await self.expect(FrameType.REGISTER)
        self.send(token(register.req, text))
        return register

    def close(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        self._writer.transport.abort()

    def stop_reading(self) -> None:
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    @property
    def unsent(self) -> int:
        return self._writer.transport.get_write_buffer_size()


Script = Callable[[Conversation], Awaitable[None]]


class ScriptedGateway:
    """Plays one script a connection, in order; a failed script fails the test at `finish`. More connections than
    scripts are a failure too."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._unexpected = 0
        self.port = 0

    async def __aenter__(self) -> ScriptedGateway:
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        if kind is not None:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            return
        await self.finish()

    async def finish(self) -> None:
        """Every script was played to its end, and nobody else came."""
        async with asyncio.timeout(60):
            await asyncio.gather(*self._tasks)
        assert not self._scripts, f"{len(self._scripts)} connections never came"
        assert not self._unexpected, "an unexpected connection"

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._scripts:
            self._unexpected += 1
            writer.close()
            return
        script = self._scripts.pop(0)
        self._tasks.append(asyncio.create_task(self._play(script, Conversation(reader, writer))))

    async def _play(self, script: Script, conversation: Conversation) -> None:
        try:
            async with asyncio.timeout(60):
                await script(conversation)
        finally:
            conversation.close()


class Hourglass:
    """Stands in for asyncio.sleep: notes the delay and waits until it is turned."""

    def __init__(self, *, run: bool = True) -> None:
        self.delays: list[float] = []
        self.asked = asyncio.Event()
        self._go = asyncio.Event()
        if run:
            self._go.set()

    async def __call__(self, delay: float) -> None:
        self.delays.append(delay)
        self.asked.set()
        await self._go.wait()

    def turn(self) -> None:
        self._go.set()
