"""A partition's folder that grows past `store.max_bytes`, and shrinks again."""

from __future__ import annotations

from gateway.store.folder_size import FolderSize


class Folder:
    def __init__(self) -> None:
        self.bytes = 0
        self.looks = 0

    def used_bytes(self) -> int:
        self.looks += 1
        return self.bytes


def test_it_is_looked_at_now_and_then_and_after_each_commit_while_it_is_too_large() -> None:
    folder = Folder()
    size = FolderSize(folder, 1_000)  # type: ignore[arg-type]
    folder.bytes = 1_001
    for _ in range(63):
        size.committed(10)
    assert (size.is_over, folder.looks) == (False, 0)
    size.committed(10)
    assert (size.is_over, folder.looks) == (True, 1)
    folder.bytes = 1_000
    size.committed(1)
    assert (size.is_over, folder.looks) == (False, 2)
    folder.bytes = 1_001
    size.committed(8_191)
    assert not size.is_over
    size.committed(1)
    assert size.is_over
