"""What a node's bus is, whatever carries its messages: questions, answers, what is told, losses; must never let what
comes from another node raise into the loop, nor put what it says into a log.
"""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from inspect import isawaitable

import structlog

from gateway.cluster import bus_frames
from gateway.cluster.bus_frames import ANSWER, ASK, ERROR, MAX_KIND_BYTES, TELL, Frame, Inbox, Outbox
from gateway.metrics import Metrics
from gateway.metrics.names import Metric
from gateway.model.cluster import Body, Handler, Reply, ReplyHandler, tell_future, whole_of
from gateway.model.errors import GatewayError, NodeUnreachable, QueueFull, UnknownFrame

_log = structlog.get_logger(__name__)

#: questions of this node without an answer; past it QueueFull
MAX_ASKS = 65_536
#: handlers without an answer yet; past it questions are refused, and what was told counts as lost
MAX_RUNNING = 16_384
#: a node that was told something hears the last number again after so long, so many times
MARK_S = 0.5
MARKS = 3


class _Reply:
    """To a question of another node."""

    __slots__ = ("_bus", "_frame", "_sender")

    def __init__(self, bus: MessageBus, sender: int, frame: Frame) -> None:
        self._bus: MessageBus | None = bus
        self._sender = sender
        self._frame = frame

    def __call__(self, answer: bytes | GatewayError) -> None:
        bus, self._bus = self._bus, None
        if bus is not None:
            bus._on_reply(self._sender, self._frame, answer)


class MessageBus(ABC):
    """A `model.cluster.Bus` over something that carries messages. Control thread only."""

    def __init__(self, number: int, metrics: Metrics, *, outbox_bytes: int, mark_s: float = MARK_S) -> None:
        self._number = number
        self._metrics = metrics
        self._outbox_bytes = outbox_bytes
        self._mark_s = mark_s
        self._handlers: dict[str, Handler] = {}
        self._reply_handlers: dict[str, ReplyHandler] = {}
        self._unreplied = 0
        self._outboxes: dict[int, Outbox] = {}
        self._inboxes: dict[int, Inbox] = {}
        self._own: deque[Frame] = deque()
        #: nodes that something waits for
        self._dirty: dict[int, None] = {}
        #: nodes to be told the last number again → how often still
        self._to_mark: dict[int, int] = {}
        self._flushing: asyncio.Handle | None = None
        self._marking: asyncio.TimerHandle | None = None
        self._asks: dict[int, tuple[int, Reply]] = {}
        #: until when they are waited for, of each length of time in order; those that were answered go in passing
        self._ends: dict[float, deque[tuple[float, int]]] = {}
        self._ending: asyncio.TimerHandle | None = None
        self._ends_at_s = 0.0
        self._requests = itertools.count(1)
        self._running: set[asyncio.Future[bytes]] = set()
        self._gap_hearers: list[Callable[[int], None]] = []
        self._is_closed = False

    # --- the port

    @property
    def number(self) -> int:
        return self._number

    @property
    @abstractmethod
    def is_up(self) -> bool: ...

    def serve(self, kind: str, handler: Handler) -> None:
        self._check_kind(kind)
        self._handlers[kind] = handler

    def serve_replies(self, kind: str, handler: ReplyHandler) -> None:
        self._check_kind(kind)
        self._reply_handlers[kind] = handler

    def _check_kind(self, kind: str) -> None:
        is_served = kind in self._handlers or kind in self._reply_handlers
        if is_served or not 0 < len(kind.encode()) <= MAX_KIND_BYTES:
            raise ValueError(f"{kind!r} is served already, or is no kind")

    async def ask(self, node: int, kind: str, body: Body, *, timeout_s: float) -> bytes:
        if node == self._number:
            return await self._ask_self(kind, whole_of(body), timeout_s)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        request = self._begin_ask(node, kind, body, partial(tell_future, future), timeout_s)
        try:
            return await future
        finally:
            self._asks.pop(request, None)

    def ask_soon(self, node: int, kind: str, body: Body, reply: Reply, *, timeout_s: float) -> None:
        if node == self._number:
            raise ValueError("another node is asked so")
        self._begin_ask(node, kind, body, reply, timeout_s)

    def _begin_ask(self, node: int, kind: str, body: Body, reply: Reply, timeout_s: float) -> int:
        if self._is_closed or not self.is_up:
            self._metrics.count(Metric.BUS_ASKS_FAILED, label="down")
            raise NodeUnreachable
        if len(self._asks) >= MAX_ASKS:
            self._metrics.count(Metric.BUS_ASKS_FAILED, label="full")
            raise QueueFull
        request = next(self._requests)
        if not self._put(node, Frame(ASK, kind, request, b""), body):
            self._metrics.count(Metric.BUS_ASKS_FAILED, label="outbox")
            raise NodeUnreachable
        self._asks[request] = node, reply
        end_s = asyncio.get_running_loop().time() + timeout_s
        ends = self._ends.get(timeout_s)
        if ends is None:
            ends = self._ends[timeout_s] = deque()
        while ends and ends[0][1] not in self._asks:
            ends.popleft()
        ends.append((end_s, request))
        if self._ending is None or end_s < self._ends_at_s:
            self._wait_for_ends()
        return request

    def _wait_for_ends(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
        self._ending = None
        if heads := [ends[0][0] for ends in self._ends.values() if ends]:
            self._ends_at_s = min(heads)
            self._ending = asyncio.get_running_loop().call_at(self._ends_at_s, self._end_asks)

    def _end_asks(self) -> None:
        """Those whose time is over."""
        self._ending = None
        now_s = asyncio.get_running_loop().time()
        for timeout_s, ends in list(self._ends.items()):
            while ends and (ends[0][0] <= now_s or ends[0][1] not in self._asks):
                _, reply = self._asks.pop(ends.popleft()[1], (0, None))
                if reply is not None:
                    self._metrics.count(Metric.BUS_ASKS_FAILED, label="timeout")
                    self._tell(reply, NodeUnreachable())
            if not ends:
                del self._ends[timeout_s]
        self._wait_for_ends()

    def tell(self, node: int, kind: str, body: bytes) -> None:
        frame = Frame(TELL, kind, 0, body)
        if node == self._number:
            self._own.append(frame)
            self._flush_soon()
        else:
            self._put(node, frame)

    def on_gap(self, hear: Callable[[int], None]) -> None:
        self._gap_hearers.append(hear)

    # --- its life

    async def start(self) -> None:
        """Everything is served: messages may come."""
        self._marking = asyncio.get_running_loop().call_later(self._mark_s, self._send_marks)

    async def close(self) -> None:
        self._is_closed = True
        for handle in (self._marking, self._flushing, self._ending):
            if handle is not None:
                handle.cancel()
        self._fail_asks(None)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def forget(self, node: int) -> None:
        """It is gone: nothing waits for it, and it will not answer. Numbers of messages are kept: should it come back,
        both sides see that something was lost."""
        outbox = self._outboxes.get(node)
        if outbox is not None:
            self._drop("gone", outbox.clear())
        self._to_mark.pop(node, None)
        self._fail_asks(node)

    # --- out

    @abstractmethod
    def _carry(self, node: int, message: bytes) -> None:
        """Sends one message now, or fails to."""

    @abstractmethod
    def _flush_others(self) -> None:
        """Sends what waits for other nodes; called once a turn in which something came."""

    def _put(self, node: int, frame: Frame, body: Body | None = None) -> bool:
        if self._is_closed:
            return False
        outbox = self._outboxes.get(node)
        if outbox is None:
            outbox = self._outboxes[node] = Outbox(self._number, self._outbox_bytes)
        fits = outbox.put(frame, body)
        if not fits:
            self._drop("outbox", 1)
        self._dirty[node] = None
        self._to_mark[node] = MARKS
        self._flush_soon()
        return fits

    def _flush_soon(self) -> None:
        if self._flushing is None and not self._is_closed:
            self._flushing = asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = None
        self._hear_own()
        if self._own:
            self._flush_soon()
        if self._dirty:
            self._flush_others()

    def _hear_own(self) -> None:
        """What was told to oneself so far; what that tells again is for the next turn."""
        for _ in range(len(self._own)):
            if not self._own:
                return  # a handler among them asked oneself, and so heard the rest
            self._handle(self._number, self._own.popleft())

    def _send_marks(self) -> None:
        self._marking = asyncio.get_running_loop().call_later(self._mark_s, self._send_marks)
        if not self.is_up:
            return  # the numbers would be lost with the rest
        for node, left in list(self._to_mark.items()):
            if left == 1:
                del self._to_mark[node]
            else:
                self._to_mark[node] = left - 1
            if node not in self._dirty:  # what waits says it as well
                self._carry(node, self._outboxes[node].mark())

    def mark_all(self) -> None:
        """The connection was lost for a while: every node is told the last number again."""
        self._to_mark.update(dict.fromkeys(self._outboxes, MARKS))

    def _drop(self, reason: str, count: int) -> None:
        if count:
            self._metrics.count(Metric.BUS_DROPPED, count, reason)

    # --- in

    def receive(self, raw: bytes) -> None:
        """One message, as it came."""
        try:
            message = bus_frames.parse_message(raw)
            inbox = self._inboxes.get(message.sender)
            if inbox is None:
                inbox = self._inboxes[message.sender] = Inbox(self._outbox_bytes + bus_frames.BUNDLE_BYTES)
            bundle, lost = inbox.take(message)
            frames = bus_frames.parse_frames(bundle)
        except bus_frames.BadMessage as exc:
            self._drop("malformed", 1)
            _log.warning("bus_malformed", why=str(exc))
            return
        if lost:
            self._tell_gap(message.sender)
        for frame in frames:
            self._handle(message.sender, frame)

    def _tell_gap(self, node: int) -> None:
        self._metrics.count(Metric.BUS_GAPS)
        for hear in self._gap_hearers:
            try:
                hear(node)
            except Exception:
                _log.exception("bus_gap_unheard")

    def _handle(self, sender: int, frame: Frame) -> None:
        if frame.type in (ANSWER, ERROR):
            self._settle(sender, frame)
            return
        handler = self._handlers.get(frame.kind)
        if handler is None:
            reply_handler = self._reply_handlers.get(frame.kind)
            if reply_handler is not None:
                self._hand_over(sender, frame, reply_handler)
                return
            self._drop("unknown", 1)
            # the name is not ours: it is not repeated
            self._refuse(sender, frame, UnknownFrame("This node does not know this kind of message."))
            return
        try:
            result = handler(sender, frame.body)
        except Exception as exc:
            self._refuse(sender, frame, self._as_refusal(frame, exc))
            return
        if isinstance(result, bytes) or not isawaitable(result):
            self._answer(sender, frame, result)
        elif len(self._running) >= MAX_RUNNING:
            if hasattr(result, "close"):
                result.close()  # never to be awaited
            self._drop("busy", 1)
            self._refuse(sender, frame, QueueFull())
            if frame.type == TELL:
                self._tell_gap(sender)
        else:
            future = asyncio.ensure_future(result)  # a future needs no task
            self._running.add(future)
            future.add_done_callback(partial(self._on_result, sender, frame))

    def _hand_over(self, sender: int, frame: Frame, handler: ReplyHandler) -> None:
        if self._unreplied >= MAX_RUNNING:
            self._drop("busy", 1)
            self._refuse(sender, frame, QueueFull())
            if frame.type == TELL:
                self._tell_gap(sender)
            return
        reply = _Reply(self, sender, frame)
        self._unreplied += 1
        try:
            handler(sender, frame.body, reply)
        except Exception as exc:
            reply(self._as_refusal(frame, exc))

    def _on_reply(self, sender: int, frame: Frame, answer: bytes | GatewayError) -> None:
        self._unreplied -= 1
        if isinstance(answer, GatewayError):
            self._refuse(sender, frame, answer)
        else:
            self._answer(sender, frame, answer)

    def _on_result(self, sender: int, frame: Frame, future: asyncio.Future[bytes]) -> None:
        self._running.discard(future)
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._answer(sender, frame, future.result())
        elif isinstance(error, Exception):
            self._refuse(sender, frame, self._as_refusal(frame, error))

    def _as_refusal(self, frame: Frame, exc: Exception) -> GatewayError:
        if isinstance(exc, GatewayError):
            return exc
        _log.error("bus_handler_failed", kind=frame.kind, exc_info=exc)
        return GatewayError()

    def _answer(self, sender: int, frame: Frame, body: bytes) -> None:
        if frame.type == ASK:
            self._put(sender, Frame(ANSWER, "", frame.request, body))

    def _refuse(self, sender: int, frame: Frame, error: GatewayError) -> None:
        if frame.type == ASK:
            self._put(sender, Frame(ERROR, "", frame.request, bus_frames.build_refusal(error)))
        else:
            self._metrics.count(Metric.BUS_TELLS_FAILED, label=error.name)

    def _settle(self, sender: int, frame: Frame) -> None:
        node, reply = self._asks.get(frame.request, (0, None))
        if reply is None or node != sender:
            self._drop("late", 1)
            return
        del self._asks[frame.request]
        if frame.type == ANSWER:
            self._tell(reply, frame.body)
        else:
            try:
                error = bus_frames.parse_refusal(frame.body)
            except bus_frames.BadMessage:
                self._drop("malformed", 1)
                error = GatewayError()
            self._tell(reply, error)

    def _tell(self, reply: Reply, answer: bytes | GatewayError) -> None:
        try:
            reply(answer)
        except Exception as exc:  # what else came in this message is heard all the same
            _log.error("bus_reply_unheard", exc_info=exc)

    def _fail_asks(self, node: int | None) -> None:
        """Those of one node, or all."""
        gone = [request for request, (asked, _) in self._asks.items() if node in (None, asked)]
        for request in gone:
            _, reply = self._asks.pop(request, (0, None))
            if reply is not None:
                self._metrics.count(Metric.BUS_ASKS_FAILED, label="gone")
                self._tell(reply, NodeUnreachable())

    async def _ask_self(self, kind: str, body: bytes, timeout_s: float) -> bytes:
        handler = self._handlers.get(kind)
        if handler is None:
            # a kind of replies too: who serves one asks itself without the bus
            self._drop("unknown", 1)
            raise UnknownFrame("This node does not know this kind of message.")
        self._hear_own()  # told before it was asked
        try:
            result = handler(self._number, body)
            if not isawaitable(result):
                return result
            async with asyncio.timeout(timeout_s):
                return await result
        except TimeoutError:
            self._metrics.count(Metric.BUS_ASKS_FAILED, label="timeout")
            raise NodeUnreachable from None
        finally:
            self._hear_own()  # told before it was answered
