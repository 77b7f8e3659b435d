"""Somebody else on an IRC server, with the library `irc`."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from irc.client import Event, ServerNotConnectedError
from irc.client_aio import AioReactor

from gateway.im.geo import build_geo, find_geo
from gateway.model.im import Conversation, ConversationKind, Geo

PATIENCE_S = 20.0


class Heard(NamedTuple):
    text: str
    #: pubmsg, privmsg, action, pubnotice, privnotice, ctcpreply: the library's words
    how: str
    target: str
    file: bytes = b""
    geo: tuple[float, float] | None = None
    remote_id: str = ""


class IrcPeer:
    """`to`: the nick of our account, or a room."""

    def __init__(self, port: int, nick: str, to: str, password: str = "") -> None:
        self._port, self._nick, self._to, self._password = port, nick, to, password
        self._heard: asyncio.Queue[Heard] = asyncio.Queue()
        self._welcome = asyncio.Event()
        self._joined = asyncio.Event()
        self._connection: Any = None

    @property
    def conversation(self) -> Conversation:
        if self._to.startswith("#"):
            return Conversation(ConversationKind.ROOM, self._to)
        return Conversation(ConversationKind.DM, self._nick)

    async def connect(self) -> None:
        self._welcome.clear()
        self._joined.clear()
        reactor = AioReactor(loop=asyncio.get_running_loop())
        reactor.add_global_handler("welcome", lambda *_: self._welcome.set())
        reactor.add_global_handler("join", lambda *_: self._joined.set())
        for how in ("privmsg", "pubmsg", "action", "privnotice", "pubnotice", "ctcpreply"):
            reactor.add_global_handler(how, self._take)
        self._connection = reactor.server()
        await self._connection.connect("127.0.0.1", self._port, self._nick, password=self._password or None)
        async with asyncio.timeout(PATIENCE_S):
            await self._welcome.wait()
            if self._to.startswith("#"):
                self._connection.join(self._to)
                await self._joined.wait()

    def _take(self, _connection: object, event: Event) -> None:
        text = event.arguments[-1] if event.arguments else ""
        if event.type in ("privnotice", "pubnotice") and "!" not in str(event.source):
            return  # the server's own
        geo = find_geo(text)
        place = None if geo is None else (geo.latitude, geo.longitude)
        text = " ".join(event.arguments) if event.type == "ctcpreply" else text
        self._heard.put_nowait(Heard(text, event.type, event.target, geo=place))

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()
            await asyncio.sleep(0)  # the transport closes in the next turn

    async def say(self, text: str) -> None:
        try:
            self._connection.privmsg(self._to, text)
        except ServerNotConnectedError:
            await self.connect()
            self._connection.privmsg(self._to, text)

    async def say_raw(self, line: str) -> None:
        self._connection.send_raw(line)

    async def say_file(self, data: bytes, mime: str, name: str) -> None:
        raise NotImplementedError("IRC has no files")

    async def say_place(self, latitude: float, longitude: float) -> None:
        await self.say(build_geo(Geo(latitude, longitude)))

    async def hear(self) -> Heard:
        return await self._heard.get()

    async def read_all(self) -> None:
        raise NotImplementedError("IRC has no read marks")

    async def hear_read(self) -> str:
        raise NotImplementedError("IRC has no read marks")
