from typing import Self, final

from typing_extensions import Buffer

from gateway._native.pending import Pending

#: records in one part; deliveries of the largest batch
PART: int
BATCH_MOST: int

@final
class Batches:
    """Live batches and what became of their deliveries, not yet durable. A batch has a slot. Control thread only."""
    def __new__(cls, pending: Pending) -> Self: ...
    def __len__(self) -> int: ...
    def ack(self, seq: int, registration: int, sent_ms: int, acked_ms: int, shown: bool = False) -> bool:
        """What a reactor's drain does with an ack; False: the control plane has to look at it."""
    def note(self, seq: int, state: int, at_ms: int, undone: bool = False) -> bool:
        """A delivery that is pending ends with a history of its own, or was never accepted: before Pending.remove.
        False: it came in no batch."""
    def mark_odd(self, seq: int) -> None:
        """Its ack is not to be settled here."""
    def settled_of(self, slot: int, seq: int) -> tuple[int, int, int, int] | None:
        """(Unix ms of its end, ms from send to ack, state, flags); None: pending, or durable already. KeyError: no such
        slot."""
    def take_acked(self) -> int:
        """Acks settled here since the last call."""
    @property
    def is_changed(self) -> bool:
        """Something waits for `take_changed` or `take_feeds`."""
    def take_changed(self) -> list[tuple[int, int, bool, int, bytes]]:
        """(slot, first sequence, is it over, parts with news, records) of each batch with news; no news again until
        there is more. Bit i of the parts stands for the records from i * PART on."""
    def take_feeds(self) -> list[tuple[int, bytes]]:
        """(app number, packed big-endian sequences acked here, in order)"""
    def forget_records(self, slot: int) -> None:
        """They are durable; kept where there is more news meanwhile."""
    def close(self, slot: int) -> None:
        """It is over and durable. ValueError where it is not over."""
    def restore(self, first: int, row: Buffer, settled: Buffer) -> int:
        """Deliveries of a journal row that are not settled (`settled` empty: none is) become pending; returns the slot,
        -1 where all are settled. ValueError for a row that is cut or of another kind."""
    @property
    def memory_bytes(self) -> int: ...

def merge(base: Buffer, over: Buffer) -> bytes:
    """Records of the same batch: those of `over` where it has them, else those of `base`."""
