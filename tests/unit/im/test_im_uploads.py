"""Uploads that go on where they ended (tus 1.0.0): its protocol word for word, cuts, kills, full disks, two at once."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import os
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from media_process import Door, door_process
from media_rig import ANN, BEN, Clock, Rig, eventually, media_rig, picture, pieces
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

from gateway.im.media import upload_files
from gateway.im.media.tus import Checksum, parse_checksum
from gateway.metrics import Metric
from gateway.model.errors import Conflict
from gateway.model.im_media import parse_upload_id

UPLOADS = "/v1/im/uploads"
OCTETS = {"content-type": "application/offset+octet-stream"}
TEXT = b"".join(b"line %06d\n" % number for number in range(60_000))


def at(offset: int) -> dict[str, str]:
    return {**OCTETS, "upload-offset": str(offset)}


def checksum(data: bytes, algorithm: str = "sha1") -> dict[str, str]:
    digest = hashlib.new(algorithm, data).digest()
    return {"upload-checksum": f"{algorithm} {base64.b64encode(digest).decode()}"}


async def begin(client: httpx.AsyncClient, length: int, name: str = "notes.txt") -> str:
    metadata = f"filename {base64.b64encode(name.encode()).decode()},is_confidential"
    answer = await client.post(UPLOADS, headers={"upload-length": str(length), "upload-metadata": metadata})
    assert answer.status_code == 201
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert answer.headers["upload-expires"].endswith("GMT")
    return answer.headers["location"]


async def test_an_upload_in_two_parts_becomes_media(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig, rig.door() as client:
        url = await begin(client, len(TEXT))
        first = await client.patch(url, headers=at(0), content=TEXT[:100_000])
        assert (first.status_code, first.headers["upload-offset"], first.content) == (204, "100000", b"")
        head = await client.head(url)
        assert (head.status_code, head.headers["upload-offset"]) == (200, "100000")
        assert (head.headers["upload-length"], head.headers["cache-control"]) == (str(len(TEXT)), "no-store")
        last = await client.patch(url, headers=at(100_000), content=TEXT[100_000:])
        assert last.status_code == 204
        view = (await client.get(url)).json()
        assert view["media"]["name"] == "notes.txt"
        assert view["media"]["ref"] == last.headers["upload-media"]
        file = await client.get(f"/v1/im/media/{view['media']['ref']}")
        assert file.content == TEXT
        again = await client.patch(url, headers=at(len(TEXT)), content=b"")
        assert again.status_code == 204
        assert list((rig.folder / "uploads").iterdir()) == []


async def test_what_is_spoken_here_is_said(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig, rig.door() as client:
        answer = await client.options(UPLOADS, headers={"tus-resumable": "0.2.2"})
        assert answer.status_code == 204
        assert answer.headers["tus-version"] == "1.0.0"
        assert answer.headers["tus-max-size"] == str(rig.config.media_bytes)
        assert set(answer.headers["tus-extension"].split(",")) == {
            "creation",
            "creation-with-upload",
            "expiration",
            "checksum",
            "termination",
        }
        assert "sha1" in answer.headers["tus-checksum-algorithm"].split(",")
        other = await client.post(UPLOADS, headers={"tus-resumable": "0.2.2", "upload-length": "5"})
        assert (other.status_code, other.headers["tus-version"]) == (412, "1.0.0")


async def test_bytes_may_come_with_the_creation(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig, rig.door() as client:
        headers = {**OCTETS, "upload-length": "10", **checksum(b"hello")}
        answer = await client.post(UPLOADS, headers=headers, content=b"hello")
        assert (answer.status_code, answer.headers["upload-offset"]) == (201, "5")
        whole = await client.post(UPLOADS, headers={**OCTETS, "upload-length": "5"}, content=b"hello")
        assert whole.headers["upload-media"].startswith("media_")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        ({"upload-length": "-1"}, 400),
        ({"upload-length": "0"}, 400),
        ({"upload-length": "9" * 30}, 400),
        ({"upload-length": "٣"}, 400),
        ({"upload-defer-length": "1"}, 400),
        ({"upload-length": "5", "upload-metadata": "filename not-base64!"}, 400),
        ({"upload-length": "5", "upload-metadata": "a YQ==,a YQ=="}, 400),
        ({"upload-length": "5", "upload-metadata": "a " + "A" * 5_000}, 400),
        ({"upload-length": "5", "content-type": "text/plain"}, 415),
        ({"upload-length": "200000000"}, 413),
        ({"upload-length": "5", "authorization": "Bearer nobody"}, 401),
    ],
)
async def test_a_wrong_creation_is_refused(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async with media_rig(tmp_path) as rig, rig.door() as client:
        raw = {name: value.encode() for name, value in headers.items()}
        answer = await client.post(UPLOADS, headers=raw)  # type: ignore[arg-type]
        assert answer.status_code == status
        assert answer.headers["tus-resumable"] == "1.0.0"
        assert list((rig.folder / "uploads").iterdir()) == []


async def test_wrong_appends_are_refused_and_change_nothing(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig, rig.door() as client, rig.door(BEN) as other:
        url = await begin(client, 100)
        await client.patch(url, headers=at(0), content=b"x" * 10)
        for headers, content, status in (
            (at(0), b"y", 409),
            (at(11), b"y", 409),
            ({**OCTETS}, b"y", 400),
            ({**at(10), "upload-offset": "ten"}, b"y", 400),
            ({**at(10), "content-type": "application/octet-stream"}, b"y", 415),
            (at(10), b"y" * 91, 413),
            ({**at(10), **checksum(b"other")}, b"y" * 5, 460),
            ({**at(10), "upload-checksum": "crc32 AAAA"}, b"y" * 5, 400),
            ({**at(10), "upload-checksum": "sha1 AAAA"}, b"y" * 5, 400),
        ):
            assert (await client.patch(url, headers=headers, content=content)).status_code == status
            assert (await client.head(url)).headers["upload-offset"] == "10"
        assert (await client.patch(url, headers=at(10), content=pieces(b"y" * 91, 30))).status_code == 413
        assert (await client.head(url)).headers["upload-offset"] == "10"
        for answer in (
            await other.head(url),
            await other.patch(url, headers=at(10), content=b"y"),
            await other.delete(url),
            await other.get(url),
            await client.head(UPLOADS + "/upload_" + "0" * 32),
            await client.head(UPLOADS + "/..%2f..%2fetc"),
        ):
            assert answer.status_code == 404
        right = await client.patch(url, headers={**at(10), **checksum(b"y" * 90, "sha256")}, content=b"y" * 90)
        assert right.status_code == 204


async def test_what_is_nothing_we_take_is_refused_with_its_last_byte(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig, rig.door() as client:
        url = await begin(client, 60, "holiday.jpg")
        answer = await client.patch(url, headers=at(0), content=b"MZ\x90\0" + bytes(56))
        assert (answer.status_code, answer.json()["error"]["name"]) == (415, "unsupported_media")
        assert "holiday" not in answer.text
        assert (await client.get(url)).json()["refused"]
        assert (
            await client.post(UPLOADS, headers={**OCTETS, "upload-length": "2"}, content=b"\0\0")
        ).status_code == 415
        await eventually(lambda: rig.stored() == rig.parts() == list((rig.folder / "uploads").iterdir()) == [])


async def test_an_upload_that_is_ended_or_expired_is_gone(tmp_path: Path) -> None:
    clock = Clock()
    async with media_rig(tmp_path, clock, upload_s=60) as rig, rig.door() as client, rig.door(BEN) as other:
        ended, late = await begin(client, 10), await begin(client, 10)
        assert (await client.delete(ended)).status_code == 204
        assert (await client.head(ended)).status_code == 410
        assert (await other.head(ended)).status_code == 404
        clock.now_ms += 61_000
        assert (await client.patch(late, headers=at(0), content=b"x")).status_code == 410
        await rig.uploads.sweep()
        assert (await client.head(late)).status_code == 410
        await eventually(lambda: list((rig.folder / "uploads").iterdir()) == [])
        assert rig.counted(Metric.IM_UPLOADS_ENDED, "expired") == 1
        assert rig.metrics.gauges[Metric.IM_UPLOADS, ""] == 0


async def test_methods_may_come_by_another_name(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig, rig.door() as client:
        url = await begin(client, 10)
        for method, headers, status in (
            ("PATCH", at(0), 204),
            ("HEAD", {}, 200),
            ("GET", {}, 400),
            ("DELETE", {}, 204),
        ):
            content = b"12345" if method == "PATCH" else b""
            more = {"x-http-method-override": method, **headers}
            assert (await client.post(url, headers=more, content=content)).status_code == status


async def test_uploads_of_a_user_and_of_all_are_bounded(tmp_path: Path) -> None:
    settings = {"uploads_per_user": 2, "uploads_at_once": 3, "media_bytes": 4096, "media_user_bytes": 6000}
    async with media_rig(tmp_path, **settings) as rig, rig.door() as client, rig.door(BEN) as other:
        length = {"upload-length": "4096"}
        assert (await client.post(UPLOADS, headers=length)).status_code == 201
        assert (await client.post(UPLOADS, headers=length)).status_code == 413
        assert (await client.post(UPLOADS, headers={"upload-length": "4"})).status_code == 201
        many = await client.post(UPLOADS, headers={"upload-length": "4"})
        assert (many.status_code, many.headers["retry-after"]) == (429, "30")
        assert (await other.post(UPLOADS, headers={"upload-length": "4"})).status_code == 201
        assert (await other.post(UPLOADS, headers={"upload-length": "4"})).status_code == 503


async def test_what_came_of_uploads_is_not_kept_without_end(tmp_path: Path) -> None:
    async with media_rig(tmp_path, uploads_per_user=1) as rig, rig.door() as client:
        urls = []
        for number in range(7):
            content = b"%d" % number
            answer = await client.post(UPLOADS, headers={**OCTETS, "upload-length": "1"}, content=content)
            urls.append(answer.headers["location"])
        assert [(await client.get(url)).status_code for url in urls] == [410] * 3 + [200] * 4
        await rig.store.committer.flush()
        assert len(rig.store.im_uploads.load()) == 4


async def test_of_two_that_write_at_once_one_is_told_so(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig, rig.door() as client:
        url = await begin(client, len(TEXT))
        results = await asyncio.gather(
            *(client.patch(url, headers=at(0), content=pieces(TEXT, 10_000)) for _ in range(2))
        )
        assert sorted(result.status_code for result in results) == [204, 409]
        view = (await client.get(url)).json()
        assert view["media"]["sha256"] == hashlib.sha256(TEXT).hexdigest()


async def cut_after(data: bytes, size: int) -> AsyncIterator[bytes]:
    yield data[:size]
    raise ConnectionResetError


def file_of(rig: Rig, url: str) -> Path:
    raw = parse_upload_id(url.rpartition("/")[2])
    assert raw is not None
    return rig.store.im_media_files.upload_path(raw)


async def test_what_came_before_a_cut_counts_unless_it_had_a_checksum(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig, rig.door() as client:
        url = await begin(client, len(TEXT))
        upload = url.rpartition("/")[2]
        with pytest.raises(ConnectionResetError):
            await rig.uploads.append(ANN, upload, 0, cut_after(TEXT, 70_000), None)
        assert (await client.head(url)).headers["upload-offset"] == "70000"
        rest = TEXT[70_000:]
        wanted = upload_checksum(rest)
        with pytest.raises(ConnectionResetError):
            await rig.uploads.append(ANN, upload, 70_000, cut_after(rest, 300_000), wanted)
        assert (await client.head(url)).headers["upload-offset"] == "70000"
        assert file_of(rig, url).stat().st_size == 70_000
        answer = await client.patch(url, headers={**at(70_000), **checksum(rest)}, content=rest)
        assert answer.headers["upload-media"]


def upload_checksum(data: bytes) -> Checksum | None:
    return parse_checksum(checksum(data)["upload-checksum"])


async def test_after_a_restart_it_is_where_its_file_ends(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig, rig.door() as client:
        plain, checked, lost, whole = [await begin(client, 100) for _ in range(4)]
        for url in (plain, checked, lost):
            await client.patch(url, headers=at(0), content=b"x" * 40)
        # as a kill leaves them: bytes that nobody answered for, bytes whose checksum was not looked at
        with file_of(rig, plain).open("ab") as file:
            file.write(b"y" * 20)
        upload_files.begin_checked(file_of(rig, checked), 40)
        with file_of(rig, checked).open("ab") as file:
            file.write(b"?" * 20)
        file_of(rig, lost).unlink()
        file_of(rig, whole).write_bytes(b"z" * 100)
        stray = rig.folder / "uploads" / ("e" * 32)
        stray.write_bytes(b"nobody's")
    async with media_rig(tmp_path) as rig, rig.door() as client:
        assert (await client.head(plain)).headers["upload-offset"] == "60"
        assert (await client.head(checked)).headers["upload-offset"] == "40"
        assert "lost" in (await client.get(lost)).json()["refused"]
        assert (await client.get(whole)).json()["media"]["size"] == 100
        await eventually(lambda: not stray.exists())
        assert (await client.patch(plain, headers=at(60), content=b"y" * 40)).status_code == 204
        media = (await client.get(plain)).json()["media"]["ref"]
        assert (await client.get(f"/v1/im/media/{media}")).content == b"x" * 40 + b"y" * 60


async def test_a_full_disk_is_said_and_what_is_there_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with media_rig(tmp_path) as rig, rig.door() as client:
        url = await begin(client, len(TEXT))
        write = os.pwrite

        def full(descriptor: int, data: bytes, offset: int) -> int:
            if offset + len(data) > 400_000:
                if offset < 400_000:
                    return write(descriptor, data[: 400_000 - offset], offset)
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(descriptor, data, offset)

        with monkeypatch.context() as patch:
            patch.setattr("gateway.im.media.upload_files.os.pwrite", full)
            answer = await client.patch(url, headers=at(0), content=pieces(TEXT, 65_536))
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        offset = int((await client.head(url)).headers["upload-offset"])
        assert 0 < offset <= 400_000
        assert file_of(rig, url).stat().st_size == offset
        assert (await client.patch(url, headers=at(offset), content=TEXT[offset:])).status_code == 204
        assert (await client.get(url)).json()["media"]["sha256"] == hashlib.sha256(TEXT).hexdigest()


async def test_an_upload_that_could_not_be_looked_at_is_looked_at_later(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig, rig.door() as client:
        url = await begin(client, 5)
        place = rig.library.disk.files.place

        def full(part: Path, digest: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        rig.library.disk.files.place = full  # type: ignore[method-assign]
        assert (await client.patch(url, headers=at(0), content=b"hello")).status_code == 503
        assert (await client.head(url)).headers["upload-offset"] == "5"
        rig.library.disk.files.place = place  # type: ignore[method-assign]
        await rig.uploads.sweep()
        assert (await client.head(url)).headers["upload-media"].startswith("media_")


async def test_an_upload_that_is_written_to_can_not_be_ended(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig, rig.door() as client:
        url = await begin(client, 100)
        upload = url.rpartition("/")[2]
        gate = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"x"
            await gate.wait()
            yield b"y" * 99

        writing = asyncio.ensure_future(rig.uploads.append(ANN, upload, 0, slow(), None))
        await asyncio.sleep(0)
        with pytest.raises(Conflict):
            await rig.uploads.terminate(ANN, upload)
        gate.set()
        assert (await writing).media is not None


# --- a server of its own, and a client that is not ours -----------------------------------------------------------


def client_of(door: Door) -> TusClient:
    return TusClient(door.url + UPLOADS, headers={"Authorization": f"Bearer {ANN.hex()}"})


def show(door: Door, url: str) -> dict[str, object]:
    headers = {"authorization": f"Bearer {ANN.hex()}"}
    view: dict[str, object] = httpx.get(url, headers=headers).json()
    return view


def test_a_clients_library_uploads_and_resumes_after_a_kill(tmp_path: Path) -> None:
    data = picture("PNG", 900, 900, mode="RGB", compress_level=0)
    source = tmp_path / "picture.png"
    source.write_bytes(data)
    with door_process(tmp_path / "store") as door, source.open("rb") as stream, source.open("rb") as again:
        uploader = client_of(door).uploader(
            file_stream=stream, chunk_size=200_000, metadata={"filename": "sea.png"}, upload_checksum=True
        )
        uploader.upload(stop_at=600_000)
        place = uploader.url.removeprefix(door.url)
        assert uploader.offset == 600_000
        door.kill()
        with pytest.raises(TusCommunicationError):
            uploader.upload_chunk()
        door.start()
        resumed = client_of(door).uploader(
            file_stream=again, chunk_size=500_000, url=door.url + place, upload_checksum=True
        )
        assert resumed.offset == 600_000
        resumed.upload()
        media = show(door, door.url + place)["media"]
        assert isinstance(media, dict)
        assert (media["name"], media["width"]) == ("sea.png", 900)


@pytest.mark.parametrize("is_checked", [False, True])
def test_a_kill_in_the_middle_of_a_piece_loses_nothing_that_was_answered(tmp_path: Path, is_checked: bool) -> None:
    data = b"".join(b"%07d\n" % number for number in range(500_000))
    headers = {"authorization": f"Bearer {ANN.hex()}", "tus-resumable": "1.0.0"}
    with door_process(tmp_path / "store") as door:
        length = {"upload-length": str(len(data))}
        place = httpx.post(door.url + UPLOADS, headers={**headers, **length}).headers["location"]
        first = httpx.patch(door.url + place, headers={**headers, **at(0)}, content=data[:500_000])
        assert first.status_code == 204

        def dying() -> Iterator[bytes]:
            yield data[500_000:2_000_000]
            door.kill()
            yield data[2_000_000:]

        more = checksum(data[500_000:]) if is_checked else {}
        with pytest.raises(httpx.TransportError):
            httpx.patch(door.url + place, headers={**headers, **at(500_000), **more}, content=dying())
        door.start()
        offset = int(httpx.head(door.url + place, headers=headers).headers["upload-offset"])
        assert offset == 500_000 if is_checked else 500_000 <= offset <= 2_000_000
        rest = data[offset:]
        last = httpx.patch(door.url + place, headers={**headers, **at(offset), **checksum(rest)}, content=rest)
        assert last.status_code == 204
        media = show(door, door.url + place)["media"]
        assert isinstance(media, dict)
        assert media["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_disk_that_takes_no_more_is_said_and_the_upload_goes_on_later(tmp_path: Path) -> None:
    """The kernel refuses: no file of that process may grow beyond 2 MiB for a while."""
    data = b"".join(b"%07d\n" % number for number in range(500_000))
    headers = {"authorization": f"Bearer {ANN.hex()}", "tus-resumable": "1.0.0"}
    with door_process(tmp_path / "store") as door:
        length = {"upload-length": str(len(data))}
        place = httpx.post(door.url + UPLOADS, headers={**headers, **length}).headers["location"]
        resource.prlimit(door.process.pid, resource.RLIMIT_FSIZE, (2 << 20, resource.RLIM_INFINITY))
        full = httpx.patch(door.url + place, headers={**headers, **at(0)}, content=data)
        assert (full.status_code, full.json()["error"]["name"]) == (503, "store_unavailable")
        offset = int(httpx.head(door.url + place, headers=headers).headers["upload-offset"])
        assert 0 < offset <= 2 << 20
        resource.prlimit(door.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        last = httpx.patch(door.url + place, headers={**headers, **at(offset)}, content=data[offset:])
        assert last.status_code == 204
        media = show(door, door.url + place)["media"]
        assert isinstance(media, dict)
        assert media["sha256"] == hashlib.sha256(data).hexdigest()
