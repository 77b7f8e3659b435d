"""A partition's folder whose end can not be written down: it is closed all the same, and not trusted later."""

from __future__ import annotations

from pathlib import Path

from gateway.cluster.partition_folder import BOOT_FILE, PartitionFolder
from gateway.config.sections import Store


def test_a_folder_that_can_not_be_marked_is_closed_and_counts_as_unclean(tmp_path: Path) -> None:
    """As on a full disk: nobody may be kept from opening it again."""
    folder = PartitionFolder(Store(path=str(tmp_path)), 3)
    folder.create("made")
    boot = folder.path / BOOT_FILE
    before = boot.read_text()
    boot.unlink()
    boot.mkdir()  # a file can not take its place
    folder.close()
    boot.rmdir()
    boot.write_text(before)
    again = PartitionFolder(Store(path=str(tmp_path)), 3)
    assert again.open("made", 1, 5)  # the same boot: what was applied is there
    again.close()
    assert boot.read_text() == "clean"
