"""Many pushes at once: told apart by partition, one message and one journal row at each owner; must never change the
order of pushes to one token, nor tell of a push what its owner did not.

A push goes out as it came, packed; only its token is looked at here. What is no push to a token goes to the app's home,
which says what is wrong with it, if anything is.
"""

from __future__ import annotations

import asyncio
import string
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import structlog

from gateway.api.media import MSGPACK, decode
from gateway.api.once import Push, settle
from gateway.delivery.request import PushRequest
from gateway.fleet.error_rows import build_error_row, parse_error_row
from gateway.fleet.owners import Owners
from gateway.fleet.ports import Core
from gateway.model.cluster import SLOTS, home_of
from gateway.model.errors import BadRequest, Draining, GatewayError, NodeUnreachable, UnknownApp

log = structlog.get_logger("gateway.fleet")

KIND = "pushes"
_CHARS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
#: first two characters of a token → its slot: ten of their twelve bits
_SLOT = {
    high + low: (at_high << 6 | at_low) >> 2 for at_high, high in enumerate(_CHARS) for at_low, low in enumerate(_CHARS)
}


class _Target(msgspec.Struct):
    token: str = ""


class _Peek(msgspec.Struct):
    target: _Target


class _Asked(NamedTuple):
    app: str
    most: int
    pushes: bytes  # packed array


class Pushed(NamedTuple):
    """A push that its owner has accepted."""

    seq: int
    targeted: int | None = 1
    replayed: bool = False


Result = Pushed | GatewayError

_encode = msgspec.msgpack.Encoder().encode
_peek_all = msgspec.msgpack.Decoder(list[_Peek]).decode
_peek = msgspec.msgpack.Decoder(_Peek).decode
_split = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_asked = msgspec.msgpack.Decoder(_Asked).decode
_decode_results = msgspec.msgpack.Decoder(list[int | list[Any]]).decode


def partition_of_text(token: str, partitions: int, otherwise: int) -> int:
    """By its first characters alone: what is no token is unknown wherever it is asked for."""
    slot = _SLOT.get(token[:2])
    return otherwise if slot is None else slot * partitions // SLOTS


def split(pushes: bytes) -> list[msgspec.Raw]:
    """A packed array taken apart. BadRequest where it is none."""
    try:
        return _split(pushes)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError):
        raise BadRequest("an array of pushes is expected", field="pushes") from None


def tokens_of(pushes: bytes, parts: Sequence[msgspec.Raw | bytes]) -> list[str]:
    """Of each push the token it names; empty where it names none, or is no push."""
    try:
        return [peek.target.token for peek in _peek_all(pushes)]
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError):
        return [_token_of(part) for part in parts]


def _token_of(part: msgspec.Raw | bytes) -> str:
    try:
        return _peek(part).target.token
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError):
        return ""


def pack_array(parts: Iterable[msgspec.Raw | bytes], count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + b"".join(parts)


class Part(NamedTuple):
    """The pushes of one batch that are one partition's, and what becomes of them: never fails."""

    places: list[int]
    results: asyncio.Future[list[Result]]


class ManyPushes:
    """Control thread only. `most` and the accept time-out are those of the configuration."""

    def __init__(self, owners: Owners, accept_timeout_s: float) -> None:
        self._owners = owners
        self._timeout_s = accept_timeout_s
        self._asking: set[asyncio.Task[list[Result]]] = set()
        owners.serve(KIND, self._on_pushes)

    # --- at the node that was asked

    def send(self, app: str, tokens: Sequence[str], parts: Sequence[msgspec.Raw | bytes]) -> list[Part]:
        """On their way when it returns, in order. `tokens`: of each; empty: the app's home decides."""
        partitions = self._owners.partitions
        home = home_of(app, partitions)
        places: dict[int, list[int]] = {}
        for place, token in enumerate(tokens):
            partition = partition_of_text(token, partitions, home)
            if partition in places:
                places[partition].append(place)
            else:
                places[partition] = [place]
        loop = asyncio.get_running_loop()
        sent: list[Part] = []
        for partition, theirs in places.items():
            packed = pack_array((parts[place] for place in theirs), len(theirs))
            body = _encode(_Asked(app, len(theirs), packed))
            # tasks begin in this order, and all of this batch before any of the next
            task = loop.create_task(self._ask(partition, body, len(theirs)))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
            sent.append(Part(theirs, task))
        return sent

    async def close(self) -> None:
        """Nobody waits for results any more."""
        asking = list(self._asking)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _ask(self, partition: int, body: bytes, count: int) -> list[Result]:
        try:
            results = parse_results(await self._owners.ask(partition, KIND, body))
        except GatewayError as error:
            return [error] * count
        except Exception as exc:
            log.error("pushes could not be sent to their owner", kind=type(exc).__name__)
            return [GatewayError()] * count
        return results if len(results) == count else [NodeUnreachable("a node answered for other pushes")] * count

    # --- at the owner

    def _on_pushes(self, core: Core, body: bytes) -> Awaitable[bytes]:
        """Everything is taken in before this returns, so that what comes later is behind it."""
        asked = parse_pushes(body)
        backend = core.backend
        app = backend.directory.app(asked.app)
        if app is None:
            raise UnknownApp
        if backend.stopping.is_set:
            raise Draining
        taken = backend.batches.accept(app, asked.pushes, asked.most, backend.now_ms())
        singles: dict[int, Push | GatewayError] = {}
        for index in taken.apart:
            try:
                request = decode(taken.raw(index), PushRequest, kind=MSGPACK)
                singles[index] = core.once.start(app, request)
            except GatewayError as error:
                singles[index] = error

        async def answer() -> bytes:
            await asyncio.wait((taken.done,))
            rows: list[Any] = []
            for index, result in enumerate(taken.results):
                rows.append(await self._row(singles[index]) if index in singles else _row_of(result))
            return _encode(rows)

        return answer()

    async def _row(self, single: Push | GatewayError) -> Any:
        if isinstance(single, GatewayError):
            return build_error_row(single)
        try:
            await settle(single, self._timeout_s)
        except GatewayError as error:
            return build_error_row(error)
        return (single.seq, single.targeted, single.replayed)


def _row_of(result: int | GatewayError | None) -> Any:
    if isinstance(result, GatewayError):
        return build_error_row(result)
    assert result is not None, "what is looked at alone has a result of its own"
    return result


def parse_pushes(body: bytes) -> _Asked:
    """BadRequest."""
    try:
        return _decode_asked(body)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise BadRequest("these are no pushes of another node") from error


def parse_results(body: bytes) -> list[Result]:
    """NodeUnreachable where these are none."""
    try:
        return [Pushed(row) if isinstance(row, int) else _parse_row(row) for row in _decode_results(body)]
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, BadRequest) as error:
        raise NodeUnreachable("a node answered with something that is no answer") from error


def _parse_row(row: list[Any]) -> Result:
    match row:
        case [int(seq), int() | None as targeted, bool(replayed)]:
            return Pushed(seq, targeted, replayed)
    return parse_error_row(row)
