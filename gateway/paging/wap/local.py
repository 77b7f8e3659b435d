"""A push proxy gateway of our own for tests and trials: strict about what it is sent, and able to misbehave in every
way that a real one may; must never be reachable from anywhere but this machine.

What breaks PAP 2.0 (WAP-247), WAP-167 or WAP-168 is a line in `faults`, which a test expects to be empty.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

from gateway.paging.wap.content import build_body
from gateway.paging.wap.documents import BadDocument, Document, ServiceIndication, parse_time, parse_xml
from gateway.paging.wap.pap import APPLICATION, DOCTYPE, SI_TYPE, SL_TYPE, BadAnswer, Part, parse_multipart
from gateway.paging.wap.xml_tree import BadXml, read_tree

_ADDRESS = re.compile(r"WAPPUSH=\+([0-9]{1,15})/TYPE=PLMN@([A-Za-z0-9.-]+)")
_PUSH_ID = re.compile(r"[A-Za-z0-9._-]+@[A-Za-z0-9.-]+")
_QUALITIES = {
    "priority": {"high", "medium", "low"},
    "delivery-method": {"confirmed", "preferconfirmed", "unconfirmed", "notspecified"},
    "network-required": {"true", "false"},
    "bearer-required": {"true", "false"},
}
#: headers a client may send: a PPG hands others on to the terminal
_HEADERS = {"host", "connection", "content-length", "content-type", "authorization"}
MOST_BODY_BYTES = 65_536


@dataclass(slots=True, frozen=True)
class Behaviour:
    """Of one request."""

    #: result code of PAP; 0: the answer has none (an empty body)
    code: int = 1001
    #: HTTP status; 0: what fits the code
    status: int = 0
    #: this instead of PAP
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    #: says so in a badmessage-response
    as_bad_message: bool = False
    #: names another push than the one that came
    other_push: bool = False
    delay_s: float = 0.0
    #: no answer at all
    hangs: bool = False
    #: closes the connection instead of answering
    closes: bool = False
    #: takes the push, and then closes the connection instead of answering
    takes_and_closes: bool = False
    #: bytes that are no HTTP
    is_noise: bool = False
    #: says that so many more bytes follow than do, and hangs
    keeps_back: int = 0


class Taken(NamedTuple):
    """A push that was taken."""

    push_id: str
    msisdn: str
    ppg: str
    document: Document
    before_s: int
    quality: dict[str, str]
    replaces: str = ""  # push id of the one before

    @property
    def body(self) -> bytes:
        """What the terminal gets at its port."""
        return build_body(self.document, 1)

    def __repr__(self) -> str:
        return f"Taken({self.push_id})"


class LocalPpg:
    """Listens on loopback from `start` to `close`. `next` holds the behaviour of the next requests, `behaviour` that of
    those behind them."""

    def __init__(
        self,
        *,
        user: str = "pushgw",
        password: str = "secret",  # noqa: S107
        tls: ssl.SSLContext | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.user, self.password = user, password
        self.behaviour = Behaviour()
        self.next: deque[Behaviour] = deque()
        self.taken: list[Taken] = []
        self.faults: list[str] = []
        #: called after each request
        self.on_request: Callable[[], None] | None = None
        self.requests = 0
        self.connections = 0
        #: most requests at one time
        self.widest = 0
        self.port = 0
        #: does it refuse a push id that it has taken?
        self.keeps_ids = True
        self._open = 0
        self._tls = tls
        if tls is not None:
            tls.set_alpn_protocols(["http/1.1"])
        self._now_s = now_s
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/wappush"

    async def start(self, port: int = 0) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    async def close(self) -> None:
        """Go down: no listener, no connection."""
        if self._server is None:
            return
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    # --- HTTP/1.1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._handle(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ssl.SSLError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; is the connection still good?"""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        length = int(headers.get("content-length", "0"))
        if length > MOST_BODY_BYTES:
            self.faults.append("a body that is too long")
            return False
        body = await reader.readexactly(length)
        self.requests += 1
        self._open += 1
        self.widest = max(self.widest, self._open)
        try:
            return await self._answer(head[0], headers, body, writer)
        finally:
            self._open -= 1
            if self.on_request is not None:
                self.on_request()

    async def _answer(self, line: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> bool:
        behaviour = self.next.popleft() if self.next else self.behaviour
        await asyncio.sleep(behaviour.delay_s)
        if behaviour.hangs:
            await asyncio.sleep(3_600)
        if behaviour.closes:
            return False
        if behaviour.is_noise:
            writer.write(b"\x00\x01 this is no HTTP\r\n\r\n")
            await writer.drain()
            return False
        if not self._may_enter(headers):
            await self._write(writer, 401, b"You must show your credentials.\n", {"www-authenticate": "Basic"}, 0)
            return True
        status, code, push_id = behaviour.status, behaviour.code, ""
        said = b""
        if 1_000 <= code < 2_000 and not behaviour.status:
            before = len(self.faults)
            taken = self._read(line, headers, body)
            if taken is None:
                code = 2000 if len(self.faults) > before else 2007
            push_id = taken.push_id if taken is not None else ""
            if behaviour.takes_and_closes:
                return False
        else:
            push_id = self._peek_id(headers, body)
        if behaviour.body is not None:
            said = behaviour.body
        elif code:
            said = self._build_answer(code, "other@x" if behaviour.other_push else push_id, behaviour.as_bad_message)
        await self._write(writer, status or 202, said, behaviour.headers, behaviour.keeps_back)
        if behaviour.keeps_back:
            await asyncio.sleep(3_600)
        return True

    @staticmethod
    async def _write(
        writer: asyncio.StreamWriter, status: int, body: bytes, headers: dict[str, str], keeps_back: int
    ) -> None:
        head = {"content-type": "application/xml", "content-length": str(len(body) + keeps_back), **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        writer.write(f"HTTP/1.1 {status} As-told\r\n{lines}\r\n".encode() + body)
        await writer.drain()

    def _may_enter(self, headers: dict[str, str]) -> bool:
        wanted = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return headers.get("authorization", "") == f"Basic {wanted}"

    @staticmethod
    def _build_answer(code: int, push_id: str, as_bad_message: bool) -> bytes:
        head = (
            '<?xml version="1.0"?>'
            '<!DOCTYPE pap PUBLIC "-//WAPFORUM//DTD PAP 2.0//EN" "http://www.wapforum.org/DTD/pap_2.0.dtd">'
        )
        result = f'code="{code}" desc="as told, with +49 170 1234567 in it"'
        if as_bad_message:
            return f"{head}<pap><badmessage-response {result}/></pap>".encode()
        names = f"push-id={quoteattr(push_id)} " if push_id else ""
        names += 'sender-name="local" reply-time="2026-11-27T00:00:00Z"'
        return f"{head}<pap><push-response {names}><response-result {result}/></push-response></pap>".encode()

    # --- PAP

    def _peek_id(self, headers: dict[str, str], body: bytes) -> str:
        try:
            return (
                read_tree(parse_multipart(headers.get("content-type", ""), body)[0].body)
                .children[0]
                .attributes["push-id"]
            )
        except (BadAnswer, BadXml, LookupError):
            return ""

    def _read(self, line: str, headers: dict[str, str], body: bytes) -> Taken | None:
        """None: it is at fault, or was taken before."""
        before = len(self.faults)
        if line != "POST /wappush HTTP/1.1":
            self.faults.append("the request line")
        self.faults += [f"header {name}" for name in headers if name not in _HEADERS]
        try:
            parts = parse_multipart(headers.get("content-type", ""), body)
            taken = self._read_parts(*parts)
        except (BadAnswer, BadXml, BadDocument, TypeError, LookupError, ValueError) as error:
            self.faults.append(f"{type(error).__name__}: {error}")
            return None
        if len(self.faults) > before:
            return None
        if self.keeps_ids and any(each.push_id == taken.push_id for each in self.taken):
            return None
        self.taken.append(taken)
        return taken

    def _read_parts(self, control: Part, entity: Part) -> Taken:
        head, text = control.headers, control.body
        if head.get("content-type", "") != "application/xml; charset=UTF-8" or DOCTYPE.encode() not in text:
            self.faults.append("the control entity's type")
        pap = read_tree(text)
        if pap.name != "pap" or [child.name for child in pap.children] != ["push-message"]:
            self.faults.append("the control entity")
        message = pap.children[0]
        replaces = message.attributes.get("replace-push-id", "")
        wanted = {"push-id", "deliver-before-timestamp"} | (
            {"replace-push-id", "replace-method"} if replaces else set()
        )
        if set(message.attributes) != wanted or message.attributes.get("replace-method", "all") != "all":
            self.faults.append("attributes of push-message")
        if [child.name for child in message.children] != ["address", "quality-of-service"]:
            self.faults.append("elements of push-message")
        address, quality = message.children
        found = _ADDRESS.fullmatch(address.attributes["address-value"])
        if found is None:
            raise ValueError("the address")
        if not _PUSH_ID.fullmatch(message.attributes["push-id"]):
            self.faults.append("push-id")
        self.faults += [
            f"quality {name}"
            for name, allowed in _QUALITIES.items()
            if quality.attributes.get(name, next(iter(allowed))) not in allowed
        ]
        before_s = parse_time(message.attributes["deliver-before-timestamp"])
        if before_s < self._now_s():
            self.faults.append("deliver-before-timestamp is over")
        document = parse_xml(entity.body)
        kind = SI_TYPE if isinstance(document, ServiceIndication) else SL_TYPE
        if entity.headers != {
            "content-type": f"{kind}; charset=UTF-8",
            "x-wap-application-id": APPLICATION,
        }:
            self.faults.append("the entity's headers")
        return Taken(
            message.attributes["push-id"], found[1], found[2], document, before_s, dict(quality.attributes), replaces
        )
