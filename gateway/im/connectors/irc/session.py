"""One IRC account that is connected: reads lines, answers what servers and other clients ask, says what the user says.

IRC confirms nothing. Behind each request goes a PING of ours: what a server has against the request comes before its
PONG, and after the PONG the network has it. Must never put a line into a log or an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.hosts import resolve
from gateway.im.connectors.irc.form import Login, parse_channel, parse_login
from gateway.im.connectors.irc.lines import (
    Line,
    LineBuffer,
    LineError,
    build_ctcp,
    build_line,
    fold,
    parse_ctcp,
    parse_line,
)
from gateway.im.connectors.irc.messages import Ids, build_pieces, is_target, parse_message
from gateway.im.connectors.irc.nickserv import build_identify, judge
from gateway.im.connectors.irc.pace import Pace
from gateway.im.connectors.irc.refusals import check_answers, find_refused
from gateway.im.connectors.irc.registration import Registration
from gateway.im.connectors.irc.rooms import Rooms, build_joins
from gateway.model.im import (
    Act,
    AuthFailed,
    Contact,
    Conversation,
    ConversationKind,
    Credentials,
    Envelope,
    Event,
    JoinRoom,
    LeaveRoom,
    Media,
    MediaFile,
    Message,
    Moved,
    Person,
    Rejected,
    Transient,
)

_READ_BYTES = 16_384
_QUIT_S = 1.0
#: answers to one request that are kept; a server that says more before its PONG is none
_MOST_ANSWERS = 1_000
#: lines that answers to other clients' queries leave to the user
_RESERVE = 2

_Failure = AuthFailed | Transient | Rejected


class IrcSession:
    """Begins with `start`, ends with `close`."""

    def __init__(
        self,
        login: Login,
        rooms: Rooms,
        settings: ConnectorSettings,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._login, self._rooms, self._settings = login, rooms, settings
        self._reader, self._writer = reader, writer
        self._registration = Registration(login)
        self._is_registered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._identified: asyncio.Future[bool] | None = None
        self._pace = Pace(settings.irc_burst, settings.irc_line_s, asyncio.get_running_loop().time)
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(settings.events)
        self._turn = asyncio.Lock()
        self._barrier: asyncio.Future[None] | None = None
        self._barrier_token = ""
        self._answers: list[Line] = []
        self._failure: _Failure | None = None
        self._ids = Ids()
        self._casemapping, self._chantypes = "rfc1459", "#&+!"
        self._task: asyncio.Task[None] | None = None
        self.me = Person(login.nick, login.nick, is_self=True)

    # --- begin and end

    async def start(self) -> None:
        for line in self._registration.begin():
            self._writer.write(line)
        self._task = asyncio.create_task(self._read())
        try:
            async with asyncio.timeout(self._settings.request_s):
                await self._is_registered
                if self._login.by_nickserv and self._login.account:
                    await self._identify()
        except TimeoutError:
            raise Transient("the server does not answer") from None
        await self._join_wanted()

    async def close(self) -> None:
        if self._task is not None:
            if self._failure is None:
                self._writer.write(build_line("QUIT"))
                # until the server has closed: who comes back at once finds the nick free
                await asyncio.wait({self._task}, timeout=_QUIT_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(OSError, TimeoutError):
            self._writer.close()
            async with asyncio.timeout(_QUIT_S):
                await self._writer.wait_closed()
        self._writer.transport.abort()
        for future in (self._is_registered, self._identified, self._barrier):
            if future is not None and not future.cancel() and not future.cancelled():
                future.exception()  # nobody waits for it any more

    async def _identify(self) -> None:
        self._identified = asyncio.get_running_loop().create_future()
        self._writer.write(build_identify(self._login))
        if not await self._identified:
            raise AuthFailed("NickServ does not take account and password")

    async def _join_wanted(self) -> None:
        joins = build_joins(self._rooms.wanted())
        if not joins:
            return
        lines = [build_line("JOIN", *filter(None, join)) for join in joins]
        for room, reason in find_refused(await self._ask(lines)):
            if room[:1] in self._chantypes and not self._events.full():
                self._events.put_nowait(self._tell(room, f"not joined: {reason}"))

    # --- what comes

    def events(self) -> AsyncIterator[Event]:
        return self._each_event()

    async def _each_event(self) -> AsyncIterator[Event]:
        while (event := await self._events.get()) is not None:
            yield event
        assert self._failure is not None
        raise self._failure

    async def _read(self) -> None:
        try:
            await self._read_lines()
        except (AuthFailed, Transient, Rejected) as exc:
            self._fail(exc)
        except LineError:
            self._fail(Transient("this server does not speak IRC"))
        except (OSError, EOFError):
            self._fail(Transient("the connection to the server is lost"))
        except Exception:  # whatever a server did to us: the session is over, its error would quote it
            self._fail(Transient("the connection could not go on"))
        await self._events.put(None)

    async def _read_lines(self) -> None:
        buffer = LineBuffer()
        is_asked = False
        while True:
            patience_s = self._settings.request_s if is_asked else self._settings.irc_ping_s
            try:
                async with asyncio.timeout(patience_s):
                    data = await self._reader.read(_READ_BYTES)
            except TimeoutError:
                if is_asked:
                    raise Transient("the server is silent") from None
                is_asked = True
                self._writer.write(build_line("PING", "alive"))
                self._want_nick()
                continue
            is_asked = False
            if not data:
                raise Transient("the server has closed the connection")
            for raw in buffer.take(data):
                try:
                    line = parse_line(raw)
                except LineError:
                    continue  # nobody's message
                await self._handle(line)
            async with asyncio.timeout(self._settings.request_s):  # TimeoutError is an OSError
                await self._writer.drain()

    def _fail(self, failure: _Failure) -> None:
        self._failure = self._failure or failure
        for future in (self._is_registered, self._identified, self._barrier):
            if future is not None and not future.done():
                future.set_exception(self._failure)
                future.exception()  # nobody may wait for it

    async def _handle(self, line: Line) -> None:
        if not self._registration.is_done:
            for answer in self._registration.take(line):
                self._writer.write(answer)
            if self._registration.is_done:
                self._rename(self._registration.nick)
                self._is_registered.set_result(None)
            return
        command = line.command
        if command in ("PRIVMSG", "NOTICE"):
            await self._handle_message(line)
        elif command == "PING":
            self._writer.write(build_line("PONG", line.parameter(-1)[:400]))
        elif command == "PONG":
            if self._barrier is not None and not self._barrier.done() and line.parameter(-1) == self._barrier_token:
                self._barrier.set_result(None)
        elif command in ("ERROR", "KILL"):
            if command == "ERROR" or self._is_me(line.parameter(0)):
                raise Transient("the server has closed the connection")
        elif command == "005":
            self._handle_support(line)
        elif command in ("NICK", "QUIT"):
            if command == "NICK" and self._is_me(line.nick):
                self._rename(line.parameter(0))
            elif self._fold(line.nick) == self._fold(self._login.nick):
                self._want_nick()
        elif command in ("JOIN", "PART", "KICK"):
            await self._handle_membership(line)
        if self._barrier is not None and command.isdigit():
            if len(self._answers) == _MOST_ANSWERS:
                raise Transient("the server says too much")
            if "400" <= command < "800" or command == "263":
                self._answers.append(line)
        if self._identified is not None and not self._identified.done():
            verdict = judge(line)
            if verdict is not None:
                self._identified.set_result(verdict)

    async def _handle_message(self, line: Line) -> None:
        ctcp = parse_ctcp(line.parameter(1))
        if ctcp is not None and line.command == "PRIVMSG" and ctcp[0] in ("VERSION", "PING"):
            answer = "Heliograph" if ctcp[0] == "VERSION" else ctcp[1][:64]
            # a courtesy: where others flood us with queries they stay without an answer
            if is_target(line.nick) and not self._is_me(line.nick) and self._pace.try_take(_RESERVE):
                self._writer.write(build_line("NOTICE", line.nick, build_ctcp(ctcp[0], answer)))
            return
        envelope = parse_message(
            line,
            me=self.me.display,
            casemapping=self._casemapping,
            chantypes=self._chantypes,
            text_bytes=self._settings.text_bytes,
            now_ms=time.time_ns() // 1_000_000,
            ids=self._ids,
        )
        if envelope is not None:
            await self._events.put(Message(envelope))

    def _handle_support(self, line: Line) -> None:
        for word in line.parameters[1:-1]:
            name, _, value = word.partition("=")
            if name == "CASEMAPPING":
                self._casemapping = value.lower()
                self._rename(self.me.display)
            elif name == "CHANTYPES" and value:
                self._chantypes = value[:16]

    async def _handle_membership(self, line: Line) -> None:
        room = line.parameter(0)
        if line.command == "JOIN" and self._is_me(line.nick):
            cursor = self._rooms.join(room) if self._is_room(room) else None
            if cursor is not None:
                await self._events.put(Moved(cursor))
        elif line.command == "KICK" and self._is_me(line.parameter(1)):
            await self._events.put(self._tell(room, f"removed from this room: {line.parameter(2)}"))
        elif line.command == "PART" and self._is_me(line.nick) and self._barrier is None:
            await self._events.put(self._tell(room, "taken out of this room"))

    def _tell(self, room: str, text: str) -> Message:
        """What happened to us in a room, as a message in it: who is put out shall not wait for what never comes."""
        now_ms = time.time_ns() // 1_000_000
        conversation = Conversation(ConversationKind.ROOM, self._fold(room))
        data = text.encode("utf-8", "replace")[: self._settings.text_bytes]
        return Message(
            Envelope(
                network="irc",
                conversation=conversation,
                sender=Person(self._login.server, self._login.server),
                remote_id=self._ids.next(),
                text=data.decode("utf-8", "ignore"),
                at_remote_ms=now_ms,
                at_ms=now_ms,
            )
        )

    # --- what the user wants

    async def send(self, envelope: Envelope, files: Sequence[MediaFile] = ()) -> str:
        pieces = build_pieces(envelope, files, nick=self.me.display)
        target = envelope.conversation.remote_id
        try:
            lines = [build_line("PRIVMSG", target, piece) for piece in pieces]
        except LineError:
            raise Rejected("text: it does not fit into lines of IRC") from None
        check_answers(await self._ask(lines), target)
        return self._ids.next()

    async def contacts(self) -> AsyncIterator[Contact]:
        raise Rejected("IRC has no contacts")
        yield

    async def act(self, act: Act) -> None:
        if isinstance(act, JoinRoom):
            name, key = parse_channel(act.remote_id)
            check_answers(await self._ask([build_line("JOIN", *filter(None, (name, key)))]), name)
        elif isinstance(act, LeaveRoom):
            name, _ = parse_channel(act.remote_id)
            answers = await self._ask([build_line("PART", name)])
            cursor = self._rooms.leave(name)
            if cursor is not None:
                await self._put_soon(Moved(cursor))
            check_answers(answers, name)
        else:
            raise Rejected("IRC has no read marks, no typing and no friend requests")

    async def fetch(self, media: Media) -> AsyncIterator[bytes]:  # noqa: ARG002 - the port's signature
        raise Rejected("IRC has no files")
        yield

    async def _put_soon(self, event: Event) -> None:
        try:
            async with asyncio.timeout(self._settings.request_s):
                await self._events.put(event)
        except TimeoutError:
            raise Transient("nobody reads the events") from None

    async def _ask(self, lines: Sequence[bytes]) -> list[Line]:
        """Say these lines, one request at a time; what the server answered with a number. Transient."""
        async with self._turn:
            try:
                for line in lines:
                    await self._pace.take()
                    self._check()
                    self._writer.write(line)
                self._barrier_token = self._ids.next()
                self._answers = []
                self._barrier = asyncio.get_running_loop().create_future()
                self._check()
                self._writer.write(build_line("PING", self._barrier_token))
                async with asyncio.timeout(self._settings.request_s):
                    await self._writer.drain()
                    await self._barrier
                return self._answers
            except TimeoutError:
                raise Transient("the server has not confirmed it") from None
            except OSError:
                raise Transient("the connection to the server is lost") from None
            finally:
                self._barrier = None

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    # --- names

    def _fold(self, name: str) -> str:
        return fold(name, self._casemapping)

    def _is_me(self, nick: str) -> bool:
        return self._fold(nick) == self._fold(self.me.display)

    def _is_room(self, name: str) -> bool:
        try:
            parse_channel(name)
        except Rejected:
            return False
        return " " not in name

    def _want_nick(self) -> None:
        """The one of the form, where another had it when we came (an old connection of ours that was not over)."""
        if not self._is_me(self._login.nick):
            self._writer.write(build_line("NICK", self._login.nick))

    def _rename(self, nick: str) -> None:
        if nick:
            self.me = Person(self._fold(nick), nick, is_self=True)


@asynccontextmanager
async def open_session(
    credentials: Credentials, cursor: bytes | None, settings: ConnectorSettings, tls: ssl.SSLContext
) -> AsyncIterator[IrcSession]:
    login = parse_login(credentials)
    rooms = Rooms(login.channels, cursor)
    reader, writer = await _connect(login, settings, tls)
    session = IrcSession(login, rooms, settings, reader, writer)
    try:
        await session.start()
        yield session
    finally:
        await session.close()


async def _connect(
    login: Login, settings: ConnectorSettings, tls: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        async with asyncio.timeout(settings.request_s):
            addresses = await resolve(login.server, login.port, allows_private=settings.private_hosts)
            for address in addresses:
                try:
                    if not login.tls:
                        return await asyncio.open_connection(address, login.port)
                    return await asyncio.open_connection(address, login.port, ssl=tls, server_hostname=login.server)
                except ssl.SSLError:
                    raise Transient("the server offers no TLS that can be trusted") from None
                except (OSError, UnicodeError):
                    continue
    except TimeoutError:
        raise Transient("the server does not answer") from None
    raise Transient("the server takes no connection")
