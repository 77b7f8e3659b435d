"""Histories: the steps of pending deliveries and the outcomes of settled ones; must never hold content, an address or
a secret.

A step is written behind: it stays in RAM for about a second, and only when its delivery is still pending then does it
become a row. So the common delivery, acked at once, costs no row here; a crash loses the last second of lines, never a
delivery. An outcome is written with the commit that settles it and can be read before that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.metrics import Metric, Metrics
from gateway.model.outcome import Outcome, Step
from gateway.store.commit import Committer
from gateway.store.environment import Environment
from gateway.store.records import (
    DELETE,
    PUT,
    U64_PAIR,
    Db,
    Row,
    build_outcome,
    build_steps,
    metadata_of_outcome,
    pack_u64,
    parse_outcome,
    parse_steps,
)

if TYPE_CHECKING:
    from gateway.store.batches import Batches

#: lines of one delivery; past it a line is left out and counted (the closing ones are always kept, and who took the
#: message: by that line a notifier is known not to be asked again)
MAX_STEPS = 64
TOOK = "notified"
#: rows of steps one delivery may have, and deliveries written behind at one time
_MAX_STEP_ROWS = 32
_FLUSH_DELIVERIES = 20_000


class History:
    """Control thread only. `hop_of` answers how many notifiers a pending delivery used up, None where it is settled."""

    def __init__(
        self,
        environment: Environment,
        committer: Committer,
        metrics: Metrics,
        clock: Callable[[], int],
        hop_of: Callable[[int], int | None],
    ) -> None:
        self._environment = environment
        self._committer = committer
        self._metrics = metrics
        self._clock = clock
        self._hop_of = hop_of
        self._steps: dict[int, list[Step]] = {}  # not written
        self._flying: dict[int, tuple[bytes, list[Step]]] = {}  # in a commit: key and lines
        self._fresh: dict[int, tuple[Outcome, bytes]] = {}  # outcomes not durable yet, with their packed metadata
        #: some delivery has rows of steps: only then is it worth a look
        self.has_rows = False
        self._batches: Batches | None = None

    def attach(self, batches: Batches) -> None:
        """They keep the common histories of what came in batches."""
        self._batches = batches

    # --- steps of pending deliveries ------------------------------------------------------------------------

    def step(self, seq: int, step: Step) -> None:
        steps = self._steps.setdefault(seq, [])
        if len(steps) >= MAX_STEPS and step.what != TOOK:
            self._metrics.count(Metric.STORE_HISTORY_DROPPED)
            return
        steps.append(step)

    def steps_of(self, seq: int) -> list[Step]:
        steps = [step for _, part in self._rows_of(seq) for step in part]
        if seq in self._flying:
            steps += self._flying[seq][1]
        return steps + self._steps.get(seq, [])

    def take(self, seq: int) -> tuple[list[Step], list[Row]]:
        """The lines of a delivery that is being settled, and the rows that remove them."""
        steps: list[Step] = []
        keys: list[bytes] = []
        for key, part in self._rows_of(seq):
            steps += part
            keys.append(key)
        flying = self._flying.pop(seq, None)
        if flying is not None:
            steps += flying[1]
            keys.append(flying[0])
        steps += self._steps.pop(seq, ())
        return steps, [(DELETE, Db.STEPS, key, b"") for key in keys]

    def _rows_of(self, seq: int) -> list[tuple[bytes, list[Step]]]:
        if not self.has_rows:
            return []
        prefix = pack_u64(seq)
        flying = self._flying.get(seq)
        rows: list[tuple[bytes, list[Step]]] = []
        for key, raw in self._environment.scan(Db.STEPS, prefix):
            if key[:8] != prefix:
                break
            if flying is None or key != flying[0]:
                rows.append((key, parse_steps(raw)[1]))
        return rows

    def write_behind(self) -> None:
        """Called about once a second: lines of deliveries that are still pending become rows."""
        if not self._steps or not self._committer.writable:
            return
        now_ms = self._clock()
        rows: list[Row] = []
        flown: list[int] = []
        for seq in list(self._steps)[:_FLUSH_DELIVERIES]:
            if seq in self._flying:
                continue
            steps = self._steps.pop(seq)
            hop = self._hop_of(seq)
            if hop is None:
                continue
            if self.has_rows and len(self._rows_of(seq)) >= _MAX_STEP_ROWS:
                took = [step for step in steps if step.what == TOOK]
                self._metrics.count(Metric.STORE_HISTORY_DROPPED, len(steps) - len(took))
                if not took:
                    continue
                steps = took
            key = U64_PAIR.pack(seq, now_ms)
            self._flying[seq] = (key, steps)
            flown.append(seq)
            rows.append((PUT, Db.STEPS, key, build_steps(hop, steps)))
        if not rows:
            return
        self.has_rows = True
        lines = {seq: self._flying[seq] for seq in flown}

        def landed() -> None:
            for seq, line in lines.items():
                if self._flying.get(seq) is line:
                    del self._flying[seq]

        def redo() -> None:
            for seq, line in lines.items():
                if self._flying.get(seq) is line:
                    del self._flying[seq]
                    steps = line[1] + self._steps.get(seq, [])
                    self._steps[seq] = steps[:MAX_STEPS] + [step for step in steps[MAX_STEPS:] if step.what == TOOK]

        self._committer.refresh(rows, redo=redo, done=landed)

    def forget(self, seq: int) -> None:
        """The delivery was undone."""
        self._steps.pop(seq, None)
        self._flying.pop(seq, None)

    # --- outcomes of settled deliveries ---------------------------------------------------------------------

    def settle(self, outcome: Outcome, metadata: bytes) -> Row:
        """`metadata` of its notification where this is the only delivery, else empty. Call `landed` when durable."""
        self._fresh[outcome.seq] = (outcome, metadata)
        return (PUT, Db.OUTCOMES, pack_u64(outcome.seq), build_outcome(outcome, metadata))

    def landed(self, outcome: Outcome) -> None:
        entry = self._fresh.get(outcome.seq)
        if entry is not None and entry[0] is outcome:
            del self._fresh[outcome.seq]

    def outcome(self, seq: int) -> Outcome | None:
        entry = self._fresh.get(seq)
        if entry is not None:
            return entry[0]
        raw = self._environment.get(Db.OUTCOMES, pack_u64(seq))
        if raw is not None:
            return parse_outcome(raw)
        return None if self._batches is None else self._batches.outcome(seq)

    def entry(self, seq: int) -> tuple[Outcome | None, bytes]:
        """Both at once; of what came in a batch the outcome alone."""
        entry = self._fresh.get(seq)
        if entry is not None:
            return entry
        raw = self._environment.get(Db.OUTCOMES, pack_u64(seq))
        if raw is not None:
            return parse_outcome(raw), metadata_of_outcome(raw)
        return None if self._batches is None else self._batches.outcome(seq), b""

    def metadata(self, seq: int) -> bytes:
        """Packed metadata of a settled notification with a single delivery; empty where there is none."""
        entry = self._fresh.get(seq)
        if entry is not None:
            return entry[1]
        raw = self._environment.get(Db.OUTCOMES, pack_u64(seq))
        if raw is not None:
            return metadata_of_outcome(raw)
        return b"" if self._batches is None else self._batches.metadata(seq)

    def amend(self, seq: int, step: Step, registration: int) -> bool:
        """Add a line to an outcome; False where there is none of this registration, or nothing to add."""
        outcome = self.outcome(seq)
        if outcome is None:
            return False
        metadata = self.metadata(seq)
        if outcome.registration != registration:
            return False
        if any(done.what == step.what for done in outcome.steps):
            return False  # SHOWN is repeated where its confirmation may have been lost: nothing new, nothing to write
        if len(outcome.steps) >= MAX_STEPS * 2:
            self._metrics.count(Metric.STORE_HISTORY_DROPPED)
            return False
        amended = Outcome(
            outcome.seq,
            outcome.notification,
            outcome.registration,
            outcome.app,
            outcome.state,
            outcome.at_ms,
            [*outcome.steps, step],
        )
        self._committer.keep([self.settle(amended, metadata)], done=lambda: self.landed(amended))
        return True
