from typing import Self, final

from gateway._native.batches import Batches
from gateway._native.far_records import FarSink
from gateway._native.pending import Pending
from gateway._native.reactor import Reactor
from gateway._native.registry import Registry

UNKNOWN_TOKEN: int
FULL: int
APART: int

@final
class Router:
    """Sends on links; `held` and `floors` are looked at with each use. `far` collects what goes to other nodes."""
    def __init__(
        self, reactors: list[Reactor], held: set[int], floors: dict[int, int], far: FarSink | None = None
    ) -> None: ...

@final
class Batch:
    """Packed arrays of pushes, one behind the other, read and looked up. ValueError: one is none; OverflowError: more
    than `most`. They are held, not copied, and must not change. Bounds in bytes, times in seconds; `ttl_s` for a push
    that says none."""
    def __new__(
        cls,
        registry: Registry,
        pending: Pending,
        batches: Batches,
        arrays: list[bytes | memoryview],
        app: int,
        *,
        most: int,
        push_bytes: int,
        inline_bytes: int,
        pending_of_one: int,
        ttl_s: int,
        most_ttl_s: int,
    ) -> Self: ...
    @property
    def count(self) -> int: ...
    @property
    def ready(self) -> int: ...
    @property
    def places(self) -> list[int]:
        """Of each push: its place among those ready, or UNKNOWN_TOKEN, FULL or APART."""
    def raw(self, index: int) -> bytes: ...
    def accept(
        self, first: int, now_ms: int, ack_ms: int, notifier_ack_ms: int, may_wait: bool, router: Router
    ) -> tuple[bytes, int, list[int]]:
        """(journal row, slot, sequences whose first look is not plain). Once only; ValueError where nothing is ready,
        MemoryError: nothing was accepted."""
