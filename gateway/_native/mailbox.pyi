from typing import final

@final
class Mailbox:
    """Bounded single-producer single-consumer queue of byte records; for tests and benchmarks."""
    def __init__(self, capacity: int, event_fd: int = -1) -> None:
        """capacity: bytes, a power of two, at least 64."""
    def push(self, data: bytes) -> bool:
        """False: full, nothing was written. Not visible before publish."""
    def publish(self) -> None: ...
    def drain(self, limit: int = 1024) -> list[bytes]: ...
    def sleep(self) -> bool:
        """True: stay awake, something is there."""
    @property
    def room(self) -> int:
        """Bytes free."""

def pump(source: Mailbox, target: Mailbox, count: int) -> int:
    """Move `count` records without the GIL, waiting actively; returns the sum of their first 8 bytes."""
