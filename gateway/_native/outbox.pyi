from typing import final

from typing_extensions import Buffer

@final
class Outbox:
    """Frames waiting for one socket; for tests and benchmarks."""
    def push(self, frame: Buffer) -> None: ...
    def flush(self, fd: int) -> int:
        """Bytes written; 0 when the socket takes no more; OSError when it is broken."""
    def clear(self) -> None: ...
    @property
    def pending_bytes(self) -> int: ...
