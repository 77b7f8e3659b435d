"""A device without the SDK, for what a good one never does: it stays silent, does not ack, or does not read."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from gateway.model.frames import (
    Done,
    Fetch,
    FrameReader,
    FrameType,
    Hello,
    Notify,
    Register,
    State,
    Token,
    Welcome,
    build_frame,
    parse_body,
)
from gateway.tour.stage import APP, Failed


class BareDevice:
    """Logs in and registers; everything else by hand."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._frames = FrameReader()
        self._waiting: list[tuple[int, bytes]] = []
        self.device = ""
        self.secret = b""

    async def connect(
        self, account: str = "", *, version: str = "1.0", addresses: dict[str, str] | None = None, **hello: Any
    ) -> str:
        """HELLO and REGISTER in one go; returns the token."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.send(FrameType.HELLO, Hello(v=1, device=self.device, secret=self.secret, **hello))
        self._send_register(account, version, keep=False, addresses=addresses)
        welcome = parse_body(await self.receive(FrameType.WELCOME), Welcome)
        self.device, self.secret = welcome.device, welcome.secret or self.secret
        return parse_body(await self.receive(FrameType.TOKEN), Token).token

    async def register(self, account: str, *, version: str = "1.0", keep: bool = False) -> str:
        """One more account; without `keep` in the place of the one before (A5)."""
        self._send_register(account, version, keep=keep)
        return parse_body(await self.receive(FrameType.TOKEN), Token).token

    def _send_register(
        self, account: str, version: str, *, keep: bool, addresses: dict[str, str] | None = None
    ) -> None:
        body = Register(req=1, app=APP, version=version, account=account, keep=keep, addresses=addresses)
        self.send(FrameType.REGISTER, body)

    def ack(self, note: Notify) -> None:
        self.send(FrameType.ACK, [note.id])

    async def fetch(self, token: str) -> list[Notify]:
        """A4: everything that waits, acked."""
        self.send(FrameType.FETCH, Fetch(req=2, token=token))
        notes: list[Notify] = []
        while True:
            kind, body = await self._next()
            if kind == FrameType.NOTIFY:
                notes.append(parse_body(body, Notify))
                self.ack(notes[-1])
            elif kind == FrameType.FETCHED:
                return notes

    async def ask_heartbeat(self, seconds: int) -> int:
        """Returns what the gateway agreed to."""
        self.send(FrameType.STATE, State(req=3, heartbeat=seconds))
        return parse_body(await self.receive(FrameType.DONE), Done).heartbeat

    def send(self, kind: int, body: Any = None) -> None:
        self._writer.write(build_frame(kind, body))

    async def _next(self) -> tuple[int, bytes]:
        while not self._waiting:
            data = await self._reader.read(65_536)
            if not data:
                raise Failed("the gateway closed the connection")
            self._waiting += self._frames.feed(data)
        kind, body = self._waiting.pop(0)
        if kind == FrameType.ERROR:
            raise Failed(f"the gateway answered with an error: {body!r}")
        return kind, body

    async def receive(self, kind: int, timeout_s: float = 10.0) -> bytes:
        """Body of the next frame of this kind; others are dropped."""
        async with asyncio.timeout(timeout_s):
            while True:
                found, body = await self._next()
                if found == kind:
                    return body

    async def notification(self, timeout_s: float = 10.0) -> Notify:
        try:
            return parse_body(await self.receive(FrameType.NOTIFY, timeout_s), Notify)
        except TimeoutError:
            raise Failed(f"no notification came inside {timeout_s:g} s") from None

    async def nothing_comes(self, for_s: float) -> bool:
        try:
            await self.receive(FrameType.NOTIFY, for_s)
        except TimeoutError:
            return True
        return False

    async def titled(self, title: str, timeout_s: float = 10.0) -> Notify:
        """The notification with this title; others that wait from earlier on the tour are acked and passed over."""
        while True:
            note = await self.notification(timeout_s)
            if note.title == title:
                return note
            self.ack(note)

    async def close(self) -> None:
        self._writer.close()
        self._frames = FrameReader()
        self._waiting.clear()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
