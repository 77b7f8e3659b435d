"""Counts of broadcasts and multi-target pushes, in RAM and written behind; must never be read as more than counts
(they follow by one commit).
"""

from __future__ import annotations

from gateway.store.commit import Committer
from gateway.store.environment import Environment
from gateway.store.records import PUT, Db, Row, build_figures, pack_u64, parse_figures, unpack_u64

#: rows written at one cut; the rest follow with the next
_DRAIN_ROWS = 4_096
#: figures of one push; past it versions not seen yet are counted together, as `*`
MAX_NAMES = 500


class Figures:
    """Control thread only."""

    def __init__(self, environment: Environment, committer: Committer) -> None:
        self._environment = environment
        self._committer = committer
        self._figures: dict[int, dict[str, int]] = {}
        self._live: set[int] = set()
        self._dirty: set[int] = set()
        committer.add_source(self._drain)

    @property
    def dirty(self) -> bool:
        return bool(self._dirty)

    def open(self, seq: int, figures: dict[str, int] | None = None) -> None:
        """Hold a row in RAM until `close`."""
        self._live.add(seq)
        self._figures[seq] = figures if figures is not None else {}

    def close(self, seq: int) -> None:
        """Settled: it is written once more and leaves RAM."""
        self._live.discard(seq)
        self._dirty.add(seq)

    def drop(self, seq: int) -> None:
        """Undone."""
        self._live.discard(seq)
        self._dirty.discard(seq)
        self._figures.pop(seq, None)

    def count(self, seq: int, what: str, n: int) -> None:
        """Unknown sequences are ignored: their history is past retention."""
        figures = self._figures.get(seq)
        if figures is None:
            stored = self._stored(seq)
            if stored is None:
                return
            figures = self._figures[seq] = stored
        figures[what] = figures.get(what, 0) + n
        self._dirty.add(seq)

    def count_version(self, seq: int, what: str, version: str, n: int) -> None:
        """Under `what@version`; past MAX_NAMES names under `what@*`."""
        name = f"{what}@{version}"
        figures = self._figures.get(seq)
        if figures is not None and name not in figures and len(figures) >= MAX_NAMES:
            name = f"{what}@*"
        self.count(seq, name, n)

    def uncount(self, seq: int, what: str) -> None:
        """Begin again from nothing, by version too."""
        figures = self._figures.get(seq, {})
        for name in [name for name in figures if name == what or name.startswith(f"{what}@")]:
            del figures[name]
            self._dirty.add(seq)

    def of(self, seq: int) -> dict[str, int]:
        figures = self._figures.get(seq)
        return dict(figures) if figures is not None else (self._stored(seq) or {})

    def highest(self) -> int:
        """The highest sequence that anything was ever counted of."""
        key = self._environment.last_key(Db.FIGURES)
        return max(0 if key is None else unpack_u64(key), max(self._figures, default=0))

    def _stored(self, seq: int) -> dict[str, int] | None:
        raw = self._environment.get(Db.FIGURES, pack_u64(seq))
        return None if raw is None else parse_figures(raw)

    def _drain(self) -> None:
        if not self._dirty:
            return
        seqs = sorted(self._dirty)[:_DRAIN_ROWS]
        self._dirty.difference_update(seqs)
        rows: list[Row] = [(PUT, Db.FIGURES, pack_u64(seq), build_figures(self._figures[seq])) for seq in seqs]

        def landed() -> None:
            for seq in seqs:
                if seq not in self._live and seq not in self._dirty:
                    self._figures.pop(seq, None)

        def redo() -> None:
            self._dirty.update(seq for seq in seqs if seq in self._figures)

        self._committer.refresh(rows, redo=redo, done=landed)
