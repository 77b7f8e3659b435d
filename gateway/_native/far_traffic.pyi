from gateway._native.batches import Batches
from gateway._native.far_records import HomeTable
from gateway._native.reactor import Reactor
from gateway._native.registry import Registry

def count_records(body: bytes, at: int) -> int:
    """How many there are from this place on; -1 where one is cut."""

def deliver(body: bytes, at: int, partition: int, homes: HomeTable, registry: Registry, reactors: list[Reactor]) -> int:
    """Queue notifications on their links, from this place on; returns the place of the first record that is none, or
    is not plain: its link is over, its reactor's mailbox is full."""

def hear_acks(
    body: bytes,
    at: int,
    node: int,
    registry: Registry,
    batches: Batches,
    acks: list[tuple[int, int, int, int, int, int]],
    runs: list[tuple[int, bytes, int]],
) -> tuple[int, int]:
    """Settle acks from this place on; (place of the first record that is none, how many were of a stale attachment).
    Those that `batches` could not settle are put into `acks` as a reactor's drain does, those in time of what is no
    pending delivery into `runs`."""
