"""What the device door asks of whoever keeps its registrations: the directory of this machine, or of a fleet's node."""

from __future__ import annotations

from typing import Protocol

from gateway._native.registry import Registry


class Home(Protocol):
    """Numbers and groups are those of `registry`, which the door works on directly."""

    @property
    def registry(self) -> Registry: ...

    def group_app(self, group: int) -> str: ...

    def device_of(self, number: int) -> str | None:
        """The id of the device a registration belongs to; None where it is unknown."""
        ...

    def device_key(self, device: str) -> int:
        """Keyed 64-bit hash of a device id, never 0."""
        ...
