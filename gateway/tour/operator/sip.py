"""A SIP server on this machine, Kamailio as docs/kamailio.cfg has it, and both ends of a call: a terminal and a caller
that speak SIP over UDP.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from gateway.tour.operator.programs import Programs

#: program → Debian package
NEEDED = {"kamailio": "kamailio kamailio-extra-modules"}
#: not there where the gateway was installed without its documentation
CONFIG = Path(__file__).parents[3] / "docs" / "kamailio.cfg"
DOMAIN = "ims.example.com"
PATIENCE_S = 15.0
RINGS_S = 0.05
_numbers = itertools.count(1)
T = TypeVar("T")


def free_port(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Kamailio:
    """One SIP server of its own, as a context manager."""

    def __init__(self, folder: Path, hold_s: int) -> None:
        self.sip_port = free_port(socket.SOCK_DGRAM)
        self.evapi_port = free_port(socket.SOCK_STREAM)
        self._folder = folder
        self._hold_s = hold_s
        self._programs = Programs(folder)

    @property
    def said(self) -> str:
        return (self._folder / "kamailio.log").read_text(errors="replace")

    async def __aenter__(self) -> Self:
        arguments = ["-f", str(CONFIG), "-DD", "-E", "-m", "32", "-M", "8", "-Y", str(self._folder)]
        arguments += ["-w", str(self._folder), "-P", str(self._folder / "kamailio.pid")]
        for define in (
            f"LISTEN=udp:127.0.0.1:{self.sip_port}",
            f'EVAPI_ADDRESS="127.0.0.1:{self.evapi_port}"',
            f"HOLD_MS={self._hold_s * 1000}",
            f"HOLD_S={self._hold_s}",
            "LEAST_EXPIRES_S=1",
        ):
            arguments += ["-A", define]
        try:
            self._programs.start("kamailio", *arguments)
            await self._programs.listens("kamailio", "127.0.0.1", self.evapi_port)
            async with asyncio.timeout(PATIENCE_S):
                while not await self._answers():
                    pass
        except BaseException:
            await self._programs.close()
            raise
        return self

    async def _answers(self) -> bool:
        async with Endpoint(self, "probe") as probe:
            probe.send("OPTIONS", f"sip:{DOMAIN}", "probe")
            try:
                async with asyncio.timeout(0.2):
                    return bool(await probe.answer("OPTIONS"))
            except TimeoutError:
                return False

    async def __aexit__(self, *_: object) -> None:
        await self._programs.close()


class Sip:
    """One message: first line, headers, body."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.decode(errors="surrogateescape").partition("\r\n\r\n")
        self.first, *self.lines = head.split("\r\n")

    def all(self, name: str) -> list[str]:
        wanted = f"{name.lower()}:"
        return [line.partition(":")[2].strip() for line in self.lines if line.lower().startswith(wanted)]

    def one(self, name: str) -> str:
        return next(iter(self.all(name)), "")

    @property
    def status(self) -> int:
        """0 for a request."""
        return int(self.first.split(" ")[1]) if self.first.startswith("SIP/2.0 ") else 0

    @property
    def method(self) -> str:
        return self.one("CSeq").partition(" ")[2]


class Endpoint(asyncio.DatagramProtocol):
    """A terminal or a caller of `user`; everything it hears is in `heard`."""

    def __init__(self, server: Kamailio, user: str = "carol") -> None:
        self.user = user
        self.port = 0
        self.heard: list[Sip] = []
        self._server = server
        self._transport: asyncio.DatagramTransport
        self._news = asyncio.Event()
        self._sent: dict[str, tuple[str, str, str]] = {}

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.port = self._transport.get_extra_info("sockname")[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    # --- out

    def _write(self, text: str) -> None:
        if self._transport.is_closing():
            return
        self._transport.sendto(text.encode(errors="surrogateescape"), ("127.0.0.1", self._server.sip_port))

    def send(self, method: str, uri: str, call: str, *, more: str = "", body: str = "", branch: str = "") -> str:
        """A request outside a dialog; returns its branch."""
        branch = branch or f"z9hG4bK-{self.port}-{next(_numbers)}"
        number = "1 " + method
        self._sent[call] = (method, uri, branch)
        to = f"sip:{self.user}@{DOMAIN}" if method == "REGISTER" else uri
        contact = f"Contact: <sip:{self.user}@127.0.0.1:{self.port}>\r\n" if "Contact:" not in more else ""
        self._write(
            f"{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{self.port};branch={branch}\r\nMax-Forwards: 70\r\n"
            f"From: <sip:{self.user}@{DOMAIN}>;tag=f{self.port}\r\nTo: <{to}>\r\nCall-ID: {call}\r\nCSeq: {number}\r\n"
            f"{contact}{more}Content-Length: {len(body)}\r\n\r\n{body}"
        )
        return branch

    def call(self, user: str, call: str, method: str = "INVITE", branch: str = "") -> str:
        more = {"SUBSCRIBE": "Event: presence\r\nExpires: 60\r\n", "MESSAGE": "Content-Type: text/plain\r\n"}
        body = "the secret text" if method == "MESSAGE" else ""
        uri = f"sip:{user}@{DOMAIN}"
        return self.send(method, uri, call, more=more.get(method, ""), body=body, branch=branch)

    def cancel(self, call: str) -> None:
        method, uri, branch = self._sent[call]
        self._write(
            f"CANCEL {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{self.port};branch={branch}\r\nMax-Forwards: 70\r\n"
            f"From: <sip:{self.user}@{DOMAIN}>;tag=f{self.port}\r\nTo: <{uri}>\r\nCall-ID: {call}\r\nCSeq: 1 CANCEL\r\n"
            "Content-Length: 0\r\n\r\n"
        )
        assert method == "INVITE"

    def register(self, *, params: str = "", tags: str = "", expires: int = 60) -> str:
        """`params` stand in the contact's URI, `tags` behind it; returns the Call-ID."""
        call = f"reg-{self.port}-{next(_numbers)}"
        contact = f"Contact: <sip:{self.user}@127.0.0.1:{self.port}{params}>{tags};expires={expires}\r\n"
        self.send("REGISTER", f"sip:{DOMAIN}", call, more=contact)
        return call

    # --- in

    def datagram_received(self, data: bytes, address: Any) -> None:  # noqa: ARG002 - asyncio's signature
        message = Sip(data)
        self.heard.append(message)
        self._news.set()
        if message.status:
            if message.method == "INVITE" and message.status >= 200:
                self._ack(message)
            return
        if message.first.startswith("ACK"):
            return
        if message.method == "INVITE":
            self._answer(message, "180 Ringing")
            # a moment later: two processes of a server may hand on two answers in either order
            asyncio.get_running_loop().call_later(RINGS_S, self._answer, message, "200 OK")
            return
        self._answer(message, "200 OK")

    def _answer(self, request: Sip, status: str) -> None:
        copied = [f"Via: {via}" for via in request.all("Via")] + [
            f"Record-Route: {r}" for r in request.all("Record-Route")
        ]
        to = request.one("To")
        to += "" if "tag=" in to else f";tag=t{self.port}"
        copied += [f"From: {request.one('From')}", f"To: {to}", f"Call-ID: {request.one('Call-ID')}"]
        copied += [f"CSeq: {request.one('CSeq')}", f"Contact: <sip:{self.user}@127.0.0.1:{self.port}>"]
        self._write(f"SIP/2.0 {status}\r\n" + "\r\n".join(copied) + "\r\nContent-Length: 0\r\n\r\n")

    def _ack(self, answer: Sip) -> None:
        _, uri, branch = self._sent[answer.one("Call-ID")]
        route = "".join(f"Route: {each}\r\n" for each in reversed(answer.all("Record-Route")))
        if answer.status < 300:
            uri, branch = answer.one("Contact").strip("<>"), f"z9hG4bK-{self.port}-{next(_numbers)}"
        self._write(
            f"ACK {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{self.port};branch={branch}\r\nMax-Forwards: 70\r\n"
            f"{route}From: {answer.one('From')}\r\nTo: {answer.one('To')}\r\nCall-ID: {answer.one('Call-ID')}\r\n"
            "CSeq: 1 ACK\r\nContent-Length: 0\r\n\r\n"
        )

    def statuses(self, call: str) -> list[int]:
        return [message.status for message in self.heard if message.status and message.one("Call-ID") == call]

    def requests(self, method: str) -> list[Sip]:
        return [message for message in self.heard if message.first.startswith(method + " ")]

    async def answer(self, method: str, call: str = "") -> int:
        """The final answer to a request of this method."""

        def final() -> int:
            for message in self.heard:
                if message.status >= 200 and message.method == method and call in ("", message.one("Call-ID")):
                    return message.status
            return 0

        return await self._wait_for(final)

    async def request(self, method: str, count: int = 1) -> Sip:
        return (await self._wait_for(lambda: self.requests(method)[count - 1 :]))[0]

    async def _wait_for(self, probe: Callable[[], T]) -> T:
        async with asyncio.timeout(PATIENCE_S):
            while not (found := probe()):
                self._news.clear()
                await self._news.wait()
        return found
