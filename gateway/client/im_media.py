"""Files of IM (D6, D7): brought to the gateway by tus 1.0 and fetched from it, over HTTP and with a session key; must
never send again what the gateway has."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType

import httpx

#: bytes of one request; what was taken of it stays when the connection breaks
PIECE = 1 << 20
#: tries of one piece, and the pause before each but the first
TRIES, PAUSE_S = 5, 0.5
_TUS = {"tus-resumable": "1.0.0"}


class ImMedia:
    """`async with ImMedia("https://push.example", await im.session_key()) as media: ref = await media.upload(path)`

    Give `ref` to `Im.send` as `media=[ref]`. httpx.HTTPStatusError where the gateway refuses: its body says why.
    """

    def __init__(self, url: str, key: str, *, timeout_s: float = 60.0) -> None:
        headers = {"authorization": f"Bearer {key}"}
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout_s, trust_env=False)

    async def __aenter__(self) -> ImMedia:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def upload(self, file: Path, name: str = "") -> str:
        """Its name in the gateway's media store."""
        size = await asyncio.to_thread(lambda: file.stat().st_size)
        meta = "filename " + base64.b64encode((name or file.name).encode()).decode()
        made = await self._http.post(
            "/v1/im/uploads", headers={**_TUS, "upload-length": str(size), "upload-metadata": meta}
        )
        made.raise_for_status()
        place = made.headers["location"]
        offset, answer = 0, made
        while offset < size:
            answer = await self._piece(place, file, offset)
            offset = int(answer.headers["upload-offset"])
        return str(answer.headers["upload-media"])

    async def _piece(self, place: str, file: Path, offset: int) -> httpx.Response:
        """What comes behind the offset; after a lost connection behind the one that the gateway says."""
        for left in reversed(range(TRIES)):
            data = await asyncio.to_thread(_read, file, offset)
            kind = {"content-type": "application/offset+octet-stream", "upload-offset": str(offset)}
            try:
                answer = await self._http.patch(place, headers={**_TUS, **kind}, content=data)
            except httpx.TransportError:
                if not left:
                    raise
                await asyncio.sleep(PAUSE_S)
                told = await self._http.head(place, headers=_TUS)
                told.raise_for_status()
                offset = int(told.headers["upload-offset"])
                if "upload-media" in told.headers:
                    return told  # all of it had arrived
            else:
                answer.raise_for_status()
                return answer
        raise AssertionError

    async def fetch(self, ref: str) -> AsyncIterator[bytes]:
        """The bytes of a file that came in a message, in pieces."""
        async with self._http.stream("GET", f"/v1/im/media/{ref}") as answer:
            answer.raise_for_status()
            async for piece in answer.aiter_bytes():
                yield piece


def _read(file: Path, offset: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(offset)
        return opened.read(PIECE)
