"""One file as an answer: whole, a part, or its headers alone; a browser that opens it is told to save it, whatever it
is. Must never read a file on the control thread, nor hold more of it than a piece.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.model.errors import NotFound
from gateway.model.im_media import StoredMedia

_PIECE = 262_144


class Unsatisfiable(Exception):
    """The range lies behind the end."""


def parse_range(text: str | None, size: int) -> tuple[int, int] | None:
    """(first, behind the last) of one range of bytes (RFC 9110 §14.2); None: the whole file, also where more than one
    is asked for or it is not readable. Unsatisfiable."""
    if text is None:
        return None
    unit, _, ranges = text.partition("=")
    first, dash, last = (part.strip(" \t") for part in ranges.partition("-"))
    numbers = (first, last)
    if unit.strip().lower() != "bytes" or not dash or not (first or last):
        return None
    if any(part and not (part.isascii() and part.isdecimal() and len(part) < 20) for part in numbers):
        return None
    if not first:
        length = int(last)
        if not length or not size:
            raise Unsatisfiable
        return max(0, size - length), size
    start, end = int(first), int(last) + 1 if last else size
    if end <= start and last:
        return None
    if start >= size:
        raise Unsatisfiable
    return start, min(end, size)


def build_disposition(name: str) -> str:
    """Content-Disposition (RFC 6266): a name of ASCII for the old ones, the right one in UTF-8 (RFC 8187)."""
    plain = "".join(
        letter if letter.isascii() and letter.isprintable() and letter not in '"\\%;' else "_" for letter in name
    )
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def build_headers(media: StoredMedia, max_age_s: int) -> dict[str, str]:
    return {
        "content-type": f"{media.mime}; charset=utf-8" if media.mime.startswith("text/") else media.mime,
        "content-disposition": build_disposition(media.name),
        "etag": f'"{media.digest.hex()}"',
        "accept-ranges": "bytes",
        "cache-control": f"private, max-age={max_age_s}, no-transform",
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox; default-src 'none'",
        "referrer-policy": "no-referrer",
        "x-robots-tag": "noindex, nofollow",
    }


async def open_file(path: Path) -> int:
    """A descriptor. NotFound where somebody took the file away."""
    try:
        return await asyncio.to_thread(partial(os.open, path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        raise NotFound("There is no such file.") from None


class FileAnswer(Response):
    """Owns the descriptor, and closes it."""

    def __init__(self, descriptor: int, media: StoredMedia, request: Headers, max_age_s: int) -> None:
        self._descriptor = descriptor
        self._start, self._end = 0, media.size
        headers = build_headers(media, max_age_s)
        status, etag = 200, headers["etag"]
        if _matches(request.get("if-none-match"), etag):
            status, self._end = 304, 0
        else:
            # a part of another version would be worse than the whole of this one
            asked = request.get("range") if request.get("if-range", etag) == etag else None
            try:
                part = parse_range(asked, media.size)
            except Unsatisfiable:
                status, self._end = 416, 0
                headers["content-range"] = f"bytes */{media.size}"
            else:
                if part is not None:
                    status, (self._start, self._end) = 206, part
                    headers["content-range"] = f"bytes {self._start}-{self._end - 1}/{media.size}"
        if status != 304:
            headers["content-length"] = str(self._end - self._start)
        super().__init__(status_code=status)
        self.raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  (ASGI)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            at = self._start if scope["method"] != "HEAD" else self._end
            while at < self._end:
                piece = await asyncio.to_thread(os.pread, self._descriptor, min(_PIECE, self._end - at), at)
                if not piece:
                    raise OSError("a file of the media store is shorter than it was")
                at += len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            os.close(self._descriptor)


def _matches(tags: str | None, etag: str) -> bool:
    """RFC 9110 §13.1.2: weak comparison."""
    return tags is not None and (
        tags.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in tags.split(","))
    )
