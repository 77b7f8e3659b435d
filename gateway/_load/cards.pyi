from typing import final

@final
class Cards:
    """The card's side of as many CAT_TP links as there are identifications (16 bytes each, packed): `run` belongs to a
    thread of its own, the rest to one other thread. `host`: an IPv4 address as a number; `first`: the first number of
    the first card, that of the next is one higher; `loss`: share of datagrams dropped, each way, drawn from `seed`."""
    def __new__(
        cls,
        host: int,
        port: int,
        identifications: bytes,
        *,
        cattp_port: int = 9000,
        sockets: int = 8,
        rto_ms: int = 1000,
        loss: float = 0.0,
        seed: int = 1,
        first: int = 0,
    ) -> Cards: ...
    def run(self) -> None:
        """Until `stop`, without the GIL."""
    def stop(self) -> None: ...
    def open(self, count: int, at_once: int) -> None:
        """The first `count` cards connect, at most so many at a time."""
    def ping(self, count: int, at_once: int, size: int) -> None:
        """The first `count` cards, in turn, send an SDU of so many bytes (0: a NUL) and wait for its acknowledgement;
        so many wait at a time. `count` 0 ends it."""
    @property
    def is_calm(self) -> bool:
        """All that were to connect did, or gave up, and nothing is on its way."""
    def reset(self) -> None:
        """The latencies begin anew."""
    def answer_ms(self) -> dict[str, float]:
        """From a PDU to its acknowledgement, of those that were not sent again."""
    def reasons(self) -> dict[int, int]:
        """RSTs by their reason; 7: any other."""
    def counts(self) -> dict[str, int]: ...
