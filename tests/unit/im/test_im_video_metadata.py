"""What a video tells of its maker goes, and nothing in it moves."""

from __future__ import annotations

import struct
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from media_rig import ANN, media_rig

from gateway.im.media.video_metadata import find_descriptions

PLACE = b"+48.2010+016.3695/"


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def video(*, big: bool = False) -> bytes:
    place = box(b"udta", box(b"\xa9xyz", struct.pack(">HH", len(PLACE), 0x15C7), PLACE))
    data = bytes(range(256)) * 8
    media = struct.pack(">I4sQ", 1, b"mdat", 16 + len(data)) + data if big else box(b"mdat", data)
    return b"".join(
        (
            box(b"ftyp", b"isom", bytes(4), b"isommp41"),
            media,
            box(b"moov", box(b"mvhd", bytes(100)), box(b"trak", box(b"tkhd", bytes(84)), place), place),
            box(b"uuid", bytes(16), PLACE),
            struct.pack(">I4s", 0, b"meta") + PLACE,
        )
    )


async def test_a_place_in_a_video_goes_and_nothing_moves(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig:
        for data in (video(), video(big=True)):
            media = await rig.take(data, "clip.mp4")
            file = rig.library.file(ANN, media.ref)
            assert file is not None
            kept = Path(file.path).read_bytes()
            assert PLACE in data
            assert PLACE not in kept
            assert len(kept) == len(data)
            assert kept.count(b"free") == 4
            for kind in (b"mdat", b"moov", b"mvhd", b"trak", b"tkhd"):
                assert kept.find(kind) == data.find(kind)
            at = data.find(bytes(range(256)))
            assert kept[at : at + 2048] == data[at : at + 2048]


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 255))
def test_any_bytes_have_descriptions_inside_them_or_none(more: bytes, at: int, byte: int) -> None:
    changed = bytearray(video() + more)
    changed[at] = byte
    data = bytes(changed)
    for raw in (data, more):
        end = 0
        for found in sorted(find_descriptions(lambda offset, count, raw=raw: raw[offset : offset + count], len(raw))):
            assert end <= found.start < found.content <= found.end <= len(raw)
            end = found.end


def test_boxes_without_end_are_not_followed_without_end() -> None:
    data = box(b"free") * 50_000
    reads = 0

    def read(offset: int, count: int) -> bytes:
        nonlocal reads
        reads += 1
        return data[offset : offset + count]

    assert find_descriptions(read, len(data)) == []
    assert reads == 10_000
