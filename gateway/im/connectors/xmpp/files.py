"""Files of XMPP: they go over HTTP (XEP-0363, XEP-0066); must reach no host that a user may not name, and take no more
bytes than is allowed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

import httpx

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.hosts import resolve
from gateway.im.connectors.xmpp import words
from gateway.im.connectors.xmpp.errors import StanzaError
from gateway.im.connectors.xmpp.outgoing import clean
from gateway.im.connectors.xmpp.stream import Stream
from gateway.im.connectors.xmpp.words import Element, element
from gateway.model.im import Media, MediaFile, Rejected, Transient

CHUNK_BYTES = 65_536
#: services of a server that are looked at for one that takes files
SERVICES = 20
#: what a slot may ask to be sent with the file (XEP-0363 §4)
_HEADERS = {"authorization", "cookie", "expires"}


class Slot(NamedTuple):
    put: str
    get: str
    headers: dict[str, str]


class Files:
    """Of one session. `allows_plain`: where the account's form says that there is no TLS."""

    def __init__(
        self, stream: Stream, settings: ConnectorSettings, context: ssl.SSLContext, *, allows_plain: bool
    ) -> None:
        self._stream, self._settings, self._context = stream, settings, context
        self._allows_plain = allows_plain
        #: address and largest file of the service; None: not looked for yet
        self._service: tuple[str, int] | None = None

    # --- out

    async def upload(self, file: MediaFile) -> str:
        """Where others fetch it. Transient, Rejected."""
        size = await asyncio.to_thread(_size, file.path)
        service, most = await self._find_service()
        if most and size > most:
            raise Rejected(f"media: the account's server takes {most:,} bytes")
        request = element(
            f"{words.UPLOAD}request",
            filename=clean(file.media.name) or "file",
            size=str(size),
            **{"content-type": file.media.mime},
        )
        try:
            slot = parse_slot(await self._stream.ask(request, to=service))
        except StanzaError as exc:
            raise exc.as_failure() from None
        headers = {**slot.headers, "Content-Type": file.media.mime, "Content-Length": str(size)}
        try:
            async with self._request("PUT", slot.put, headers, _read(file.path)) as answer:
                status = answer.status_code
        except OSError:
            raise Rejected("media: the file can not be read any more") from None
        _check_status(status, (200, 201))
        return slot.get

    async def _find_service(self) -> tuple[str, int]:
        if self._service is None:
            domain = self._stream.default_domain
            try:
                items = await self._stream.ask(element(f"{words.DISCO_ITEMS}query"), to=domain)
            except StanzaError as exc:
                raise exc.as_failure() from None
            found = [
                item.get("jid", "") for item in items.iterfind(f"{words.DISCO_ITEMS}query/{words.DISCO_ITEMS}item")
            ]
            for service in [domain, *filter(None, found[:SERVICES])]:
                try:
                    info = await self._stream.ask(element(f"{words.DISCO_INFO}query"), to=service)
                except StanzaError:
                    continue
                most = parse_service(info)
                if most is not None:
                    self._service = (service, most)
                    break
            else:
                raise Rejected("media: the account's server takes no files")
        return self._service

    # --- in

    async def fetch(self, media: Media) -> AsyncIterator[bytes]:
        """Transient, Rejected."""
        most, got = self._settings.media_bytes, 0
        async with self._request("GET", media.ref, {}) as answer:
            _check_status(answer.status_code, (200,))
            length = answer.headers.get("content-length", "")
            if length.isascii() and length.isdigit() and int(length[:20]) > most:
                raise Rejected(f"media: larger than {most:,} bytes")
            async for piece in _pieces(answer):
                got += len(piece)
                if got > most:
                    raise Rejected(f"media: larger than {most:,} bytes")
                yield piece

    def _request(
        self, method: str, url: str, headers: dict[str, str], content: AsyncIterator[bytes] | None = None
    ) -> _Request:
        return _Request(self, method, url, headers, content)

    def client(self) -> httpx.AsyncClient:
        """For one request: no cookies, no proxies, no redirects, and nothing that stays open."""
        return httpx.AsyncClient(
            verify=self._context, trust_env=False, follow_redirects=False, timeout=self._settings.request_s
        )

    async def addresses(self, url: SplitResult) -> list[str]:
        schemes = ("https", "http") if self._allows_plain else ("https",)
        if url.scheme not in schemes or not url.hostname:
            raise Rejected("media: only links of HTTPS are followed")
        return await resolve(url.hostname, url_port(url), allows_private=self._settings.private_hosts)


class _Request:
    """One request to one of the addresses that the host has, as a context."""

    def __init__(
        self, files: Files, method: str, url: str, headers: dict[str, str], content: AsyncIterator[bytes] | None
    ) -> None:
        self._files, self._method, self._url = files, method, url
        self._headers, self._content = headers, content
        self._client: httpx.AsyncClient | None = None
        self._answer: httpx.Response | None = None

    async def __aenter__(self) -> httpx.Response:
        url = parse_url(self._url)
        addresses = await self._files.addresses(url)
        self._client = self._files.client()
        for address in addresses:
            host = f"[{address}]" if ":" in address else address
            netloc = f"{host}:{url_port(url)}"
            request = self._client.build_request(
                self._method,
                url._replace(netloc=netloc, fragment="").geturl(),
                headers={**self._headers, "Host": url.netloc.rpartition("@")[2]},
                content=self._content,
                extensions={"sni_hostname": url.hostname},
            )
            try:
                self._answer = await self._client.send(request, stream=True)
                return self._answer
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError):
                break
            except BaseException:
                await self._client.aclose()
                raise
        await self._client.aclose()
        raise Transient("the server of the file does not answer")

    async def __aexit__(self, *_: object) -> None:
        if self._answer is not None:
            await self._answer.aclose()
        if self._client is not None:
            await self._client.aclose()


def parse_url(url: str) -> SplitResult:
    """Rejected."""
    try:
        parsed = urlsplit(url)
        url_port(parsed)
        if not url.isprintable() or not url.isascii():
            raise ValueError
    except ValueError:
        raise Rejected("media: its link is no address of a file") from None
    return parsed


def url_port(url: SplitResult) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def parse_slot(answer: Element) -> Slot:
    """Rejected where it is none."""
    slot = answer.find(f"{words.UPLOAD}slot")
    put = None if slot is None else slot.find(f"{words.UPLOAD}put")
    get = None if slot is None else slot.find(f"{words.UPLOAD}get")
    if put is None or get is None or not put.get("url") or not get.get("url"):
        raise Rejected("media: the account's server gave no place for the file")
    headers = {}
    for header in put.iterfind(f"{words.UPLOAD}header"):
        name, value = header.get("name", "").strip(), (header.text or "").strip()
        if name.lower() in _HEADERS and value.isprintable() and value.isascii() and len(value) <= 8_192:
            headers[name] = value
    return Slot(put.get("url", ""), clean(get.get("url", "")), headers)


def parse_service(info: Element) -> int | None:
    """The largest file it takes, 0 where it does not say; None where it takes none."""
    query = info.find(f"{words.DISCO_INFO}query")
    if query is None:
        return None
    features = {feature.get("var") for feature in query.iterfind(f"{words.DISCO_INFO}feature")}
    if words.UPLOAD[1:-1] not in features:
        return None
    for field in query.iterfind(f"{words.FORM}x/{words.FORM}field"):
        value = field.findtext(f"{words.FORM}value") or ""
        if field.get("var") == "max-file-size" and value.isascii() and value.isdigit() and len(value) < 19:
            return int(value)
    return 0


def _check_status(status: int, good: tuple[int, ...]) -> None:
    if status in good:
        return
    if status == 429 or status >= 500:
        raise Transient(f"the server of the file answers {status}")
    raise Rejected(f"media: the server of the file answers {status}")


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        raise Rejected("media: the file can not be read any more") from None


async def _read(path: str) -> AsyncIterator[bytes]:
    with Path(path).open("rb") as file:  # noqa: ASYNC230 - a local disk, in small pieces
        while piece := file.read(CHUNK_BYTES):
            yield piece


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw(CHUNK_BYTES):
            yield piece
    except httpx.HTTPError:
        raise Transient("the server of the file went away") from None
