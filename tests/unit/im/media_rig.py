"""A media store in a folder, its door as an application, and pictures and other files to bring to it."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route as StarletteRoute

from gateway.api.call import Call
from gateway.api.door import Observer, build_endpoint
from gateway.api.im.links import MediaRoutes, media_routes
from gateway.api.im.uploads import UploadRoutes, upload_routes
from gateway.api.route import Route
from gateway.config.im_section import Im
from gateway.config.sections import Api
from gateway.config.sections import Store as StoreConfig
from gateway.im.media.library import Library
from gateway.im.media.links import Links
from gateway.im.media.uploads import Uploads
from gateway.metrics import Metric, Metrics
from gateway.model.errors import Unauthorized
from gateway.model.im import Media
from gateway.store import Store

START_MS = 1_800_000_000_000
ANN, BEN = b"a" * 16, b"b" * 16
BASE = "https://push.example"


class Clock:
    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        return self.now_ms


class Rig:
    """Everything there is of media, over one store."""

    def __init__(self, store: Store, config: Im, metrics: Metrics, clock: Clock) -> None:
        self.store = store
        self.config = config
        self.metrics = metrics
        self.clock = clock
        self.links = Links(b"k" * 32, lambda: BASE, config.link_s, clock)
        self.library = Library(store.im_media, store.im_media_files, self.links, config, metrics, clock)
        self.uploads = Uploads(store.im_uploads, self.library, config, metrics, clock)

    @property
    def folder(self) -> Path:
        return self.store.im_media_files.folder

    async def take(self, data: bytes, name: str = "a file", *, user: bytes = ANN) -> Media:
        return await self.library.take(pieces(data), user=user, media=Media("remote", name=name))

    def stored(self) -> list[Path]:
        """Files that have a name of their own."""
        return [path for path in self.folder.glob("[0-9a-f][0-9a-f]/*") if path.is_file()]

    def parts(self) -> list[Path]:
        return list((self.folder / "parts").iterdir())

    def counted(self, metric: Metric, label: str) -> float:
        return self.metrics.counters.get((metric, label), 0)

    def app(self) -> Starlette:
        return build_door(self.library, self.uploads, self.config, self.metrics)

    @asynccontextmanager
    async def door(self, user: bytes = ANN) -> AsyncIterator[httpx.AsyncClient]:
        headers = {"authorization": f"Bearer {user.hex()}", "tus-resumable": "1.0.0"}
        transport = httpx.ASGITransport(self.app(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=BASE, headers=headers) as client:
            yield client


def authorize(call: Call) -> bytes:
    """For tests the key is the user."""
    scheme, _, key = call.request.headers.get("authorization", "").partition(" ")
    if scheme != "Bearer" or len(key) != 32:
        raise Unauthorized
    return bytes.fromhex(key)


def door_routes(library: Library, uploads: Uploads, config: Im, metrics: Metrics) -> list[Route]:
    return [
        *upload_routes(UploadRoutes(uploads, authorize, config.media_bytes)),
        *media_routes(MediaRoutes(library, authorize, metrics)),
    ]


def build_door(library: Library, uploads: Uploads, config: Im, metrics: Metrics) -> Starlette:
    backend: Any = SimpleNamespace(config=Api(), keys=None, metrics=metrics, is_leaving=False)
    by_path: dict[str, dict[str, Route]] = {}
    for route in door_routes(library, uploads, config, metrics):
        by_path.setdefault(route.path, {})[route.method] = route
    return Starlette(
        routes=[
            StarletteRoute(path, build_endpoint(backend, methods), methods=list(methods))
            for path, methods in by_path.items()
        ],
        middleware=[Middleware(Observer, backend=backend)],
    )


@asynccontextmanager
async def media_rig(folder: Path, clock: Clock | None = None, **settings: Any) -> AsyncIterator[Rig]:
    clock = clock or Clock()
    metrics = Metrics(process=False)
    store = await Store.open(
        StoreConfig(path=str(folder), max_bytes=1 << 26, commit_ms=0.2),
        metrics,
        clock=clock,
        probe_s=3_600.0,
        tick_s=3_600.0,
    )
    rig = Rig(store, Im(**settings), metrics, clock)
    try:
        await rig.library.start()
        await rig.uploads.start()
        yield rig
    finally:
        await rig.uploads.stop()
        await rig.library.stop()
        await store.close()


async def eventually(check: Callable[[], bool]) -> None:
    """Disk work that nobody waits for: soon."""
    async with asyncio.timeout(60):
        while not check():
            await asyncio.sleep(0.005)


async def pieces(data: bytes, size: int = 50_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


# --- files ----------------------------------------------------------------------------------------------------------

PLACE = "Exif with a place in it"


def picture(kind: str, width: int = 640, height: int = 480, *, mode: str = "RGB", **options: Any) -> bytes:
    """With colours that differ, so that it does not shrink to nothing."""
    image = Image.radial_gradient("L").resize((width, height)).convert(mode)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation: int = 1) -> Image.Exif:
    """With a place, a maker, and an orientation."""
    out = Image.Exif()
    out[0x0112] = orientation
    out[0x010F] = PLACE
    out.get_ifd(0x8825).update({1: "N", 2: (48.0, 12.0, 3.6), 3: "E", 4: (16.0, 22.0, 10.2)})
    return out


def moving(kind: str, frames: int, size: tuple[int, int] = (64, 48)) -> bytes:
    images = [Image.new("RGB", size, (index * 7 % 256, 20, 200)) for index in range(frames)]
    out = io.BytesIO()
    images[0].save(out, kind, save_all=True, append_images=images[1:], duration=40, loop=0, minimize_size=False)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *, chunks: Sequence[bytes] = (), data: bytes | None = None) -> bytes:
    """Grey, one bit a pixel: a huge one is small."""
    if data is None:
        row = bytes(1 + (width + 7) // 8)
        packer = zlib.compressobj(9)
        data = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


WAV = b"RIFF" + struct.pack("<I", 36 + 800) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8)
WAV += b"data" + struct.pack("<I", 800) + bytes(800)
MP4 = struct.pack(">I", 24) + b"ftypisom" + bytes(4) + b"isommp41" + struct.pack(">I", 8) + b"mdat"
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
