"""Files of strangers: what they are, what is kept of them, who may have them, what goes first."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import resource
import stat
from pathlib import Path

import pytest
from media_rig import ANN, BEN, MP4, PDF, PLACE, WAV, Clock, eventually, exif, media_rig, moving, picture, pieces, png
from PIL import Image

from gateway.metrics import Metric
from gateway.model.errors import ConfigError, QueueFull, StoreUnavailable
from gateway.model.im import Media
from gateway.model.im_media import StoredMedia
from gateway.model.im_ports import MediaRefused

HOUR_MS, DAY_MS = 3_600_000, 86_400_000


async def test_a_picture_is_kept_by_what_it_is_with_a_small_one(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig:
        data = picture("JPEG", 1600, 1200)
        media = await rig.take(data, "../../etc/harbour.exe")
        assert (media.mime, media.width, media.height) == ("image/jpeg", 1600, 1200)
        assert media.name == "harbour.exe.jpg"
        file = rig.library.file(ANN, media.ref)
        assert file is not None
        kept = Path(file.path).read_bytes()
        assert media.sha256 == hashlib.sha256(kept).hexdigest()
        assert file.path == str(rig.folder / media.sha256[:2] / media.sha256[2:])
        assert media.size == len(kept)
        assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o600
        small = rig.library.file(ANN, media.thumbnail)
        assert small is not None
        with Image.open(small.path) as image:
            assert image.size == (320, 240) == (small.media.width, small.media.height)
        await eventually(lambda: rig.parts() == [])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
async def test_the_place_goes_and_the_orientation_stays(tmp_path: Path, kind: str) -> None:
    async with media_rig(tmp_path) as rig:
        data = picture(kind, 700, 500, exif=exif(6))
        assert PLACE.encode() in data
        media = await rig.take(data)
        file = rig.library.file(ANN, media.ref)
        assert file is not None
        kept = Path(file.path).read_bytes()
        assert PLACE.encode() not in kept
        with Image.open(io.BytesIO(kept)) as clean, Image.open(io.BytesIO(data)) as before:
            assert dict(clean.getexif()) == {0x0112: 6}
            assert clean.getexif().get_ifd(0x8825) == {}
            assert clean.tobytes() == before.tobytes()  # not a pixel is another
        assert (media.width, media.height) == (500, 700)
        small = rig.library.file(ANN, media.thumbnail)
        assert small is not None
        with Image.open(small.path) as image:
            assert image.height == 320


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
async def test_a_moving_picture_keeps_its_frames(tmp_path: Path, kind: str) -> None:
    async with media_rig(tmp_path) as rig:
        media = await rig.take(moving(kind, 12, (500, 400)))
        file = rig.library.file(ANN, media.ref)
        assert file is not None
        with Image.open(file.path) as image:
            assert image.n_frames == 12
        assert media.thumbnail


@pytest.mark.parametrize(
    ("data", "mime"),
    [(WAV, "audio/wav"), (MP4, "video/mp4"), (PDF, "application/pdf"), ("grüß dich\n".encode(), "text/plain")],
)
async def test_other_files_are_kept_byte_for_byte(tmp_path: Path, data: bytes, mime: str) -> None:
    async with media_rig(tmp_path) as rig:
        media = await rig.take(data)
        file = rig.library.file(ANN, media.ref)
        assert file is not None
        assert media.mime == mime
        assert Path(file.path).read_bytes() == data


def cut_gif() -> bytes:
    return moving("GIF", 3)[:-40]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"MZ\x90\0 a program",
        b"<html><script>alert(1)</script>\0",
        b"PK\x03\x04" + bytes(60),
        b"\x7fELF" + bytes(100),
        picture("JPEG")[:-500],
        picture("PNG")[:-500],
        picture("WEBP")[:-500],
        cut_gif(),
        b"\xff\xd8\xff" + bytes(500),
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 500,
        b"GIF89a" + b"\xff" * 500,
        b"RIFF\xff\xff\xff\xffWEBPVP8X",
        png(64, 64, data=b"no deflate at all"),
    ],
)
async def test_what_is_nothing_whole_is_refused_and_leaves_nothing(tmp_path: Path, data: bytes) -> None:
    async with media_rig(tmp_path) as rig:
        with pytest.raises(MediaRefused):
            await rig.take(data, "picture.png")
        await eventually(lambda: rig.stored() == rig.parts() == [])
        assert rig.store.im_media.user_bytes(ANN) == 0


async def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    async with media_rig(tmp_path, media_pixels=1_000_000, picture_frames=100) as rig:
        bomb = png(30_000, 30_000)
        assert len(bomb) < 200_000
        gif = bytearray(moving("GIF", 2))
        gif[6:10] = b"\xff\xff\xff\xff"
        for data in (
            bomb,
            picture("WEBP", 1_100, 1_000),
            moving("GIF", 101),
            moving("GIF", 90, (500, 500)),  # each is small enough, all together are not
            moving("WEBP", 101),
            bytes(gif),
        ):
            with pytest.raises(MediaRefused, match="too many"):
                await rig.take(data)
        assert rig.counted(Metric.IM_PICTURE_WORKERS_LOST, "died") == 0
        assert (await rig.take(picture("PNG", 900, 900))).width == 900


async def test_a_process_that_dies_or_hangs_costs_its_picture_only(tmp_path: Path) -> None:
    async with media_rig(tmp_path, thumbnail_processes=2) as rig:
        pool = rig.library._pool
        await rig.take(picture("PNG"))
        os.kill(next(iter(pool._all)).process.pid, 19)  # it hangs
        rig.config.picture_s = 0.3
        with pytest.raises(MediaRefused, match="too long"):
            await rig.take(picture("PNG", 500, 300))
        rig.config.picture_s = 20.0
        assert rig.counted(Metric.IM_PICTURE_WORKERS_LOST, "time") == 1
        await rig.take(picture("PNG", 500, 300))
        taking = asyncio.ensure_future(rig.take(picture("PNG", 4_000, 4_000)))
        worker = next(iter(pool._all))
        while not pool._waiting or worker in pool._idle:
            await asyncio.sleep(0.001)
        worker.process.kill()
        with pytest.raises(MediaRefused, match="decoded"):
            await taking
        assert rig.counted(Metric.IM_PICTURE_WORKERS_LOST, "died") == 1
        assert (await rig.take(picture("PNG", 640, 300))).width == 640


async def test_a_process_may_not_take_more_memory_than_it_is_given(tmp_path: Path) -> None:
    async with media_rig(tmp_path, media_pixels=1_000_000_000, picture_memory_bytes=268_435_456) as rig:
        with pytest.raises(MediaRefused):
            await rig.take(png(30_000, 30_000))
        assert (await rig.take(picture("PNG"))).width == 640


async def test_too_many_pictures_are_refused_for_now(tmp_path: Path) -> None:
    async with media_rig(tmp_path, pictures_waiting=1) as rig:
        results = await asyncio.gather(
            *(rig.take(picture("PNG", 400 + n, 400), user=bytes([n]) * 16) for n in range(4)), return_exceptions=True
        )
        assert sum(isinstance(result, QueueFull) for result in results) == 3
        await eventually(lambda: rig.parts() == [])


async def test_many_pictures_of_one_user_do_not_hold_up_anothers(tmp_path: Path) -> None:
    async with media_rig(tmp_path, pictures_waiting=2) as rig:
        await rig.take(picture("PNG"))  # the process is there
        many = [asyncio.ensure_future(rig.take(picture("PNG", 2_000 + n, 2_000))) for n in range(6)]
        await eventually(lambda: rig.library._pool._waiting > 0)
        await rig.take(picture("PNG", 500, 300), user=BEN)
        assert sum(one.done() for one in many) <= 3
        await asyncio.gather(*many)
        assert not rig.library._pool._turns


async def test_a_polyglot_is_kept_as_the_picture_it_is(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig:
        evil = b"<html><script>alert(1)</script>PK\x03\x04 an archive %PDF-1.4"
        comment = chunked = picture("GIF", comment=evil)
        assert evil in comment
        for data in (picture("JPEG") + evil, picture("JPEG", comment=evil), picture("PNG") + evil, chunked + evil):
            media = await rig.take(data, "page.html")
            file = rig.library.file(ANN, media.ref)
            assert file is not None
            assert evil not in Path(file.path).read_bytes()
            assert media.mime.startswith("image/")
            assert not media.name.endswith(".html")


async def test_bounds_of_bytes_are_held_while_it_comes(tmp_path: Path) -> None:
    async with media_rig(tmp_path, media_bytes=10_000) as rig:
        read = 0

        async def endless() -> object:
            nonlocal read
            while True:
                read += 1_000
                yield b"x" * 1_000

        with pytest.raises(MediaRefused, match="larger"):
            await rig.library.take(endless(), user=ANN, media=Media("r"))  # type: ignore[arg-type]
        assert read == 11_000
        with pytest.raises(MediaRefused, match="larger"):
            await rig.library.take(pieces(b"x"), user=ANN, media=Media("r", size=10_001))
        await eventually(lambda: rig.parts() == [])


async def test_a_users_oldest_goes_first_but_not_what_was_used_lately(tmp_path: Path) -> None:
    clock = Clock()
    async with media_rig(tmp_path, clock, media_user_bytes=3 * 4096, media_bytes=4096) as rig:
        refs = []
        for number in range(3):
            refs.append((await rig.take(b"text %d" % number)).ref)
            clock.now_ms += HOUR_MS
        assert rig.store.im_media.user_bytes(ANN) == 3 * 4096
        assert rig.library.file(ANN, refs[0])  # used now: the second is the oldest
        clock.now_ms += 1_000
        refs.append((await rig.take(b"text 3")).ref)
        assert [rig.library.file(ANN, ref) is not None for ref in refs] == [True, False, True, True]
        with pytest.raises(MediaRefused, match="lately"):
            await rig.take(b"text 4")
        assert rig.counted(Metric.IM_MEDIA_REMOVED, "user_bytes") == 1
        await rig.take(b"text 5", user=BEN)
        await rig.store.committer.flush()
        await eventually(lambda: len(rig.stored()) == 4)


async def test_when_all_is_full_the_oldest_of_all_goes(tmp_path: Path) -> None:
    clock = Clock()
    async with media_rig(tmp_path, clock, media_total_bytes=3 * 4096, media_bytes=4096) as rig:
        first = await rig.take(b"one")
        await rig.take(b"two", user=BEN)
        await rig.take(b"three", user=BEN)
        with pytest.raises(QueueFull):
            await rig.take(b"four", user=BEN)
        clock.now_ms += 2 * HOUR_MS
        await rig.take(b"four", user=BEN)
        assert rig.library.file(ANN, first.ref) is None
        assert rig.store.im_media.total_bytes == 3 * 4096


async def test_many_at_once_do_not_pass_a_bound_together(tmp_path: Path) -> None:
    async with media_rig(tmp_path, media_user_bytes=5 * 4096, media_bytes=4096) as rig:
        results = await asyncio.gather(
            *(rig.take(b"%04d" % number * 1_000) for number in range(12)), return_exceptions=True
        )
        assert 1 <= sum(isinstance(result, Media) for result in results) <= 5
        assert rig.store.im_media.user_bytes(ANN) <= 5 * 4096


async def test_the_same_file_is_on_disk_once_and_stays_for_who_is_left(tmp_path: Path) -> None:
    clock = Clock()
    async with media_rig(tmp_path, clock, media_days=1) as rig:
        first = await rig.take(b"the same", "mine.txt")
        second = await rig.take(b"the same", "yours.txt", user=BEN)
        assert first.ref != second.ref
        assert (first.name, second.name) == ("mine.txt", "yours.txt")
        assert len(rig.stored()) == 1
        assert rig.library.file(BEN, first.ref) is None
        clock.now_ms += DAY_MS // 2
        assert rig.library.file(BEN, second.ref)
        clock.now_ms += DAY_MS // 2 + HOUR_MS
        assert rig.library.sweep() == 1
        await rig.store.committer.flush()
        assert rig.library.file(ANN, first.ref) is None
        assert len(rig.stored()) == 1
        clock.now_ms += DAY_MS
        assert rig.library.sweep() == 1
        await rig.store.committer.flush()
        await eventually(lambda: rig.stored() == [])
        assert rig.store.im_media.total_bytes == 0
        assert rig.store.im_media.user_bytes(BEN) == 0


async def test_shared_media_is_the_others_too_with_its_small_picture(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig:
        media = await rig.take(picture("PNG", 800, 800))
        assert rig.library.file(BEN, media.ref) is None
        for _ in range(2):
            rig.library.share(media.ref, BEN)
        assert rig.library.file(BEN, media.ref) is not None
        assert rig.library.file(BEN, media.thumbnail) is not None
        rig.library.share("media_" + "0" * 32, BEN)
        rig.library.share("no ref at all", BEN)
        while rig.library.forget(ANN):
            await rig.store.committer.flush()
        assert rig.library.file(ANN, media.ref) is None
        assert rig.library.file(BEN, media.ref) is not None


async def test_everything_is_there_after_a_restart_and_what_nobody_knows_goes(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig:
        media = await rig.take(picture("PNG", 800, 800))
        total = rig.store.im_media.total_bytes
        orphan = rig.folder / "ab" / ("c" * 62)
        orphan.parent.mkdir(exist_ok=True)
        orphan.write_bytes(b"a crash came before its row")
        (rig.folder / "parts" / "half").write_bytes(b"half")
    async with media_rig(tmp_path) as rig:
        assert rig.store.im_media.total_bytes == total
        file = rig.library.file(ANN, media.ref)
        assert file is not None
        assert Path(file.path).stat().st_size == media.size
        assert rig.parts() == []
        await eventually(lambda: not orphan.exists())
        assert len(rig.stored()) == 2


async def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with media_rig(tmp_path) as rig:
        written = 0
        write = os.write

        def full(descriptor: int, data: bytes) -> int:
            nonlocal written
            written += len(data)
            if written > 300_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(descriptor, data)

        with monkeypatch.context() as patch:
            patch.setattr("gateway.im.media.disk.os.write", full)
            with pytest.raises(StoreUnavailable):
                await rig.take(b"x" * 1_000_000)
        await eventually(lambda: rig.stored() == rig.parts() == [])
        assert (await rig.take(b"x" * 1_000_000)).size == 1_000_000


async def test_rows_that_can_not_be_written_take_their_file_back(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig:
        kept = await rig.take(b"before")
        apply = rig.store._environment.apply

        def failing(groups: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        rig.store._environment.apply = failing  # type: ignore[method-assign,assignment]
        with pytest.raises(StoreUnavailable):
            await rig.take(b"after")
        with pytest.raises(StoreUnavailable):
            rig.library.share(kept.ref, BEN)
        assert rig.store.im_media.user_bytes(ANN) == rig.store.im_media.total_bytes == 4096
        await eventually(lambda: len(rig.stored()) == 1)
        rig.store._environment.apply = apply  # type: ignore[method-assign]
        assert await rig.store.committer.probe()
        assert (await rig.take(b"after")).size == 5
        assert rig.library.file(ANN, kept.ref) is not None


async def test_a_process_that_finds_the_disk_full_does_not_blame_the_picture(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig:
        await rig.take(picture("PNG"))
        worker = next(iter(rig.library._pool._all)).process.pid
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))
        with pytest.raises(StoreUnavailable):
            await rig.take(picture("PNG", 500, 500))
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert (await rig.take(picture("PNG", 500, 500))).width == 500


async def test_what_goes_while_everything_ends_goes_at_the_next_start(tmp_path: Path) -> None:
    clock = Clock()
    async with media_rig(tmp_path, clock, media_days=1) as rig:
        await rig.take(b"some text")
        clock.now_ms += 2 * DAY_MS
        assert rig.library.sweep() == 1
    async with media_rig(tmp_path, clock) as rig:
        await eventually(lambda: rig.stored() == [])


async def test_room_is_made_for_a_large_file_out_of_many_small_ones(tmp_path: Path) -> None:
    clock = Clock()
    async with media_rig(tmp_path, clock, media_total_bytes=400 * 4096, media_bytes=300 * 4096) as rig:
        for number in range(40):
            await asyncio.gather(*(rig.take(b"text %d %d" % (number, n), user=BEN) for n in range(10)))
        assert rig.store.im_media.total_bytes == 400 * 4096
        clock.now_ms += 2 * HOUR_MS
        await rig.take(b"x" * 299 * 4096)
        assert rig.store.im_media.total_bytes == 400 * 4096
        assert rig.counted(Metric.IM_MEDIA_REMOVED, "total_bytes") == 299


async def test_a_user_who_is_gone_loses_everything_in_slices(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig:
        rows = rig.store.im_media
        for number in range(3_000):
            rows.add(ANN, [(number.to_bytes(16, "big"), StoredMedia(number.to_bytes(32, "big"), 1, "text/plain"))])
        await rig.store.committer.flush()
        slices = 0
        while rig.library.forget(ANN):  # not one of them is on disk yet
            slices += 1
        assert slices == 12
        await rig.store.committer.flush()
        assert rows.user_bytes(ANN) == rows.total_bytes == 0


async def test_a_type_that_can_not_be_told_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        async with media_rig(tmp_path, media_types=["application/x-shockwave-flash"]):
            pass
    assert raised.value.field == "im.media_types"
