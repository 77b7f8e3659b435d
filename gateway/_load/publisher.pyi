from typing import Any, Self, final

from gateway._load.fleet import Fleet

@final
class Publisher:
    """A publisher's connection: `run` belongs to a thread of its own. `targets`: packed tokens, or numbers of devices
    for a broker."""
    def __new__(
        cls,
        host: int,
        port: int,
        *,
        mqtt: bool,
        key: bytes,
        rate: float,
        seconds: float,
        most: int,
        batch: int,
        text_bytes: int,
        window: int,
        everyone: bool,
        qos: int,
        seed: int,
        targets: bytes,
    ) -> Self: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...
    def counts(self) -> dict[str, Any]:
        """`error`: 0, the number of an ERROR or GOAWAY, or 1000 + errno."""
    @property
    def began_ns(self) -> int: ...
    @property
    def seconds(self) -> float:
        """From the first push to the last offered."""
    @property
    def answered_seconds(self) -> float:
        """From the first push to the last result."""
    def accept_ms(self) -> dict[str, float]: ...

def pack_targets(fleets: list[Fleet], online: bool, mqtt: bool, limit: int) -> bytes:
    """Tokens, or numbers for a broker, of devices that are connected (or not)."""
