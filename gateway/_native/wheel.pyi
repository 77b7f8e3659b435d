from typing import Self, final

@final
class Wheel:
    """Hierarchical timing wheel (4 levels of 256 slots), ticks are 32-bit and may wrap; for tests and benchmarks."""
    def __new__(cls, now: int = 0) -> Self: ...
    def __len__(self) -> int: ...
    def arm(self, key: int, at: int) -> None:
        """(Re-)arm key to fire at this tick; a tick at or before now fires at the next advance."""
    def cancel(self, key: int) -> bool: ...
    def advance(self, now: int) -> list[int]:
        """Keys that fire up to and including this tick, in tick order."""
    def next_in(self) -> int | None:
        """Ticks one may sleep without missing an expiry (may be shorter than needed); None when nothing is armed."""
