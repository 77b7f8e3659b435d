"""Requests to a PDS (com.atproto.*) with the library's AsyncClient, as plain JSON: a model of the library would refuse
a whole page for one odd record. Each has a deadline; AuthFailed, Transient and Rejected leave this, and nothing else.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import httpx
import msgspec
from atproto_client import AsyncClient, models
from atproto_client.request import AsyncRequest

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.bluesky.failures import classify
from gateway.im.connectors.bluesky.form import Login
from gateway.im.connectors.bluesky.posts import Uri, parse_uri
from gateway.im.connectors.bluesky.tokens import Tokens
from gateway.im.connectors.pinned import PinnedTransport, fetch_file
from gateway.model.im import AuthFailed, Rejected, Transient

#: of one answer in JSON: a page of the largest posts
_ANSWER_BYTES = 8_388_608
PAGE = 100
T = TypeVar("T")


class PdsClient:
    def __init__(self, login: Login, settings: ConnectorSettings, tls: ssl.SSLContext, tokens: Tokens) -> None:
        self._login, self._settings, self._tokens = login, settings, tokens
        self._has_session = False

        def transport(most_bytes: int) -> PinnedTransport:
            return PinnedTransport(
                tls=tls, has_tls=login.has_tls, allows_private=settings.private_hosts, most_bytes=most_bytes
            )

        timeout = httpx.Timeout(settings.request_s)
        self._request = AsyncRequest(transport=transport(_ANSWER_BYTES), timeout=timeout, trust_env=False)
        self._client = AsyncClient(login.url, request=self._request)
        self._files = httpx.AsyncClient(transport=transport(settings.media_bytes), timeout=timeout, trust_env=False)
        self.did, self.handle = "", ""

    async def close(self) -> None:
        if self._has_session:
            self._tokens.keep(self._login, self._client.export_session_string())
        await self._request.close()
        await self._files.aclose()

    async def log_in(self) -> None:
        if not await self._come_back():
            await self._run(self._log_in, is_login=True)
        self._has_session = True
        session = self._client._session
        uri = None if session is None else parse_uri(f"at://{session.did}/x/x")
        if session is None or uri is None:
            raise Transient("the server does not answer as it should")
        self.did, self.handle = uri.did, session.handle[:253]

    async def _log_in(self) -> None:
        await self._client.login(self._login.handle, self._login.password, fetch_bsky_profile=False)

    async def _come_back(self) -> bool:
        """With the tokens of last time, where the server still takes them."""
        kept = self._tokens.take(self._login)
        if not kept:
            return False

        async def run() -> None:
            await self._client.login(session_string=kept, fetch_bsky_profile=False)
            await self._client.com.atproto.server.get_session()

        try:
            await self._run(run)
        except (AuthFailed, Rejected):
            return False
        except Transient as exc:
            if exc.retry_after_s:
                self._tokens.keep(self._login, kept)
            if exc.is_in_doubt or exc.retry_after_s:
                raise  # it says nothing of the tokens, but the next time the password is asked for
            return False
        return True

    # --- records

    async def list_records(self, did: str, collection: str, *, after: str = "", newest: bool = False) -> list[Any]:
        """One page of a repository, in the order of its keys, behind `after`; or only the newest. Rejected where it is
        not here."""
        params = models.ComAtprotoRepoListRecords.Params(
            repo=did,
            collection=collection,
            cursor=after or None,
            limit=1 if newest else PAGE,
            reverse=not newest,
        )
        answer = await self._query("com.atproto.repo.listRecords", params)
        records = answer.get("records")
        if not isinstance(records, list):
            raise Transient("the server does not answer as it should")
        return records[:PAGE]

    async def describe(self, did: str) -> str:
        """The handle of a repository; empty where it is not here."""
        try:
            answer = await self._query(
                "com.atproto.repo.describeRepo", models.ComAtprotoRepoDescribeRepo.Params(repo=did)
            )
        except Rejected:
            return ""
        handle = answer.get("handle")
        return handle[:253] if isinstance(handle, str) else ""

    async def resolve_handle(self, handle: str) -> str:
        answer = await self._query(
            "com.atproto.identity.resolveHandle", models.ComAtprotoIdentityResolveHandle.Params(handle=handle)
        )
        uri = parse_uri(f"at://{answer.get('did')}/x/x")
        if uri is None:
            raise Rejected("there is nobody of this handle")
        return uri.did

    async def get_reference(self, uri: Uri) -> dict[str, Any]:
        """A record as another one names it: uri and cid, and what it answers itself."""
        answer = await self._query(
            "com.atproto.repo.getRecord",
            models.ComAtprotoRepoGetRecord.Params(repo=uri.did, collection=uri.collection, rkey=uri.rkey),
        )
        cid, value = answer.get("cid"), answer.get("value")
        if not isinstance(cid, str):
            raise Transient("the server does not answer as it should")
        reply = value.get("reply") if isinstance(value, dict) else None
        root = reply.get("root") if isinstance(reply, dict) else None
        return {"uri": str(uri), "cid": cid, "root": root if isinstance(root, dict) else None}

    async def put_record(self, collection: str, rkey: str, record: Mapping[str, Any]) -> str:
        """Its uri; the same record at the same key is the same."""
        body = {"repo": self.did, "collection": collection, "rkey": rkey, "record": record}
        answer = await self._post("com.atproto.repo.putRecord", msgspec.json.encode(body), "application/json")
        uri = parse_uri(answer.get("uri"))
        if uri is None:
            raise Transient("the server does not answer as it should")
        return str(uri)

    # --- what a PDS asks its AppView for

    async def has_timeline(self) -> bool:
        """A network of one's own may have none. Transient where the server is busy."""
        try:
            await self.get_timeline("", 1)
        except Rejected:
            return False
        except Transient as exc:
            if exc.retry_after_s:
                raise
            return False
        return True

    async def get_timeline(self, cursor: str, limit: int) -> tuple[list[Any], str]:
        """One page, the newest first, and where the next begins; empty: nowhere."""
        params = models.AppBskyFeedGetTimeline.Params(cursor=cursor or None, limit=limit)
        return _check_page(await self._query("app.bsky.feed.getTimeline", params), "feed")

    async def get_follows(self, cursor: str) -> tuple[list[Any], str]:
        params = models.AppBskyGraphGetFollows.Params(actor=self.did, cursor=cursor or None, limit=PAGE)
        return _check_page(await self._query("app.bsky.graph.getFollows", params), "follows")

    # --- files

    def fetch_url(self, url: str) -> AsyncIterator[bytes]:
        """Of the network's picture server."""
        return fetch_file(self._files, url, request_s=self._settings.request_s)

    async def upload(self, data: bytes, mime: str) -> dict[str, Any]:
        answer = await self._post("com.atproto.repo.uploadBlob", data, mime)
        blob = answer.get("blob")
        if not isinstance(blob, dict):
            raise Transient("the server does not answer as it should")
        return blob

    def fetch_blob(self, did: str, cid: str) -> AsyncIterator[bytes]:
        url = self._client._build_url("com.atproto.sync.getBlob")
        params = {"did": did, "cid": cid}
        return fetch_file(self._files, url, params=params, request_s=self._settings.request_s)

    # --- how

    async def _query(self, name: str, params: Any) -> dict[str, Any]:
        async def run() -> Any:
            return (await self._client.invoke_query(name, params=params)).content

        return _check_object(await self._run(run))

    async def _post(self, name: str, content: bytes, mime: str) -> dict[str, Any]:
        async def run() -> Any:
            answer = await self._client.invoke_procedure(name, content=content, headers={"Content-Type": mime})
            return answer.content

        return _check_object(await self._run(run))

    async def _run(self, request: Callable[[], Awaitable[T]], *, is_login: bool = False) -> T:
        try:
            async with asyncio.timeout(self._settings.request_s):
                return await request()
        except TimeoutError:
            raise Transient("the server does not answer in time", is_in_doubt=True) from None
        except Exception as exc:  # the library lets through whatever a server makes it stumble over
            raise classify(exc, is_login=is_login) from None


def _check_object(answer: object) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise Transient("the server does not answer as it should")
    return answer


def _check_page(answer: dict[str, Any], name: str) -> tuple[list[Any], str]:
    rows, cursor = answer.get(name), answer.get("cursor")
    if not isinstance(rows, list):
        raise Transient("the server does not answer as it should")
    return rows[:PAGE], cursor if isinstance(cursor, str) and len(cursor) <= 1_000 else ""
