from typing import Any

from typing_extensions import Buffer

class NatsReader(Buffer):
    """Of one connection. As a buffer it is the room for the next bytes, which `received` then counts.

    `most`: bytes that a message may have. ValueError of any method: what came is not of the protocol, and nothing
    after it can be read.
    """

    #: of the events that were not taken yet, about
    waiting_bytes: int
    def __init__(self, most: int) -> None: ...
    @property
    def is_full(self) -> bool:
        """There is no room until a line is taken, or messages begin."""
    def received(self, count: int) -> None: ...
    def take_line(self) -> bytes | None:
        """A line with its end, where it is there; only before `begin`."""
    def begin(self) -> None:
        """From here on everything is an event."""
    def take(self) -> list[Any]:
        """What came whole, in order: (b"MSG", subscription, subject, reply, payload, header or None), (b"INFO", JSON),
        (b"-ERR", its words in quotes), (b"PING",), (b"PONG",), (b"+OK",)."""
    def __buffer__(self, flags: int) -> memoryview: ...
