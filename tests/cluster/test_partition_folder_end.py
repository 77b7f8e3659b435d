"""A partition's folder whose end can not be written down: it is closed all the same, and not trusted later."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cluster.partition_folder import BOOT_FILE, PartitionFolder, applied_of
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


@pytest.mark.parametrize(("created", "last"), [("made anew", 5), ("made", 2)])
def test_a_folder_whose_stream_is_gone_or_shorter_stays_until_another_takes_its_place_and_is_kept_then(
    tmp_path: Path, created: str, last: int
) -> None:
    """A stream deleted by hand, NATS servers with empty disks: it may be the only copy."""
    folder = PartitionFolder(Store(path=str(tmp_path)), 3)
    folder.create("made")
    folder.apply([], 3)
    folder.close()
    again = PartitionFolder(Store(path=str(tmp_path)), 3)
    assert not again.open(created, 1, last)
    assert applied_of(again.path) == 3
    again.create(created)
    kept = again.path.with_name("3.lost")
    assert applied_of(kept) == 3
    # lost once more: what is kept is the first one
    again.apply([], 7)
    again.close()
    third = PartitionFolder(Store(path=str(tmp_path)), 3)
    assert not third.open("made a third time", 1, 1)
    third.create("made a third time")
    assert applied_of(kept) == 3
    assert third.applied == 0
    third.close()
