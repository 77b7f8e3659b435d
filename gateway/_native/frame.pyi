from typing import final

@final
class FrameScanner:
    """Cuts a byte stream into frames as a reactor does; for tests and benchmarks."""
    def __init__(self, max_body: int = 65536) -> None: ...
    @property
    def max_body(self) -> int: ...
    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Complete frames as (type, body). ValueError: "malformed" or "too large"."""

def parse_ids(body: bytes) -> list[int]:
    """Ids of an ACK or SHOWN body; ValueError where it is malformed."""
