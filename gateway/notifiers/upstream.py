"""What every notifier keeps between itself and an upstream, lane by lane: circuit, rate, Retry-After and the tables'
rows; must never let one lane's trouble count against another.

`Upstream.ask` is the one way out: it refuses while the lane has to rest, bounds the call in time, turns trouble on the
way into a row, counts the outcome, and tells the circuit.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import NamedTuple

import httpx
import structlog

from gateway.config.sections import Delivery
from gateway.metrics import Metric, Metrics
from gateway.model.ports import NotifierResult

_log = structlog.get_logger(__name__)

#: a lane that is being probed says this to the others
PROBE_MS = 250
#: failures of a lane that nobody has used for this time are nothing to remember: its settings may be others by now
FORGET_MS = 3_600_000
#: what a longer Retry-After counts as; a lane rests for less, `notifier_pause_max_s`
MAX_RETRY_AFTER_S = 999_999_999


def unix_ms() -> int:
    """A notifier's clock, where it is given no other."""
    return time.time_ns() // 1_000_000


class Verdict(StrEnum):
    """What an answer means for the delivery."""

    OK = "ok"
    DEAD = "dead"  # never for this registration, or never this message
    GONE = "gone"  # dead, and the upstream says the address itself is
    RETRY = "retry"


class Fault(StrEnum):
    """Whose fault an answer is: only some speak against the whole lane."""

    NONE = "none"
    ADDRESS = "address"  # this registration's
    ABSENT = "absent"  # the terminal's, which is not there now: no try is used up, and its return is waited for
    MESSAGE = "message"  # this notification's
    CREDENTIAL = "credential"  # the app's settings: every call will fail, so it counts against the lane
    THROTTLE = "throttle"  # the lane asks too often: it rests as long as told
    EITHER = "address or throttle"  # one of the two, and the upstream does not say which
    UPSTREAM = "upstream"  # counts against the lane


class Row(NamedTuple):
    """One line of an upstream's table."""

    status: int  # HTTP status it comes with; 0: no answer at all
    reason: str  # the upstream's own word for it; the metric's label too
    verdict: Verdict
    fault: Fault
    says: str  # what it means and what to do
    pause_s: int = 0  # the lane (of EITHER: the delivery at first) rests so long where the answer has no Retry-After


class Answer(NamedTuple):
    """A row, with what the answer said beside it."""

    row: Row
    retry_after_ms: int = 0  # 0: it did not say
    gone_at_ms: int = 0
    detail: str = ""  # for the history; default: status and reason
    asked: bool = True  # False: nothing was sent, so that this is no try, nor a page of the subscriber's
    is_call: bool = True  # False: it ended before the upstream was asked, and says nothing of the lane


#: what a history says where the reason would tell where somebody is, or what another app did; the metric has the row
LATER = "later"
_RETRY, _UPSTREAM = Verdict.RETRY, Fault.UPSTREAM
TIMEOUT = Row(0, "timeout", _RETRY, _UPSTREAM, "no answer in delivery.notifier_timeout_s")
CONNECTION = Row(0, "connection", _RETRY, _UPSTREAM, "the connection could not be made, or broke before the answer")
TLS = Row(
    0, "tls", _RETRY, _UPSTREAM, "TLS failed: the upstream's certificate is not trusted (set `ca`), or ours is not"
)
GARBAGE = Row(0, "garbage", _RETRY, _UPSTREAM, "the answer is not what the upstream's protocol allows")
INTERNAL = Row(0, "internal", _RETRY, _UPSTREAM, "the notifier itself failed; the gateway's log has the kind of error")
CIRCUIT = Row(
    0, "circuit_open", _RETRY, Fault.NONE, "not asked: the lane failed too often and is left alone for a while"
)
PAUSED = Row(0, "paused", _RETRY, Fault.NONE, "not asked: the upstream said Retry-After")
RATE = Row(0, "rate_limit", _RETRY, Fault.NONE, "not asked: delivery.notifier_rate is reached")
NO_SETTINGS = Row(0, "no_settings", Verdict.DEAD, Fault.CREDENTIAL, "the app has no usable settings for this notifier")
NO_ADDRESS = Row(0, "no_address", Verdict.DEAD, Fault.ADDRESS, "the registration has no usable address for it")
#: rows that any upstream may lead to, for the page
SHARED = (NO_ADDRESS, NO_SETTINGS, CIRCUIT, PAUSED, RATE, TIMEOUT, CONNECTION, TLS, GARBAGE, INTERNAL)


def parse_retry_after(value: str, now_ms: int) -> int:
    """RFC 9110 §10.2.3: seconds or a date → milliseconds from now; 0 where absent or not valid."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        digits = value.lstrip("0") or "0"
        return (int(digits) if len(digits) < 10 else MAX_RETRY_AFTER_S) * 1000
    try:
        return max(0, int(parsedate_to_datetime(value).timestamp() * 1000) - now_ms)
    except (ValueError, TypeError, OverflowError):
        return 0


def agrees(row: Row, status: int) -> bool:
    """Does the reason that an answer gives go with its HTTP status? A 503 that names a reason of 410, from what stands
    before the upstream or from one that is ill, must mark no address."""
    if row.verdict is Verdict.GONE or 429 in (row.status, status):
        return row.status == status
    return row.status // 100 == status // 100


def describe_tls(error: BaseException) -> str:
    """Detail of a failure inside TLS, "" where it was none. It names no host: OpenSSL's own text does."""
    seen: BaseException | None = error
    for _ in range(8):
        if isinstance(seen, ssl.SSLCertVerificationError):
            return "TLS: the upstream's certificate is not trusted"
        if isinstance(seen, ssl.SSLError):
            return "TLS: handshake failed"
        seen = seen.__cause__ or seen.__context__ if seen is not None else None
    return ""


def parse_trouble(error: Exception) -> Answer:
    """What went wrong on the way: a row, never the error's text."""
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return Answer(TIMEOUT, detail="timeout")
    tls = describe_tls(error)
    if tls:
        return Answer(TLS, detail=tls)
    if isinstance(error, httpx.DecodingError):
        return Answer(GARBAGE, detail="garbage")
    if isinstance(error, httpx.HTTPError | httpx.StreamError | OSError):
        return Answer(CONNECTION, detail="connection")
    # httpx lets a few errors of its HTTP/2 layer through; anything else is ours. Its text may hold an address.
    _log.warning("upstream_call_failed", error=type(error).__name__)
    return Answer(INTERNAL, detail=type(error).__name__)


@dataclass(slots=True, frozen=True)
class Limits:
    """Bounds of one notifier's lanes; defaults as in config section `delivery`."""

    timeout_s: float = 10.0
    # failures in a row after which a lane is left alone
    failures: int = 5
    # first and longest time it is
    open_s: float = 1.0
    open_max_s: float = 60.0
    # longest Retry-After that is believed
    pause_max_s: float = 3_600.0
    # calls a second, a second's worth at once; 0 = no limit
    rate: float = 0.0
    # gates remembered; past it one that has nothing to remember goes first, else the oldest
    gates: int = 1_024


def build_limits(delivery: Delivery) -> Limits:
    return Limits(
        timeout_s=delivery.notifier_timeout_s,
        failures=delivery.notifier_failures,
        open_s=delivery.notifier_open_s,
        open_max_s=delivery.notifier_open_max_s,
        pause_max_s=delivery.notifier_pause_max_s,
        rate=delivery.notifier_rate,
        gates=delivery.notifier_lanes,
    )


class Gate:
    """State of one lane. Circuit closed: calls pass; open: none; half open: one passes and decides. Times in ms."""

    __slots__ = (
        "failures",
        "filled_ms",
        "open_until_ms",
        "openings",
        "paused_until_ms",
        "probing",
        "slowed",
        "slowed_ms",
        "tokens",
        "used_ms",
    )

    def __init__(self, tokens: float, now_ms: int) -> None:
        self.failures = 0
        self.openings = 0
        self.open_until_ms = 0
        self.probing = False
        self.paused_until_ms = 0
        self.tokens = tokens
        self.filled_ms = now_ms
        self.used_ms = now_ms
        #: hash of the address that was asked to slow down last, and when
        self.slowed = 0
        self.slowed_ms = 0

    def is_quiet(self, now_ms: int) -> bool:
        """Has it nothing to remember?"""
        if now_ms < self.paused_until_ms:
            return False
        if not self.failures and not self.open_until_ms:
            return True
        return now_ms - max(self.used_ms, self.open_until_ms) >= FORGET_MS


class Gates:
    """A gate for each lane, oldest use first."""

    def __init__(self, limits: Limits, *, on_evicted: Callable[[], None] = lambda: None) -> None:
        self._limits = limits
        self._gates: dict[str, Gate] = {}
        self._on_evicted = on_evicted

    def __len__(self) -> int:
        return len(self._gates)

    def enter(self, lane: str, now_ms: int) -> Answer | None:
        """None: call it, and report the result. Else: why not, and for how long."""
        gate = self._of(lane, now_ms)
        if now_ms < gate.paused_until_ms:
            return Answer(PAUSED, gate.paused_until_ms - now_ms, detail="upstream rests")
        if gate.open_until_ms:
            if now_ms < gate.open_until_ms:
                return Answer(CIRCUIT, gate.open_until_ms - now_ms, detail="circuit open")
            if gate.probing:
                return Answer(CIRCUIT, PROBE_MS, detail="circuit open")
        rate = self._limits.rate
        if rate:
            burst = max(1.0, rate)
            gate.tokens = min(burst, gate.tokens + max(0, now_ms - gate.filled_ms) * rate / 1000)
            gate.filled_ms = now_ms
            if gate.tokens < 1:
                return Answer(RATE, max(1, int((1 - gate.tokens) * 1000 / rate)), detail="rate limit")
            gate.tokens -= 1
        gate.probing = bool(gate.open_until_ms)
        return None

    def pause(self, lane: str, ms: int, now_ms: int) -> int:
        """The lane rests so long, at most as long as is believed; returns how long."""
        ms = min(ms, int(self._limits.pause_max_s * 1000))
        gate = self._of(lane, now_ms)
        gate.paused_until_ms = max(gate.paused_until_ms, now_ms + ms)
        return ms

    def is_second(self, lane: str, address: str, within_ms: int, now_ms: int) -> bool:
        """An address was asked to slow down: was it another one before, so lately that it looks like the lane?"""
        gate, slowed = self._of(lane, now_ms), hash(address)
        was_other = bool(gate.slowed_ms) and gate.slowed != slowed and now_ms - gate.slowed_ms < within_ms
        gate.slowed, gate.slowed_ms = slowed, now_ms
        return was_other

    def withdraw(self, lane: str, now_ms: int) -> None:
        """The call was not made after all: one that was to probe leaves that to the next."""
        self._of(lane, now_ms).probing = False

    def report(self, lane: str, *, ok: bool, now_ms: int) -> int:
        """Result of a call. Where this opened the circuit: for how many ms, else 0."""
        gate = self._of(lane, now_ms)
        was_probe, gate.probing = gate.probing, False
        if ok:
            gate.failures = gate.openings = gate.open_until_ms = 0
            return 0
        gate.failures += 1
        is_open = now_ms < gate.open_until_ms
        if is_open or (gate.failures < self._limits.failures and not was_probe):
            return 0
        pause_s = min(self._limits.open_s * 2 ** min(gate.openings, 16), self._limits.open_max_s)
        gate.openings += 1
        gate.failures = 0
        gate.open_until_ms = now_ms + int(pause_s * 1000)
        return int(pause_s * 1000)

    def _of(self, lane: str, now_ms: int) -> Gate:
        gate = self._gates.pop(lane, None)
        if gate is None:
            if len(self._gates) >= self._limits.gates:
                self._evict(now_ms)
            gate = Gate(max(1.0, self._limits.rate), now_ms)
        gate.used_ms = now_ms
        self._gates[lane] = gate  # newest last
        return gate

    def _evict(self, now_ms: int) -> None:
        quiet = next((lane for lane, gate in self._gates.items() if gate.is_quiet(now_ms)), None)
        if quiet is None:
            quiet = next(iter(self._gates))
            self._on_evicted()  # it had something to remember
        del self._gates[quiet]


class Upstream:
    """The way out of one notifier."""

    def __init__(self, name: str, limits: Limits, metrics: Metrics, clock: Callable[[], int]) -> None:
        self.name = name
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._seen_ms = 0
        self._put_back_ms = 0
        self._gates = Gates(limits, on_evicted=self._count_evicted)

    def _now_ms(self) -> int:
        """The clock's time, which never goes back: a lane must not rest for as long as a clock was wrong."""
        now_ms = self._clock()
        self._put_back_ms += max(0, self._seen_ms - now_ms)
        self._seen_ms = now_ms
        return now_ms + self._put_back_ms

    def _count_evicted(self) -> None:
        self._metrics.count(Metric.NOTIFIER_BOUNDS, label=f"{self.name} gates")

    async def ask(self, lane: str, call: Callable[[], Awaitable[Answer]], address: str = "") -> NotifierResult:
        """Make the call, where the lane does not rest. `address`: whom it is for, where the upstream may limit those
        one by one. Never raises but CancelledError."""
        refusal = self._gates.enter(lane, self._now_ms())
        if refusal is not None:
            self._count(refusal.row)
            return NotifierResult(ok=False, retry_after_ms=refusal.retry_after_ms, detail=refusal.detail, asked=False)
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                answer = await call()
        except Exception as error:
            answer = parse_trouble(error)
        except BaseException:  # cut off from outside: its time was up, or the gateway stops
            self.settle(lane, Answer(TIMEOUT))
            raise
        return self.settle(lane, answer, address)

    def refuse(self, row: Row, detail: str = "") -> NotifierResult:
        """The result of a call that makes no sense: nothing is asked, no lane is blamed."""
        self._count(row)
        return _build_result(Answer(row, detail=detail or row.reason.replace("_", " ")), 0)

    def settle(self, lane: str, answer: Answer, address: str = "") -> NotifierResult:
        """Count it, tell the lane's gate, and say what it means for the delivery."""
        row, now_ms = answer.row, self._now_ms()
        self._count(row)
        rest_ms = hold_ms = 0
        is_lanes = row.fault in (Fault.THROTTLE, Fault.UPSTREAM, Fault.CREDENTIAL)
        if row.fault is Fault.EITHER:
            # With a Retry-After it is kept to by all. Without, one device that is pushed to much must not stop its app.
            is_lanes = bool(answer.retry_after_ms) or self._gates.is_second(lane, address, row.pause_s * 1000, now_ms)
            hold_ms = row.pause_s * 1000
        if row.verdict is Verdict.RETRY and is_lanes:
            rest_ms = answer.retry_after_ms or row.pause_s * 1000
            if rest_ms:
                rest_ms = self._gates.pause(lane, rest_ms, now_ms)
        elif row.verdict is Verdict.RETRY and row.fault in (Fault.ADDRESS, Fault.MESSAGE):
            hold_ms = min(answer.retry_after_ms, int(self._limits.pause_max_s * 1000))
        # An answer that refuses this registration is an answer all the same; so is a throttle that says how long.
        failed = row.fault in (Fault.UPSTREAM, Fault.CREDENTIAL) or (row.fault is Fault.THROTTLE and not rest_ms)
        opened_ms = 0
        if answer.is_call and (answer.asked or failed):
            opened_ms = self._gates.report(lane, ok=not failed, now_ms=now_ms)
        else:
            self._gates.withdraw(lane, now_ms)
        if opened_ms:
            self._metrics.count(Metric.CIRCUITS_OPENED, label=self.name)
        return _build_result(answer, max(rest_ms, opened_ms), hold_ms)

    def count_token(self) -> None:
        """One more credential was made or fetched for this upstream."""
        self._metrics.count(Metric.NOTIFIER_TOKENS, label=self.name)

    def _count(self, row: Row) -> None:
        self._metrics.count(Metric.NOTIFIER_OUTCOMES, label=f"{self.name} {row.reason}")


def _build_result(answer: Answer, rest_ms: int, hold_ms: int = 0) -> NotifierResult:
    row = answer.row
    is_absent = row.fault is Fault.ABSENT
    return NotifierResult(
        ok=row.verdict is Verdict.OK,
        dead=row.verdict in (Verdict.DEAD, Verdict.GONE),
        retry_after_ms=rest_ms if row.verdict is Verdict.RETRY else 0,
        detail=LATER if is_absent else answer.detail or f"{row.status or ''} {row.reason}".strip(),
        gone=row.verdict is Verdict.GONE,
        gone_at_ms=answer.gone_at_ms if row.verdict is Verdict.GONE else 0,
        asked=answer.asked and not is_absent,
        is_lanes=row.fault in (Fault.UPSTREAM, Fault.CREDENTIAL, Fault.THROTTLE),
        hold_ms=hold_ms,
    )
