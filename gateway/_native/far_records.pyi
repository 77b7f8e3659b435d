from collections.abc import Callable
from typing import final

@final
class FarSink:
    """Notifications of batches for links of other nodes, in the order in which they were accepted. Control thread
    only. `news`: ([(node, packed records)], packed native u64 sequences, u32 registrations, ms to ack); what is more
    than some 100 kB for one node comes in parts."""
    def __init__(self, news: Callable[[list[tuple[int, bytes]], bytes, bytes, int], None]) -> None: ...
    def set_local(self, number: int, local: int) -> None:
        """The registration's number at the node it is bound at."""
    def local(self, number: int) -> int: ...
    def flush(self, ack_ms: int) -> None:
        """Call `news` where something was collected."""

@final
class HomeTable:
    """Local number → partition and number there; acks of them by partition. Control thread only."""

    news: Callable[[list[tuple[int, bytes]]], None]
    count: int
    def __len__(self) -> int: ...
    def grow(self) -> int:
        """One more local number; returns it."""
    def set(self, local: int, partition: int, number: int) -> None:
        """IndexError for a number that there is not, here and below."""
    def partition(self, local: int) -> int: ...
    def number(self, local: int) -> int: ...
    def of_partition(self, partition: int, first: int, end: int) -> list[int]:
        """Local numbers of it from `first` on, below `end`."""
