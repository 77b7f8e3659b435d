"""Media and uploads as they are stored (D6, D7); nothing here may show a name by being printed."""

from __future__ import annotations

import msgspec

REF_BYTES = 16
_PREFIX = "media_"
_UPLOAD_PREFIX = "upload_"
#: ends of names, the usual one first
EXTENSIONS: dict[str, tuple[str, ...]] = {
    "image/jpeg": ("jpg", "jpeg"),
    "image/png": ("png", "apng"),
    "image/gif": ("gif",),
    "image/webp": ("webp",),
    "image/heic": ("heic",),
    "image/avif": ("avif",),
    "audio/mpeg": ("mp3",),
    "audio/ogg": ("ogg", "oga", "opus"),
    "audio/mp4": ("m4a",),
    "audio/wav": ("wav",),
    "audio/flac": ("flac",),
    "audio/aac": ("aac",),
    "video/mp4": ("mp4", "m4v"),
    "video/webm": ("webm",),
    "video/ogg": ("ogv",),
    "video/quicktime": ("mov",),
    "video/x-matroska": ("mkv",),
    "application/pdf": ("pdf",),
    "application/zip": ("zip",),
    "text/plain": ("txt",),
}
#: types that can be told from bytes (gateway/im/media/sniffing.py): what may stand in im.media_types
KNOWN = frozenset(EXTENSIONS)


def build_ref(ref: bytes) -> str:
    """As it is shown: `media_` and 32 hex digits."""
    return _PREFIX + ref.hex()


def parse_ref(text: str) -> bytes | None:
    return _parse(text, _PREFIX)


def build_upload_id(upload: bytes) -> str:
    return _UPLOAD_PREFIX + upload.hex()


def parse_upload_id(text: str) -> bytes | None:
    return _parse(text, _UPLOAD_PREFIX)


def _parse(text: str, prefix: str) -> bytes | None:
    digits = text.removeprefix(prefix)
    if digits == text or len(digits) != 2 * REF_BYTES or any(digit not in "0123456789abcdef" for digit in digits):
        return None
    return bytes.fromhex(digits)


class StoredMedia(msgspec.Struct, array_like=True, frozen=True):
    """What a ref stands for. Several may be the same file, each with a name of its own."""

    #: SHA-256 of the file
    digest: bytes
    size: int
    #: what it is
    mime: str
    name: str = ""
    #: pixels; 0: no picture
    width: int = 0
    height: int = 0
    #: ref of a small picture of it; empty: none
    thumbnail: bytes = b""

    def __repr__(self) -> str:
        return f"StoredMedia({self.mime}, {self.size} bytes)"


class StoredUpload(msgspec.Struct, array_like=True, frozen=True):
    """An upload under way, or over: what came of it is told until it expires. How much of it is here, the file says."""

    upload: bytes
    user: bytes
    length: int
    name: str
    expires_ms: int
    #: of the media it became; empty: not yet
    ref: bytes = b""
    #: why it was not taken; empty: it was, or is under way
    refused: str = ""

    @property
    def is_over(self) -> bool:
        return bool(self.ref or self.refused)

    def __repr__(self) -> str:
        return f"StoredUpload({self.length} bytes)"
