"""The calls that wait for one notifier, in lanes; must never let a lane that fails, hangs or rests touch another.

A lane is what fails alone: an upstream and the credential it is asked with (`Notifier.lane`). Lanes take turns, a call
each. What each bound does when it is reached, counted by `heliograph_notifier_bounds_total`:

- calls waiting in all, or in one lane: `offer` refuses. A delivery that waits for room is remembered (`keep`), and told
  (`on_room`) when the lane is half empty; meanwhile the lane refuses what comes later, so that nothing overtakes it;
- busy lanes: one that only rests gives way (its upstream is still left alone by the notifier's own circuit), else the
  call is refused as above;
- calls under way in all: three quarters for anybody, and of the last quarter a lane takes while it has less under way
  than is left: lanes that hang or are slow leave others more than a call at a time;
- calls under way of one lane: its others wait in the lane.

Waiting calls, lanes and calls under way are shared by the apps (`model/shares.py`): the devices of one may name a
thousand upstreams that hang, and another's still gets its turn.

A lane rests where a result says so (`retry_after_ms`). For a short rest its calls wait in the lane; for a longer one
they go back as "try later" with the time that is left, which costs them no try.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

import structlog

from gateway.config.sections import Delivery
from gateway.delivery.refused import Key, Refused
from gateway.metrics import Metric, Metrics
from gateway.model.notification import Notification
from gateway.model.ports import Notifier, NotifierResult
from gateway.model.registration import App, Registration
from gateway.model.shares import Shares

_log = structlog.get_logger(__name__)

#: calls started or given back in one slice of the loop's time
SLICE = 200
#: deliveries remembered for each call that may wait
KEPT = 10
#: lanes that refused calls looked at in one slice
_LOOKS = 16
#: shortest rest, so that a lane refused over and over does not spin
MIN_REST_MS = 10


class Job(NamedTuple):
    """One call to make. The content is loaded when its turn comes, so a long queue stays small."""

    seq: int  # of the delivery
    notifier: str


Call = tuple[App, Registration, Notification]


class Lane:
    """Calls that share an upstream and a credential."""

    __slots__ = ("app", "in_flight", "is_parked", "jobs", "name", "rests_until_ms", "wake")

    def __init__(self, name: str, app: str) -> None:
        self.name = name
        self.app = app
        self.jobs: deque[Job] = deque()
        self.in_flight = 0
        self.is_parked = False
        self.rests_until_ms = 0
        self.wake: asyncio.TimerHandle | None = None


class NotifyQueue:
    """Calls one notifier, each call at most `delivery.notifier_timeout_s`.

    `load` gives what to call with, or None where the call is no longer needed; `on_result` is called exactly once for
    each job whose call was made or given back. `clock`: Unix ms.
    """

    def __init__(
        self,
        notifier: Notifier,
        *,
        delivery: Delivery,
        load: Callable[[Job], Call | None],
        on_result: Callable[[Job, NotifierResult], None],
        on_gone: Callable[[str, Registration, NotifierResult], NotifierResult | None] = lambda _n, _r, result: result,
        on_room: Callable[[int], None] = lambda _seq: None,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        self.name = notifier.name
        self._notifier = notifier
        self._concurrency = delivery.notifier_concurrency
        self._under_way = Shares(delivery.notifier_concurrency)
        self._reserve = self._concurrency // 4
        self._lane_concurrency = delivery.notifier_lane_concurrency
        self._waiting = Shares(delivery.notifier_queue)
        self._lane_capacity = delivery.notifier_lane_queue
        self._held_lanes = Shares(delivery.notifier_lanes)
        self._hold_ms = int(delivery.notifier_hold_s * 1000)
        self._timeout_s = delivery.notifier_timeout_s
        self._load = load
        self._on_result = on_result
        self._on_gone = on_gone
        self._on_room = on_room
        self._refused = Refused(KEPT * delivery.notifier_queue, delivery.notifier_lanes)
        self._metrics = metrics
        self._clock = clock
        self._lanes: dict[tuple[str, str], Lane] = {}  # by app and name: what each app waits for is its own
        #: lanes with calls to make: those with none under way, and the others. Each stands in one of them at most
        self._first: OrderedDict[Lane, None] = OrderedDict()
        self._more: OrderedDict[Lane, None] = OrderedDict()
        #: app → its lanes that do nothing but rest, the oldest first
        self._resting: dict[str, dict[Lane, None]] = {}
        #: app → its lanes that had a turn while the app had its share of calls under way
        self._parked: dict[str, deque[Lane]] = {}
        #: calls of lanes that have to rest for long, on their way back to their deliveries
        self._returned: deque[tuple[Job, int]] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._is_pumping = False
        self._is_telling = False
        self._is_draining = False
        self._closed = False

    def __len__(self) -> int:
        return self._waiting.taken

    @property
    def lanes(self) -> int:
        """Lanes that are busy or rest."""
        return len(self._lanes)

    def lane(self, app: App, registration: Registration) -> str:
        return self._notifier.lane(app, registration)

    # --- calls come

    def offer(self, job: Job, app: str, lane_name: str) -> NotifierResult | None:
        """Queue a call of an app. None: it waits for its turn. Else the result it has at once: nobody was asked."""
        if self._closed:
            return NotifierResult(ok=False, detail="closed", asked=False)
        lane = self._lanes.get((app, lane_name))
        left_ms = self._rest_left_ms(lane) if lane is not None else 0
        if left_ms > self._hold_ms:
            return NotifierResult(ok=False, retry_after_ms=left_ms, detail="upstream rests", asked=False)
        if not self._waiting.has_room(app):
            return self._refuse("queue", "queue full")
        if lane is not None and len(lane.jobs) >= self._lane_capacity:
            return self._refuse("lane_queue", "queue full")
        if not self._is_telling and (app, lane_name) in self._refused:
            return self._refuse("lane_queue", "queue full")
        if lane is None:
            if not self._held_lanes.has_room(app) and not self._drop_resting(app):
                return self._refuse("lanes", "queue full")
            lane = self._lanes[app, lane_name] = Lane(lane_name, app)
            self._held_lanes.take(app)
        lane.jobs.append(job)
        self._waiting.take(app)
        self._enqueue(lane)
        self._show()
        return None

    def keep(self, seq: int, app: str, lane_name: str) -> bool:
        """Of a delivery whose call was refused for want of room: `on_room` when there is some. False: so many are
        remembered that this one is not."""
        if self._closed or not self._refused.put((app, lane_name), seq):
            return False
        self._pump_soon()
        return True

    def _refuse(self, bound: str, detail: str) -> NotifierResult:
        self._metrics.count(Metric.NOTIFIER_QUEUE_FULL, label=self.name)
        self._metrics.count(Metric.NOTIFIER_BOUNDS, label=f"{self.name} {bound}")
        return NotifierResult(ok=False, detail=detail, asked=False)

    def _drop_resting(self, app: str) -> bool:
        """Forget a lane that does nothing but rest."""
        lane = self._find_resting(app)
        if lane is None:
            return False
        self._metrics.count(Metric.NOTIFIER_BOUNDS, label=f"{self.name} resting_lanes")
        self._forget(lane)
        return True

    def _find_resting(self, app: str) -> Lane | None:
        """The app's oldest; of an app that has no lane, anybody's."""
        lanes = self._resting.get(app)
        if lanes is None and not self._held_lanes.of(app):
            lanes = next(iter(self._resting.values()), None)
        return next(iter(lanes)) if lanes else None

    def _rests_no_more(self, lane: Lane) -> None:
        lanes = self._resting.get(lane.app)
        if lanes is not None and lane in lanes:
            del lanes[lane]
            if not lanes:
                del self._resting[lane.app]

    # --- turns

    def _enqueue(self, lane: Lane) -> None:
        """Let the lane have its turn, where it has calls and may make one."""
        if lane.jobs:
            self._rests_no_more(lane)
        if lane.is_parked or not lane.jobs or lane.in_flight >= self._lane_concurrency:
            return
        left_ms = self._rest_left_ms(lane)
        if left_ms:
            if lane.wake is None:
                self._wake_in(lane, left_ms)
            return
        place, other = (self._more, self._first) if lane.in_flight else (self._first, self._more)
        other.pop(lane, None)
        place.setdefault(lane)
        self._pump_soon()

    def _pump_soon(self) -> None:
        if not self._is_pumping and not self._is_draining and not self._closed:
            self._is_pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Give back what has to go back, then start calls, one a lane and turn, at most a slice of them."""
        self._is_pumping = False
        if self._is_draining or self._closed:
            return
        for _ in range(min(SLICE, len(self._returned))):
            job, left_ms = self._returned.popleft()
            self._give(job, NotifierResult(ok=False, retry_after_ms=left_ms, detail="upstream rests", asked=False))
        is_done = False
        for _ in range(SLICE):
            lane = self._next_lane()
            if lane is None:
                is_done = True
                break
            if lane.jobs and not self._rest_left_ms(lane):
                if not self._under_way.has_room(lane.app):
                    lane.is_parked = True
                    self._parked.setdefault(lane.app, deque()).append(lane)
                    continue
                self._start(lane)
            self._enqueue(lane)
            self._forget_idle(lane)
        told = 0
        for _ in range(min(_LOOKS, len(self._refused))):
            if told < SLICE and self._refused:
                told += self._tell(self._refused.turn(), SLICE - told)
        is_idle = not self._under_way.taken and not self._waiting.taken
        if self._returned or not is_done or (self._refused and is_idle):
            self._pump_soon()
        self._show()

    def _tell(self, key: Key, most: int) -> int:
        """Where the lane is half empty, those it refused come again, as many as it has room for; how many that were.
        None comes to be refused again: that would go round and round."""
        lane = self._lanes.get(key)
        if lane is None and not self._held_lanes.has_room(key[0]) and self._find_resting(key[0]) is None:
            return 0
        waiting = len(lane.jobs) if lane is not None else 0
        if waiting > self._lane_capacity // 2 or not self._waiting.has_room(key[0]):
            return 0
        seqs = self._refused.take(key, min(most, self._lane_capacity - waiting))
        self._is_telling = True
        for seq in seqs:
            try:
                self._on_room(seq)
            except Exception:
                _log.exception("notify_queue_failed", notifier=self.name)
        self._is_telling = False
        return len(seqs)

    def _next_lane(self) -> Lane | None:
        left = self._concurrency - self._under_way.taken
        if self._first and left:
            return self._first.popitem(last=False)[0]
        if self._more and left > self._reserve:
            return self._more.popitem(last=False)[0]
        lane = next((lane for lane in self._more if lane.in_flight < left), None)
        if lane is not None:
            del self._more[lane]
        return lane

    def _unpark(self) -> None:
        """A call has ended: one lane of each app that has room again stands in line again."""
        for app, lanes in list(self._parked.items()):
            while lanes and self._under_way.has_room(app):
                lane = lanes.popleft()
                lane.is_parked = False
                self._enqueue(lane)
                if lane in self._first or lane in self._more:
                    break
                self._forget_idle(lane)  # given back, or it rests: the next one
            if not lanes:
                del self._parked[app]

    def _start(self, lane: Lane) -> None:
        job = lane.jobs.popleft()
        self._waiting.give(lane.app)
        try:
            call = self._load(job)
        except Exception:
            # Ours, not the notifier's: the delivery is still pending, its expiry or the next BACK takes it up.
            _log.exception("notify_queue_failed", notifier=self.name)
            return
        if call is None:
            return
        lane.in_flight += 1
        self._under_way.take(lane.app)
        task = asyncio.get_running_loop().create_task(self._make(lane, job, call), name=f"notifier-{self.name}")
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _make(self, lane: Lane, job: Job, call: Call) -> None:
        try:
            result = await self._call(call)
        finally:
            lane.in_flight -= 1
            self._under_way.give(lane.app)
            self._unpark()
        if not result.ok and not result.dead and result.retry_after_ms:
            self._rest(lane, result.retry_after_ms)
        left_ms = self._rest_left_ms(lane)
        is_again = not result.asked and left_ms > 0
        if result.gone:
            stands = self._on_gone(self.name, call[1], result)
            is_again = stands is None  # to the address that took the place of this one
            result = stands or NotifierResult(ok=False, retry_after_ms=left_ms, detail="upstream rests", asked=False)
        # Where another call has learned meanwhile that the rest is a long one, this one goes back like the others.
        if is_again and left_ms <= self._hold_ms:
            lane.jobs.appendleft(job)
            self._waiting.take(lane.app)
        else:
            self._give(job, result)
        self._enqueue(lane)
        self._forget_idle(lane)
        # A place is free, for whichever lane is next.
        self._pump_soon()

    async def _call(self, call: Call) -> NotifierResult:
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await self._notifier.notify(*call)
        except TimeoutError:
            result = NotifierResult(ok=False, detail="timeout", is_lanes=True)
        except Exception as error:
            # The text of a foreign exception may hold an address; its type can not.
            _log.warning("notifier_failed", notifier=self.name, error=type(error).__name__)
            result = NotifierResult(ok=False, detail=type(error).__name__)
        if result.asked:
            failed = Metric.NOTIFIER_DEAD if result.dead else Metric.NOTIFIER_RETRY
            self._metrics.count(Metric.NOTIFIER_OK if result.ok else failed, label=self.name)
        return result

    def _give(self, job: Job, result: NotifierResult) -> None:
        try:
            self._on_result(job, result)
        except Exception:
            _log.exception("notify_queue_failed", notifier=self.name)

    # --- rests

    def _rest_left_ms(self, lane: Lane) -> int:
        return max(0, lane.rests_until_ms - self._clock()) if lane.rests_until_ms else 0

    def _rest(self, lane: Lane, rest_ms: int) -> None:
        rest_ms = max(rest_ms, MIN_REST_MS)
        if not self._rest_left_ms(lane):
            self._metrics.count(Metric.NOTIFIER_RESTS, label=self.name)
        lane.rests_until_ms = max(lane.rests_until_ms, self._clock() + rest_ms)
        left_ms = self._rest_left_ms(lane)
        if left_ms > self._hold_ms:
            self._returned.extend((job, left_ms) for job in lane.jobs)
            self._waiting.give(lane.app, len(lane.jobs))
            lane.jobs.clear()
        self._wake_in(lane, left_ms)

    def _wake_in(self, lane: Lane, ms: int) -> None:
        if lane.wake is not None:
            lane.wake.cancel()
        lane.wake = asyncio.get_running_loop().call_later(ms / 1000, self._on_wake, lane)

    def _on_wake(self, lane: Lane) -> None:
        lane.wake = None
        if self._closed:
            return
        if not lane.jobs:
            lane.rests_until_ms = 0
            self._forget_idle(lane)
            self._show()
            if self._refused:
                self._pump_soon()
        else:
            self._enqueue(lane)

    def _forget_idle(self, lane: Lane) -> None:
        if lane.jobs or lane.in_flight:
            return
        if not self._rest_left_ms(lane):
            self._forget(lane)
        elif self._lanes.get((lane.app, lane.name)) is lane:
            self._resting.setdefault(lane.app, {}).setdefault(lane)

    def _forget(self, lane: Lane) -> None:
        if lane.wake is not None:
            lane.wake.cancel()
            lane.wake = None
        self._first.pop(lane, None)
        self._more.pop(lane, None)
        self._rests_no_more(lane)
        if self._lanes.get((lane.app, lane.name)) is lane:
            del self._lanes[lane.app, lane.name]
            self._held_lanes.give(lane.app)
            if self._refused:
                self._pump_soon()  # there is room for another

    def _show(self) -> None:
        self._metrics.set(Metric.NOTIFIER_QUEUED, self._waiting.taken, label=self.name)
        self._metrics.set(Metric.NOTIFIER_LANES, len(self._lanes), label=self.name)

    async def drain(self, seconds: float) -> None:
        """Begin no more calls, and give those under way so long to end: one that is cut off is made again after the
        next start."""
        self._is_draining = True
        if self._calls:
            await asyncio.wait(set(self._calls), timeout=seconds)

    async def close(self) -> None:
        """Drop what waits (it is pending in the journal), end the calls under way. The notifier is left to others: it
        is one for all partitions of a node."""
        self._closed = True
        for lane in list(self._lanes.values()):
            self._waiting.give(lane.app, len(lane.jobs))
            lane.jobs.clear()
            self._forget(lane)
        self._parked.clear()
        self._returned.clear()
        self._refused.clear()
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
