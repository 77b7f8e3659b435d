from typing import Any, Self, final

DEVICE_BYTES: int

@final
class Summary:
    """Latencies of several threads together."""
    def __new__(cls) -> Self: ...
    def as_ms(self) -> dict[str, float]: ...

@final
class Fleet:
    """The devices of one thread: `run` belongs to it, everything else to the control thread. `nodes`: gateways, an IPv4
    address as a number and a port each, which devices take in turn; every `step`-th device from `index` on is here."""

    index: int
    def __new__(
        cls,
        index: int,
        step: int,
        nodes: list[tuple[int, int]],
        *,
        app: bytes,
        versions: int,
        heartbeat_ms: int,
        first_source: int,
        devices_a_source: int,
        mqtt: bool,
        ack_share: float,
        ack_late_ms: int,
    ) -> Self: ...
    def run(self) -> None:
        """Until `stop`, without the GIL, in a descriptor table of its own."""
    def stop(self) -> None: ...
    def connect(self, count: int, rate: float, at_once: int, register: bool) -> None:
        """So many more devices."""
    def drop(self, count: int, hard: bool) -> None:
        """So many go away; `hard`: with a reset."""
    def reconnect(self, rate: float, at_once: int) -> None:
        """All that are away or lost come back."""
    def reset(self) -> None:
        """Histograms begin anew."""
    @property
    def is_calm(self) -> bool:
        """Nothing asked for is left to do."""
    def counts(self) -> dict[str, Any]: ...
    @property
    def last_notified_ns(self) -> int: ...
    @property
    def last_errno(self) -> int: ...
    def reasons(self) -> dict[int, int]:
        """Ends by the number of their ERROR or GOAWAY; 0: without a word; 63: any other."""
    def merge_into(self, kind: str, summary: Summary) -> None:
        """Adds login, delivery or pong latencies."""
    def numbers(self, online: bool, limit: int) -> bytes:
        """Indices here of devices that are connected (or not), packed uint32."""
    def token(self, index: int) -> bytes: ...
    def save(self, first: int, count: int) -> bytes:
        """Credentials and tokens of these devices: records of 68 bytes."""
    def load(self, records: bytes) -> None:
        """Devices that are away, with these credentials; before any other device is made."""
