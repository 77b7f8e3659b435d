"""A SIP server's side of IMS paging for tests and trials, without the SIP: strict about what it is told, and able to
misbehave in every way a peer can; must never be reachable from anywhere but this machine.

It speaks as docs/kamailio.cfg does. What breaks the protocol is a line in `faults`, which a test expects to be empty.
"""

from __future__ import annotations

import asyncio
import itertools

from gateway.paging.ims.messages import (
    BadMessage,
    End,
    Hello,
    Page,
    Paged,
    Ping,
    Pong,
    Refused,
    Said,
    Told,
    build,
    parse_said,
)
from gateway.paging.ims.netstrings import BadFrame, Netstrings, build_netstring

MESSAGE_BYTES = 65_536


class Held:
    """One request. `ended`: what the caller got in the end, as `End.why`; `told`: what the gateway said, in turn."""

    def __init__(self, page: Page, until_s: float) -> None:
        self.page = page
        self.until_s = until_s  # loop time
        self.told: list[str] = []
        self.paged = asyncio.Event()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"Held({self.page.id})"


class LocalCscf:
    """Listens on loopback from `start` to `close`."""

    def __init__(self) -> None:
        self.port = 0
        self.faults: list[str] = []
        self.hellos = 0
        self.pings = 0
        self.answers_pings = True
        #: requests are held and nobody is told, as if the message was lost
        self.is_mute = False
        self.held: dict[str, Held] = {}
        self._ids = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._gateway: asyncio.StreamWriter | None = None
        self._past: set[str] = set()

    async def start(self, port: int = 0) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.drop()
        for held in list(self.held.values()):
            self._end(held, "timeout")
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def drop(self) -> None:
        """Close every connection."""
        for writer in self._writers:
            writer.close()

    def abort(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()

    @property
    def is_connected(self) -> bool:
        return self._gateway is not None

    # --- what happens in the network

    def invite(self, impu: str, *, method: str = "INVITE", params: str = "", left_s: int = 5) -> Held:
        """A request comes for who has no contact, or one that is asleep."""
        page = Page(id=f"{next(self._ids)}:{id(self) & 0xFFFF}", method=method, impu=impu, params=params, left_s=left_s)
        loop = asyncio.get_running_loop()
        held = Held(page, loop.time() + left_s)
        held.timer = loop.call_at(held.until_s, self._end, held, "timeout")
        self.held[page.id] = held
        self._tell(page)
        return held

    def register(self, impu: str) -> int:
        """The terminal is there: how many requests went on to it."""
        waiting = [held for held in self.held.values() if held.page.impu == impu]
        for held in waiting:
            self._end(held, "released")
        return len(waiting)

    def cancel(self, held: Held) -> None:
        """The caller gives up."""
        self._end(held, "cancelled")

    def send(self, data: bytes) -> None:
        """Any bytes."""
        if self._gateway is not None:
            self._gateway.write(data)

    def _tell(self, message: Told) -> None:
        if not self.is_mute:
            self.send(build_netstring(build(message)))

    def _end(self, held: Held, why: str) -> None:
        if self.held.pop(held.page.id, None) is None:
            return
        self._past.add(held.page.id)
        if held.timer is not None:
            held.timer.cancel()
        held.ended.set_result(why)
        self._tell(End(id=held.page.id, why=why))  # type: ignore[arg-type]

    # --- connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = Netstrings(MESSAGE_BYTES)
        self._writers.append(writer)
        is_known = False
        try:
            while data := await reader.read(65_536):
                for frame in frames.feed(data):
                    message = parse_said(frame)
                    if not is_known and not isinstance(message, Hello):
                        self.faults.append("a gateway says hello first")
                    is_known = True
                    self._handle(writer, message)
        except (BadFrame, BadMessage) as error:
            self.faults.append(str(error))
        except ConnectionError:
            pass
        finally:
            self._writers.remove(writer)
            if self._gateway is writer:
                self._gateway = None
            writer.close()

    def _handle(self, writer: asyncio.StreamWriter, message: Said) -> None:
        if isinstance(message, Hello) or (isinstance(message, Ping) and self._gateway is None):
            self.hellos += isinstance(message, Hello)
            self._gateway = writer
            now_s = asyncio.get_running_loop().time()
            for held in self.held.values():
                if (left_s := int(held.until_s - now_s)) > 0:
                    again = held.page
                    self._tell(Page(again.id, again.method, again.impu, again.params, left_s))
        if isinstance(message, Ping):
            self.pings += 1
            if self.answers_pings:
                writer.write(build_netstring(build(Pong())))
        elif isinstance(message, Paged | Refused):
            self._handle_answer(message)

    def _handle_answer(self, message: Paged | Refused) -> None:
        held = self.held.get(message.id)
        if held is None:
            if message.id not in self._past:
                self.faults.append("an answer to what was never asked")
            return
        if "refused" in held.told:
            self.faults.append("an answer after a refusal")
        if isinstance(message, Paged):
            held.told.append("paged")
            held.paged.set()
            return
        if "paged" in held.told:
            self.faults.append("a refusal after a page")
        held.told.append(f"refused {message.reason}")
        self._end(held, "refused")
