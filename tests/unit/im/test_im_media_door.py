"""Uploads and files through the provider door's own server, over HTTP/1.1 and HTTP/2: cuts on the wire, slow bodies."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from media_rig import ANN, Rig, eventually, media_rig, picture

from gateway.api.http_protocol import Limits
from gateway.api.ports import Stopping
from gateway.api.server import ApiServer
from gateway.config.sections import Api

UPLOADS = "/v1/im/uploads"
HEADERS = {"authorization": f"Bearer {ANN.hex()}", "tus-resumable": "1.0.0"}
OCTETS = {"content-type": "application/offset+octet-stream"}
TEXT = b"".join(b"line %06d\n" % number for number in range(200_000))


def at(offset: int) -> dict[str, str]:
    return {**OCTETS, "upload-offset": str(offset)}


@asynccontextmanager
async def served(rig: Rig, *, limits: Limits | None = None) -> AsyncIterator[int]:
    backend: Any = SimpleNamespace(
        config=Api(host="127.0.0.1", port=0), metrics=rig.metrics, stopping=Stopping(), keys=None, is_leaving=False
    )
    server = ApiServer(rig.app(), backend, limits=limits)
    await server.start()
    try:
        yield server.port
    finally:
        await server.stop()


@pytest.mark.parametrize("is_http2", [False, True])
async def test_a_file_goes_up_and_comes_down(tmp_path: Path, is_http2: bool) -> None:
    async with media_rig(tmp_path) as rig, served(rig) as port:
        base = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=base, headers=HEADERS, http2=is_http2, http1=not is_http2) as client:
            created = await client.post(UPLOADS, headers={"upload-length": str(len(TEXT))})
            assert created.http_version == ("HTTP/2" if is_http2 else "HTTP/1.1")
            url = created.headers["location"]
            assert (await client.patch(url, headers=at(0), content=TEXT[:1_000_000])).status_code == 204
            head = await client.head(url)
            assert (head.headers["upload-offset"], head.content) == ("1000000", b"")
            assert (await client.patch(url, headers=at(7), content=b"elsewhere")).status_code == 409
            done = await client.patch(url, headers=at(1_000_000), content=TEXT[1_000_000:])
            assert done.status_code == 204
            media = f"/v1/im/media/{done.headers['upload-media']}"
            assert (await client.get(media)).content == TEXT
            part = await client.get(media, headers={"range": "bytes=1000000-2000000"})
            assert (part.status_code, part.content) == (206, TEXT[1_000_000:2_000_001])
            whole = await client.head(media)
            assert (whole.headers["content-length"], whole.content) == (str(len(TEXT)), b"")
            too_long = await client.post(UPLOADS, headers={**OCTETS, "upload-length": "5"}, content=b"123456")
            assert too_long.status_code == 413
            assert (await client.delete(url)).status_code == 204


async def begin(port: int, length: int) -> str:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=HEADERS) as client:
        created = await client.post(UPLOADS, headers={"upload-length": str(length)})
        return created.headers["location"]


async def write_some(
    port: int, url: str, data: bytes, length: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request whose body does not end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"PATCH {url} HTTP/1.1", "host: x", f"content-length: {length}"]
    lines += [f"{name}: {value}" for name, value in {**HEADERS, **at(0)}.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + data)
    await writer.drain()
    return reader, writer


async def test_what_came_before_a_cut_on_the_wire_is_kept(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig, served(rig) as port:
        url = await begin(port, len(TEXT))
        _, writer = await write_some(port, url, TEXT[:700_000], len(TEXT))
        upload = url.rpartition("/")[2]
        await eventually(lambda: rig.uploads.show(ANN, upload).offset >= 262_144)
        writer.transport.abort()
        await eventually(lambda: rig.uploads.show(ANN, upload).offset == 700_000)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=HEADERS) as client:
            done = await client.patch(url, headers=at(700_000), content=TEXT[700_000:])
            assert done.status_code == 204
            assert (await client.get(url)).json()["media"]["sha256"] == hashlib.sha256(TEXT).hexdigest()


async def test_a_body_that_stalls_is_cut_and_its_upload_is_free_again(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig, served(rig, limits=Limits(body_idle_s=0.2)) as port:
        url = await begin(port, len(TEXT))
        reader, writer = await write_some(port, url, TEXT[:100_000], len(TEXT))
        assert await reader.readline() == b"HTTP/1.1 408 Request Timeout\r\n"
        writer.close()
        upload = url.rpartition("/")[2]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=HEADERS) as client:
            # what came before the cut is still being written when the answer is here
            while (done := await client.patch(url, headers=at(100_000), content=TEXT[100_000:])).status_code == 409:
                await eventually(lambda: rig.uploads.show(ANN, upload).offset == 100_000)
            assert done.status_code == 204


async def test_who_leaves_in_the_middle_of_a_file_leaves_no_file_open(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig, served(rig) as port:
        media = await rig.take(picture("PNG", 3_000, 2_000, compress_level=0))
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            request = f"GET /v1/im/media/{media.ref} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ANN.hex()}\r\n\r\n"
            writer.write(request.encode())
            await reader.read(1_000)
            writer.transport.abort()
        await eventually(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before)
