"""Many pushes at once: told apart by partition, one question and one journal row for each owner's part; must never
change the order of pushes to one token, nor tell of a push what its owner did not.

Plain pushes that batches of one turn of the loop have for a partition go there as one, and while much is under way
those of a few turns, so parts grow with the load. What is not plain is looked at alone by its owner, so a part with
such a push goes alone, and nothing overtakes it. A push goes out as it came, packed. What is no push to a token goes
to the app's home, which says what is wrong with it, if anything is.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import structlog

from gateway._native.batch_parts import scatter
from gateway._native.batch_parts import split as split_native
from gateway.api.media import MSGPACK, decode
from gateway.api.once import Push, settle
from gateway.delivery.batch_gathering import HEAD_BYTES, TakenPart, pack_array, pack_array_head
from gateway.delivery.request import PushRequest
from gateway.fleet.error_rows import build_error_row, parse_error_row
from gateway.fleet.lane import Lane
from gateway.fleet.owners import Owners
from gateway.fleet.ports import Core
from gateway.fleet.stray_pushes import place_strays
from gateway.model.cluster import SLOTS, Body, Reply, home_of
from gateway.model.errors import BadRequest, Draining, GatewayError, LogFenced, NodeUnreachable, UnknownApp
from gateway.model.registration import App

log = structlog.get_logger("gateway.fleet")

KIND = "pushes"
_WHOLE = (1 << 32) - 1
#: batches are put together up to so much for one partition; a larger one goes alone
MOST_PUSHES = 4_096
MOST_BYTES = 524_288
#: while an owner has not answered so many for a partition, those of so long are put together: it takes longer anyway
BUSY_LOADS, GATHER_S = 4, 0.01


class _Asked(NamedTuple):
    app: str
    length: int
    pushes: memoryview  # packed array
    is_plain: bool


class Pushed(NamedTuple):
    """A push that its owner has accepted."""

    seq: int
    targeted: int | None = 1
    replayed: bool = False


Result = Pushed | GatewayError

_encode = msgspec.msgpack.Encoder().encode
_decode_asked = msgspec.msgpack.Decoder(_Asked).decode
_decode_answer = msgspec.msgpack.Decoder(int | list[int | list[Any]]).decode


class Part(NamedTuple):
    """The pushes of one batch that are one partition's."""

    partition: int
    length: int
    pushes: bytes  # packed array
    places: bytes  # of each in the batch
    is_plain: bool  # all of them

    def each_place(self) -> Sequence[int]:
        return memoryview(self.places).cast("I")


class PlainBounds(NamedTuple):
    """What a push may have to be taken in by the plain way (ext/push_reader.pyx)."""

    push_bytes: int
    inline_bytes: int
    most_ttl_s: int


class Answer(NamedTuple):
    """What became of a part."""

    #: where all were accepted, one behind the other, the sequence of the first; else 0, and each has its own
    first: int = 0
    results: Sequence[Result] = ()

    def at(self, index: int) -> Result:
        return Pushed(self.first + index) if self.first else self.results[index]

    def slice(self, start: int, length: int) -> Answer:
        return Answer(self.first + start) if self.first else Answer(0, self.results[start : start + length])


#: is told what became of a part, once; it does not raise
HearPart = Callable[[Part, Answer], None]


class _Load:
    """Parts of one partition and app that go out as one."""

    __slots__ = ("_hearers", "_parts", "app", "is_plain", "length", "partition", "size")

    def __init__(self, app: str, partition: int, is_plain: bool) -> None:
        self.app = app
        self.partition = partition
        self.is_plain = is_plain
        self._parts: list[Part] = []
        self._hearers: list[HearPart] = []
        self.length = 0
        self.size = 0

    def add(self, part: Part, hear: HearPart) -> None:
        self._parts.append(part)
        self._hearers.append(hear)
        self.length += part.length
        self.size += len(part.pushes)

    def takes(self, part: Part) -> bool:
        if not (self.is_plain and part.is_plain):
            return False
        return self.length + part.length <= MOST_PUSHES and self.size + len(part.pushes) <= MOST_BYTES

    def array(self) -> bytes:
        """All pushes, packed."""
        return self._parts[0].pushes if len(self._parts) == 1 else pack_array(self._bare(), self.length)

    def pack(self) -> Body:
        """As an owner is asked for it: an `_Asked`, in pieces."""
        bare = self._bare()
        head = pack_array_head(self.length)
        size = len(head) + sum(map(len, bare))
        packed = b"\x94" + _encode(self.app) + _encode(self.length) + b"\xc6" + size.to_bytes(4, "big") + head
        return (packed, *bare, _encode(self.is_plain))

    def _bare(self) -> list[memoryview]:
        return [memoryview(part.pushes)[HEAD_BYTES:] for part in self._parts]

    def tell(self, answer: Answer) -> None:
        """Whoever was told something before does not hear it."""
        hearers, self._hearers = self._hearers, []
        if len(hearers) == 1:
            hearers[0](self._parts[0], answer)
            return
        at = 0
        for part, hear in zip(self._parts, hearers, strict=False):  # none where they were told
            hear(part, answer.slice(at, part.length))
            at += part.length


class ManyPushes:
    """Control thread only. `accept_timeout_s` and `bounds` are those of the configuration."""

    def __init__(self, owners: Owners, accept_timeout_s: float, bounds: PlainBounds) -> None:
        self._owners = owners
        self._bounds = bounds._asdict()
        self._timeout_s = accept_timeout_s
        #: by partition
        self._lanes: dict[int, Lane[_Load]] = {}
        self._is_closed = False
        self._settling: set[asyncio.Task[None]] = set()
        #: what goes out at the end of this turn or a moment later, by app and partition, in order
        self._loads: dict[tuple[str, int], list[_Load]] = {}
        self._flushing: asyncio.Handle | None = None
        self._gathering: asyncio.TimerHandle | None = None
        partitions = owners.partitions
        self._partition_of_slot = array("H", (slot * partitions // SLOTS for slot in range(SLOTS)))
        owners.serve_views(KIND, self._on_pushes)

    # --- at the node that was asked

    def split(self, app: str, pushes: bytes | memoryview, most: int = _WHOLE) -> list[Part]:
        """The first `most` of a packed array told apart, in order; those without a token are its home's. BadRequest
        where this is no array."""
        home = home_of(app, self._owners.partitions)
        try:
            parts = split_native(pushes, self._partition_of_slot, home, most, **self._bounds)
            return [Part._make(part) for part in place_strays(parts, self._owners.partitions)]
        except (ValueError, RecursionError) as error:
            raise BadRequest(str(error), field="pushes") from None

    def send(self, app: str, parts: Sequence[Part], hear: HearPart) -> None:
        """They go out in this turn of the loop, or a moment later where their owner has much to do, in order. `hear` is
        told of each later."""
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_soon(self._flush)
        for part in parts:
            loads = self._loads.setdefault((app, part.partition), [])
            if not loads or not loads[-1].takes(part):
                loads.append(_Load(app, part.partition, part.is_plain))
            loads[-1].add(part, hear)

    async def close(self) -> None:
        """Who still waits is told that there is no answer."""
        for handle in (self._flushing, self._gathering):
            if handle is not None:
                handle.cancel()
        self._flushing = self._gathering = None
        self._is_closed = True
        self._flush_all()
        for lane in self._lanes.values():
            await lane.close()
        tasks = list(self._settling)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _flush(self) -> None:
        """What a turn has for a node is one message of the bus."""
        self._flushing = None
        loads, self._loads = self._loads, {}
        for key, theirs in loads.items():
            lane = self._lane(key[1])
            if lane.under_way >= BUSY_LOADS and not self._is_closed:
                self._loads[key] = theirs
            else:
                for load in theirs:
                    lane.put(load)
        if self._loads and self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(GATHER_S, self._flush_all)

    def _flush_all(self) -> None:
        self._gathering = None
        loads, self._loads = self._loads, {}
        for (_, partition), theirs in loads.items():
            for load in theirs:
                self._lane(partition).put(load)

    def _lane(self, partition: int) -> Lane[_Load]:
        lane = self._lanes.get(partition)
        if lane is None:
            lane = self._lanes[partition] = Lane(self._owners, partition, self._ask, self._settle)
            if self._is_closed:
                lane.end()
        return lane

    def _ask(self, load: _Load, node: int, reply: Reply) -> None:
        owners = self._owners
        if node == owners.bus.number:
            core = owners.own(load.partition)
            self._take(core, load.app, load.array(), load.length, load.is_plain, reply)
        else:
            owners.ask_soon(node, load.partition, KIND, load.pack(), reply)

    def _settle(self, load: _Load, node: int, answer: bytes | GatewayError) -> None:
        if isinstance(answer, bytes):
            load.tell(_answer_of(answer, load.length))
        elif isinstance(answer, NodeUnreachable) and node not in (0, self._owners.bus.number):
            load.tell(_refused(self._owners.unanswered(), load.length))
        else:
            load.tell(_refused(answer, load.length))

    # --- at the owner

    def _on_pushes(self, core: Core, body: memoryview, reply: Reply) -> None:
        asked = parse_pushes(body)
        self._take(core, asked.app, asked.pushes, asked.length, asked.is_plain, reply)

    def _take(
        self, core: Core, name: str, pushes: bytes | memoryview, length: int, is_plain: bool, reply: Reply
    ) -> None:
        """In the order of arrival: what comes later is taken in behind it."""
        app = core.backend.directory.app(name)
        if app is None:
            raise UnknownApp
        if core.backend.stopping.is_set:
            raise Draining

        def hear(taken: TakenPart | GatewayError) -> None:
            if isinstance(taken, GatewayError):
                reply(taken)
            elif isinstance(taken.refusal, LogFenced) or (taken.refusal and core.backend.stopping.is_set):
                reply(LogFenced())  # nothing was done: the next owner is asked
            elif taken.apart:
                self._settle_apart(core, app, taken, reply)
            else:
                taken.when_settled(lambda: reply(build_answer(taken)))

        core.gathering.take(app, pushes, length, is_plain, hear)

    def _settle_apart(self, core: Core, app: App, taken: TakenPart, reply: Reply) -> None:
        """Of those to be looked at alone each begins now."""
        singles: dict[int, Push | GatewayError] = {}
        for index in taken.apart:
            try:
                request = decode(taken.raw(index), PushRequest, kind=MSGPACK)
                singles[index] = core.once.start(app, request)
            except GatewayError as error:
                singles[index] = error
            except Exception as exc:
                log.error("a push could not be looked at alone", kind=type(exc).__name__)
                singles[index] = GatewayError()

        async def settle_all() -> None:
            await asyncio.wait((taken.done,))
            reply(build_answer(taken, {index: await self._row(single) for index, single in singles.items()}))

        def on_end(task: asyncio.Task[None]) -> None:
            self._settling.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("pushes looked at alone could not be settled", kind=type(error).__name__)
            reply(NodeUnreachable())  # where nothing was said

        task = asyncio.get_running_loop().create_task(settle_all())
        self._settling.add(task)
        task.add_done_callback(on_end)

    async def _row(self, single: Push | GatewayError) -> Any:
        if isinstance(single, GatewayError):
            return build_error_row(single)
        try:
            await settle(single, self._timeout_s)
        except GatewayError as error:
            return build_error_row(error)
        return (single.seq, single.targeted, single.replayed)


def place_seqs(seqs: array[int], part: Part, answer: Answer) -> dict[int, Result]:
    """Sequences of accepted pushes at their places of the batch; returns what is not just that, by place."""
    if answer.first:
        scatter(seqs, part.places, answer.first)
        return {}
    others: dict[int, Result] = {}
    for place, result in zip(part.each_place(), answer.results, strict=True):
        if isinstance(result, Pushed) and result.targeted == 1:
            seqs[place] = result.seq
        else:
            others[place] = result
    return others


def build_answer(taken: TakenPart, singles: dict[int, Any] | None = None) -> bytes:
    """A number: all were accepted, this was the first; else a row each: its sequence, what `singles` has, an error."""
    if taken.first:
        return _encode(taken.first)
    rows: list[Any] = []
    for index in range(taken.count):
        result = taken.result(index)
        if isinstance(result, GatewayError):
            rows.append(build_error_row(result))
        elif result is None:
            assert singles is not None, "what is looked at alone has a result of its own"
            rows.append(singles[index])
        else:
            rows.append(result)
    return _encode(rows)


def parse_pushes(body: bytes | memoryview) -> _Asked:
    """BadRequest."""
    try:
        return _decode_asked(body)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise BadRequest("these are no pushes of another node") from error


def parse_answer(body: bytes, count: int) -> Answer:
    """NodeUnreachable where it is none, or one for other pushes."""
    try:
        answer = _decode_answer(body)
        if isinstance(answer, int):
            if answer <= 0 or count <= 0:
                raise BadRequest("no sequence of a push")
            return Answer(answer)
        results = [Pushed(row) if isinstance(row, int) else _parse_row(row) for row in answer]
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, BadRequest) as error:
        raise NodeUnreachable("a node answered with something that is no answer") from error
    if len(results) != count:
        raise NodeUnreachable("a node answered for other pushes")
    return Answer(0, results)


def _answer_of(body: bytes, count: int) -> Answer:
    try:
        return parse_answer(body, count)
    except GatewayError as error:
        return _refused(error, count)


def _refused(error: GatewayError, count: int) -> Answer:
    return Answer(0, [error] * count)


def _parse_row(row: list[Any]) -> Result:
    match row:
        case [int(seq), int() | None as targeted, bool(replayed)]:
            return Pushed(seq, targeted, replayed)
    return parse_error_row(row)
