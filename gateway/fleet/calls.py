"""An HTTP request as a message between nodes: the owner's own provider door answers it; must never stream, and never
show a request to a core that this node does not own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec
import structlog
from starlette.responses import Response
from starlette.types import Message

from gateway.api.door import APP, ERROR, FORWARDED
from gateway.fleet.owners import Owners
from gateway.fleet.ports import Core
from gateway.model.errors import BadRequest, GatewayError, NodeUnreachable

log = structlog.get_logger("gateway.fleet")

KIND = "call"
Headers = list[tuple[bytes, bytes]]


class Asked(msgspec.Struct, array_like=True, frozen=True):
    """A request, read whole."""

    method: str
    path: str
    raw_path: bytes
    query: bytes
    headers: Headers
    body: bytes
    scheme: str = "http"
    #: PEM of the client's certificate and those above it
    certificates: list[str] = []


class Answered(msgspec.Struct, array_like=True):
    status: int
    headers: Headers
    body: bytes
    #: what the log of the door says of it
    app: str = ""
    error: str = ""


class Each(NamedTuple):
    """Answers of many partitions: those that answered, and the first error of one that did not."""

    answers: dict[int, Answered]
    error: GatewayError | None


_encode = msgspec.msgpack.Encoder().encode
_asked = msgspec.msgpack.Decoder(Asked).decode
_answered = msgspec.msgpack.Decoder(Answered).decode
#: called at the owner when it has answered, before anybody is told
Hear = Callable[[Core, Asked, Answered], Awaitable[None]]


def build_call(asked: Asked) -> bytes:
    return _encode(asked)


def parse_call(body: bytes) -> Asked:
    """BadRequest."""
    try:
        return _asked(body)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise BadRequest("this is no request of another node") from error


def build_answer(answered: Answered) -> bytes:
    return _encode(answered)


def parse_answer(body: bytes) -> Answered:
    """NodeUnreachable where it is none: the other node speaks something else."""
    try:
        return _answered(body)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise NodeUnreachable("a node answered with something that is no answer") from error


class Calls:
    def __init__(self, owners: Owners, hear: Hear | None = None) -> None:
        self._owners = owners
        self._hear = hear
        owners.serve(KIND, self._on_call)

    async def ask(self, partition: int, asked: Asked) -> Answered:
        """The answer of a partition's door, errors of its own too; NodeUnreachable where it gave none."""
        owners = self._owners
        if owners.members.owner(partition).node == owners.bus.number and partition in owners.cores:
            return await self._answer(owners.own(partition), asked)  # nothing is packed for oneself
        return parse_answer(await owners.ask(partition, KIND, build_call(asked)))

    async def each(self, asked: Asked, partitions: list[int] | None = None) -> Each:
        """The same of many partitions."""
        found = await self._owners.each(KIND, build_call(asked), partitions)
        answers: dict[int, Answered] = {}
        error: GatewayError | None = None
        for partition, raw in found.items():
            if isinstance(raw, GatewayError):
                error = error or raw
            else:
                answers[partition] = parse_answer(raw)
        return Each(answers, error)

    async def _on_call(self, core: Core, body: bytes) -> bytes:
        return build_answer(await self._answer(core, parse_call(body)))

    async def _answer(self, core: Core, asked: Asked) -> Answered:
        answered = await run(core, asked)
        if self._hear is not None:
            await self._hear(core, asked, answered)
        return answered


async def run(core: Core, asked: Asked) -> Answered:
    """Let the core's own door answer."""
    extensions = {"tls": {"client_cert_chain": asked.certificates}} if asked.certificates else {}
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": asked.scheme,
        "path": asked.path,
        "raw_path": asked.raw_path,
        "query_string": asked.query,
        "root_path": "",
        "headers": asked.headers,
        "client": None,
        "server": None,
        "extensions": extensions,
        "state": {},
        FORWARDED: True,
    }
    unread = [asked.body]
    answered = Answered(0, [], b"")

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answered.status = message["status"]
            answered.headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
        else:
            answered.body += message.get("body", b"")

    try:
        await core.asgi(scope, receive, send)
    except GatewayError:
        raise
    except Exception as exc:
        log.error("a core's door failed", partition=core.partition, kind=type(exc).__name__)
        raise GatewayError from None
    answered.app, answered.error = str(scope.get(APP, "")), str(scope.get(ERROR, ""))
    return answered


class Relayed(Response):
    """The answer of another door, as it is."""

    def __init__(self, answered: Answered) -> None:
        super().__init__(answered.body, status_code=answered.status)
        self.raw_headers = list(answered.headers)
