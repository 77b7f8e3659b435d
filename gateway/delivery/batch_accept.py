"""Takes batches of pushes in: the plain ones in one native loop and one row of the journal; must never treat a plain
push otherwise than `accept` would.

What is not plain is left to the caller, who decodes it and gives it to `accept` like a push that came alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container

import structlog

from gateway.config.sections import Config
from gateway.delivery.dispatcher import Dispatcher
from gateway.metrics import Metric, Metrics
from gateway.model.errors import BadRequest, GatewayError, QueueFull, StoreUnavailable, UnknownToken
from gateway.model.ports import APART, FULL, UNKNOWN_TOKEN, AcceptedBatch, BatchLimits, Edge, Journal, PushBatch
from gateway.model.registration import App

_log = structlog.get_logger("gateway.delivery")

#: sequence of an accepted push, the error of a refused one, or None for one to be looked at alone
Result = int | GatewayError | None


class TakenBatch:
    """What became of a batch; final when `done` is, which never fails, for each push has its own result."""

    __slots__ = ("_batch", "_hearers", "_results", "apart", "done", "first", "refusal")

    def __init__(
        self,
        batch: PushBatch,
        first: int,
        results: list[Result],
        apart: list[int],
        refusal: GatewayError | None = None,
    ) -> None:
        self._batch = batch
        #: where all were accepted, one behind the other, the sequence of the first; else 0
        self.first = first
        self._results = results
        #: indices of those to be looked at alone
        self.apart = apart
        #: why the journal took nothing of it; None: it did, or there was nothing for it
        self.refusal = refusal
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hearers: list[Callable[[], None]] = []

    @property
    def count(self) -> int:
        return self._batch.count

    def result(self, index: int) -> Result:
        return self.first + index if self.first else self._results[index]

    def raw(self, index: int) -> bytes:
        """A push as it came, packed."""
        return self._batch.raw(index)

    def refuse(self, lost: Container[int], failure: GatewayError) -> None:
        """The commit failed: of those accepted these were lost."""
        results = [self.first + index for index in range(self._batch.count)] if self.first else self._results
        self._results = [failure if isinstance(result, int) and result in lost else result for result in results]
        self.first = 0

    def when_settled(self, call: Callable[[], None]) -> None:
        """`call` once, when `done` is or in a later turn of the loop; it does not raise. Many of them cost less than as
        many callbacks of `done`."""
        if self.done.done():
            asyncio.get_running_loop().call_soon(call)
        else:
            self._hearers.append(call)

    def settle(self) -> None:
        if self.done.done():
            return
        self.done.set_result(None)
        hearers, self._hearers = self._hearers, []
        for call in hearers:
            try:
                call()
            except Exception as exc:  # the others hear it all the same
                _log.error("a batch was settled, and who waits could not be told", kind=type(exc).__name__)


class BatchAcceptor:
    """Loop thread only."""

    def __init__(
        self,
        *,
        edge: Edge,
        journal: Journal,
        dispatcher: Dispatcher,
        config: Config,
        metrics: Metrics,
    ) -> None:
        self._edge = edge
        self._journal = journal
        self._dispatcher = dispatcher
        self._delivery = config.delivery
        self._max_push_bytes = config.api.max_push_bytes
        self._metrics = metrics

    def accept(self, app: App, arrays: list[bytes | memoryview], most: int, now_ms: int) -> TakenBatch:
        """`arrays`: packed msgpack arrays of push maps, one behind the other, at most so many in all. BadRequest where
        one is none."""
        limits = self._limits(app, most)
        try:
            batch = self._journal.read_batch(app.name, arrays, limits)
        except (ValueError, OverflowError) as error:
            raise BadRequest(str(error), field="pushes") from None
        accepted: AcceptedBatch | None = None
        refused: GatewayError | None = None
        each_counts = bool(app.device_per_hour or app.device_per_day)  # against its registration
        if batch.ready and not each_counts:
            try:
                accepted = self._journal.append_batch(batch, limits, self._edge.router, now_ms)
            except GatewayError as error:
                refused = error
            except MemoryError:
                refused = QueueFull("memory is short; nothing was accepted")
        if accepted is not None and batch.ready == batch.count:
            taken = TakenBatch(batch, accepted.first, [], [])
        else:
            places = [APART if each_counts and place >= 0 else place for place in batch.places]
            taken = TakenBatch(batch, 0, *self._settle(places, accepted, refused), refused)
        if accepted is None:
            taken.settle()
        else:
            self._metrics.count(Metric.PUSHES, batch.ready, "token")
            self._dispatcher.look_at(accepted.odd, app.name)
            accepted.done.add_done_callback(self._on_commit(accepted, taken))
        return taken

    def _limits(self, app: App, most: int) -> BatchLimits:
        defaults = self._delivery
        return BatchLimits(
            pushes=most,
            push_bytes=self._max_push_bytes,
            inline_bytes=defaults.inline_bytes,
            ttl_s=app.ttl_s or defaults.ttl_s,
            most_ttl_s=defaults.max_ttl_s,
            ack_ms=app.ack_ms or defaults.ack_ms,
            notifier_ack_ms=app.notifier_ack_ms or defaults.notifier_ack_ms,
            has_no_notifiers=not app.fallback,
        )

    def _settle(
        self, places: list[int], accepted: AcceptedBatch | None, refused: GatewayError | None
    ) -> tuple[list[Result], list[int]]:
        results: list[Result] = []
        apart: list[int] = []
        for index, place in enumerate(places):
            if place >= 0:
                result: Result = refused if accepted is None else accepted.first + place
            elif place == UNKNOWN_TOKEN:
                result = UnknownToken(field="target.token")
            elif place == FULL:
                result = QueueFull("too many deliveries are pending for this token; nothing was accepted")
            else:
                assert place == APART
                result = None
                apart.append(index)
            if isinstance(result, GatewayError):
                self._metrics.count(Metric.PUSHES_REFUSED, label=result.name)
            results.append(result)
        return results, apart

    def _on_commit(self, accepted: AcceptedBatch, taken: TakenBatch) -> Callable[[asyncio.Future[None]], None]:
        def on_commit(commit: asyncio.Future[None]) -> None:
            error = None if commit.cancelled() else commit.exception()
            if commit.cancelled() or error is not None:
                self._dispatcher.take_back(accepted.withdrawn)
                failure = error if isinstance(error, GatewayError) else StoreUnavailable()
                taken.refuse({seq for seq, _ in accepted.withdrawn}, failure)
            taken.settle()

        return on_commit
