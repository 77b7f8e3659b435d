from typing import final

@final
class Group:
    """Dense set of (link slot, registration); for tests."""
    def __len__(self) -> int: ...
    def add(self, slot: int, registration: int) -> int:
        """Position of the new member."""
    def remove(self, position: int) -> tuple[int, int] | None:
        """(slot, registration) of the member that moved into the freed position, or None where it was the last."""
    def members(self) -> list[tuple[int, int]]: ...
    @property
    def memory_bytes(self) -> int: ...
