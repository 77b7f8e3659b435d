from typing import Final, final

#: numbers of the cipher suites
SUITES: Final[tuple[int, ...]]

@final
class Records:
    """One direction of one connection; for tests and benchmarks."""
    def __init__(self, suite: int, secret: bytes, sequence: int = 0) -> None: ...
    def seal(self, kind: int, content: bytes) -> bytes:
        """A record of this content type; the content has at most RECORD_BYTES."""
    def open(self, wire: bytes) -> tuple[int, bytes]:
        """(content type, content) of one whole record; ValueError has the number of the alert."""
    def update(self) -> None:
        """The keys that follow."""
    @property
    def key(self) -> bytes: ...
    @property
    def iv(self) -> bytes: ...
