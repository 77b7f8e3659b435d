from typing import Self, final

from typing_extensions import Buffer

@final
class Pending:
    """Deliveries not settled yet: sequence → row; registration → its sequences, ascending. One timer a row.
    Control thread only. Times are Unix milliseconds in, 100 ms ticks inside, rounded up: nothing fires early.
    Registrations have 31 bits, state and hop 8, expires_s and collapse 32, sequences 64 (else ValueError or
    OverflowError)."""
    def __new__(cls, now_ms: int) -> Self: ...
    def __len__(self) -> int: ...
    def add(
        self,
        seq: int,
        registration: int,
        notification: int,
        expires_s: int,
        collapse: int = 0,
        state: int = 0,
        hop: int = 0,
    ) -> None:
        """ValueError where the sequence is there already. Arms the expiry."""
    def load(self, rows: list[tuple[bytes, bytes]], start: int) -> int:
        """Journal rows (key, value) from this place on, as long as each is a notification that is its own only
        delivery; returns the place of the first that is none."""
    def add_many(
        self, first_seq: int, registrations: Buffer, notification: int, expires_s: int, collapse: int = 0
    ) -> None:
        """registrations: packed native uint32; sequences first_seq, first_seq+1, … With an error: none."""
    def get(self, seq: int) -> tuple[int, int, int, int, int] | None:
        """(registration, notification, state, hop, expires_s)"""
    def set_state(self, seq: int, state: int, hop: int) -> bool: ...
    def remove(self, seq: int) -> tuple[int, int, int, int, int] | None: ...
    def of(self, registration: int, limit: int = 0, below: int = 0) -> list[int]:
        """Ascending; limit 0: all. Without those from `below` on that count in its field (model/cluster.py)."""
    def count_of(self, registration: int) -> int: ...
    def collapsed(self, registration: int, collapse: int) -> list[int]:
        """Sequences of the registration with this non-zero collapse hash (32 bit)."""
    def arm(self, seq: int, at_ms: int) -> bool:
        """The row's timer fires at min(at_ms, its expiry); a time gone by already: at the next call of due. False where
        the sequence is unknown."""
    def due(self, now_ms: int, limit: int) -> list[int]:
        """Rows whose timer fired, at most limit (the rest stay due). A row that fired before its expiry gets its timer
        re-armed at the expiry, so that it can not be forgotten; one at its expiry is reported once more each
        second."""
    @property
    def memory_bytes(self) -> int: ...
