"""A disk that runs full under uploads: it is said, what was answered is there, no file is half written, and it goes on
when there is room."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from chaos_disks import CAN_MOUNT, Disk, disk_that_fills
from media_process import Door, door_process
from media_rig import ANN

pytestmark = pytest.mark.chaos

UPLOADS = "/v1/im/uploads"
HEADERS = {"authorization": f"Bearer {ANN.hex()}", "tus-resumable": "1.0.0"}
OCTETS = {"content-type": "application/offset+octet-stream"}
DATA = b"".join(b"%07d\n" % number for number in range(400_000))


@pytest.fixture(params=["file system"] * CAN_MOUNT + ["limited files"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    with disk_that_fills(request.param, tmp_path) as disk:
        yield disk


def append(door: Door, place: str, offset: int) -> httpx.Response:
    headers = {**HEADERS, **OCTETS, "upload-offset": str(offset)}
    return httpx.patch(door.url + place, headers=headers, content=DATA[offset:], timeout=30)


def offset_of(door: Door, place: str) -> int:
    return int(httpx.head(door.url + place, headers=HEADERS).headers["upload-offset"])


def test_uploads_outlive_a_full_disk_and_a_kill_on_it(disk: Disk) -> None:
    store = disk.folder / "store"
    with door_process(store) as door:
        length = {"upload-length": str(len(DATA))}
        place = httpx.post(door.url + UPLOADS, headers={**HEADERS, **length}).headers["location"]
        disk.fill(door.process.pid)
        answer = append(door, place, 0)
        assert (answer.status_code, answer.json()["error"]["name"]) == (503, "store_unavailable")
        offset = offset_of(door, place)
        assert offset < len(DATA)
        assert not list((store / "media").glob("[0-9a-f][0-9a-f]/*"))
        disk.make_room(door.process.pid)
        door.kill()
        door.start()
        assert offset_of(door, place) == offset
        assert append(door, place, offset).status_code == 204
        media = httpx.get(door.url + place, headers=HEADERS).json()["media"]
        assert media["sha256"] == hashlib.sha256(DATA).hexdigest()
