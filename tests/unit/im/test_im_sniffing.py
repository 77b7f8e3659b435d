"""What a file is, what it may be called, and the headers of uploads: whatever bytes come, no parser fails in a way of
its own."""

from __future__ import annotations

import base64
import contextlib
import io
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from media_rig import MP4, PDF, WAV, chunk, exif, moving, picture, png
from PIL import Image

from gateway.im.media import tus
from gateway.im.media.names import NAME_BYTES, clean_name
from gateway.im.media.picture_metadata import Malformed, build_orientation, parse_orientation, strip
from gateway.im.media.sniffing import PICTURES, is_text, sniff
from gateway.model.errors import BadRequest
from gateway.model.im_media import EXTENSIONS, KNOWN

MP3 = (b"\xff\xfb\x90\x00" + bytes(413)) * 2
SAMPLES = {
    "image/jpeg": picture("JPEG", 40, 30),
    "image/png": picture("PNG", 40, 30),
    "image/gif": moving("GIF", 3),
    "image/webp": moving("WEBP", 3),
    "audio/wav": WAV,
    "audio/mpeg": MP3,
    "audio/ogg": b"OggS\0\x02" + bytes(22) + b"OpusHead",
    "audio/flac": b"fLaC\0\0\0\x22",
    "audio/mp4": b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42",
    "audio/aac": b"\xff\xf1\x50\x80\x02\x1f\xfc" + bytes(20),
    "video/mp4": MP4,
    "video/quicktime": b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
    "video/webm": b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84webmB\x87\x81\x04",
    "video/x-matroska": b"\x1aE\xdf\xa3\x9fB\x82\x88matroska",
    "video/ogg": b"OggS\0\x02" + bytes(22) + b"\x80theora",
    "application/pdf": PDF,
    "application/zip": b"PK\x03\x04\x14\0",
    "image/heic": b"\0\0\0\x18ftypheic\0\0\0\0",
    "image/avif": b"\0\0\0\x18ftypavif\0\0\0\0",
}


@pytest.mark.parametrize("mime", SAMPLES)
def test_a_file_is_what_its_first_bytes_say(mime: str) -> None:
    assert sniff(SAMPLES[mime]) == mime
    assert mime in KNOWN


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"<html>",
        b"<?xml",
        b"<svg",
        b"#!/bin/sh",
        b"MZ",
        b"\x7fELF",
        b"\xff\xfb\x90\x00",
        b"RIFF....AVI ",
        b"\xff\xf0",
    ],
)
def test_what_is_none_of_them_has_no_type(head: bytes) -> None:
    assert sniff(head) == ""


def test_an_mp3_of_several_kinds() -> None:
    assert sniff(b"ID3\x04\0\0\0\0\x0f\x76" + bytes(100)) == "audio/mpeg"
    mpeg2 = b"\xff\xf3\x40\x00"  # 22,050 Hz, 32 kbit/s: 104 bytes a frame
    assert sniff((mpeg2 + bytes(100)) * 2) == "audio/mpeg"


@given(st.binary(max_size=200))
@example(b"RIFF")
@example(b"\x1aE\xdf\xa3B\x82")
@example(b"\xff\xfb")
def test_any_bytes_have_a_known_type_or_none(data: bytes) -> None:
    assert sniff(data) in KNOWN | {""}
    for sample in SAMPLES.values():
        assert sniff(sample[:40] + data) in KNOWN | {""}


@given(st.binary(max_size=300), st.integers(1, 10))
@example(b"a\x00", 1)
@example("\u0085".encode(), 1)
@example("grüß 👋".encode(), 1)
def test_text_is_utf8_without_controls_however_it_is_cut(data: bytes, size: int) -> None:
    wanted = bool(data)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        wanted = False
    else:
        wanted = wanted and not any(
            unicodedata.category(letter) == "Cc" and letter not in "\t\n\f\r" for letter in text
        )
    assert is_text(data[at : at + size] for at in range(0, len(data), size)) == wanted


@given(st.text(max_size=300), st.sampled_from(sorted(KNOWN)))
@example("../../etc/passwd", "image/png")
@example("C:\\Windows\\con.png", "image/png")
@example("\u202egnp.exe", "image/png")
@example("." * 200, "text/plain")
@example("é" * 200 + ".txt", "text/plain")
@example("con", "text/plain")
def test_a_name_is_made_harmless(name: str, mime: str) -> None:
    clean = clean_name(name, mime)
    assert 0 < len(clean.encode()) <= NAME_BYTES
    assert not set(clean) & set('/\\<>:"|?*\0')
    assert not clean.startswith(".")
    assert clean.rpartition(".")[2].lower() in EXTENSIONS[mime]
    assert all(unicodedata.category(letter) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} for letter in clean)
    assert clean.partition(".")[0].lower() not in {"con", "nul", "aux", "prn", "com1", "lpt9"}
    assert clean_name(clean, mime) == clean


# --- pictures --------------------------------------------------------------------------------------------------------


def stripped(mime: str, data: bytes) -> bytes:
    return b"".join(strip(mime, memoryview(data)).pieces)


@pytest.mark.parametrize("mime", sorted(PICTURES))
def test_stripping_twice_changes_nothing(mime: str) -> None:
    for data in (SAMPLES[mime], picture(mime.partition("/")[2].upper(), 90, 60, exif=exif(8))):
        once = stripped(mime, data)
        assert stripped(mime, once) == once
        assert sniff(once) == mime


@pytest.mark.parametrize("mime", sorted(PICTURES))
def test_a_picture_that_ends_too_early_is_refused(mime: str) -> None:
    data = stripped(mime, SAMPLES[mime])
    for size in range(len(data)):
        with pytest.raises(Malformed):
            strip(mime, memoryview(data)[:size])


@given(st.sampled_from(sorted(PICTURES)), st.data())
def test_changed_pictures_are_malformed_or_pictures(mime: str, data: st.DataObject) -> None:
    raw = bytearray(SAMPLES[mime])
    for _ in range(data.draw(st.integers(1, 5))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Malformed):
        clean = stripped(mime, bytes(raw))
        assert len(clean) <= len(raw) + 64
        assert stripped(mime, clean) == clean


@given(st.sampled_from(sorted(PICTURES)), st.binary(max_size=100))
def test_any_bytes_are_malformed_or_a_picture(mime: str, data: bytes) -> None:
    for start in (b"", SAMPLES[mime][:12], SAMPLES[mime][:40]):
        with contextlib.suppress(Malformed):
            strip(mime, memoryview(start + data))


def test_texts_and_unknown_parts_go() -> None:
    text, own = chunk(b"tEXt", b"Author\0somebody"), chunk(b"prVt", b"somebody")
    data = png(16, 16, chunks=[text, chunk(b"zTXt", b"a\0\0" + bytes(50)), own, chunk(b"pHYs", bytes(9))])
    clean = stripped("image/png", data)
    assert b"somebody" not in clean
    assert b"pHYs" in clean
    with pytest.raises(Malformed, match="not known"):
        stripped("image/png", png(16, 16, chunks=[chunk(b"PRvT", b"")]))


@given(st.integers(1, 8))
def test_an_orientation_is_read_as_it_is_written(orientation: int) -> None:
    assert parse_orientation(build_orientation(orientation)) == orientation
    exif = Image.Exif()
    exif.load(build_orientation(orientation))
    assert dict(exif) == {0x0112: orientation}


@given(st.binary(max_size=60), st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"MM\0*\xff\xff\xff\xff", b""]))
def test_any_tiff_has_an_orientation(data: bytes, start: bytes) -> None:
    assert 1 <= parse_orientation(start + data) <= 8


def test_every_orientation_is_shown_right() -> None:
    for orientation in range(1, 9):
        data = picture("JPEG", 90, 60, exif=exif(orientation))
        found = strip("image/jpeg", memoryview(data))
        with Image.open(io.BytesIO(b"".join(found.pieces))) as image:
            assert image.getexif().get(0x0112, 1) == orientation
        assert found.shown == ((60, 90) if orientation >= 5 else (90, 60))


# --- headers of uploads ----------------------------------------------------------------------------------------------


@given(st.text(max_size=40) | st.integers().map(str))
@example("٣")
@example("1_0")
@example(" 1")
def test_an_offset_is_a_whole_number_or_refused(text: str) -> None:
    with contextlib.suppress(BadRequest):
        number = tus.parse_number(text, "Upload-Offset")
        assert 0 <= number <= tus.MAX_LENGTH
        assert text.isascii()
        assert int(text) == number


KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=","), min_size=1, max_size=20)


@given(st.dictionaries(KEYS, st.text(max_size=50), max_size=10))
def test_metadata_come_through(metadata: dict[str, str]) -> None:
    pairs = [f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in metadata.items()]
    assert tus.parse_metadata(",".join(pairs)) == metadata


@given(st.text(max_size=100) | st.text("abc =,+/", max_size=100))
def test_any_metadata_are_read_or_refused(text: str) -> None:
    with contextlib.suppress(BadRequest):
        assert len(tus.parse_metadata(text)) <= tus.METADATA_KEYS


@given(
    st.text(max_size=100)
    | st.text("sha1256 =+/AQ", max_size=100)
    | st.binary(min_size=20, max_size=20).map(lambda digest: f"sha1 {base64.b64encode(digest).decode()}")
)
def test_any_checksum_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(BadRequest):
        checksum = tus.parse_checksum(text)
        assert checksum is not None
        assert len(checksum.digest) == checksum.make().digest_size
