"""An AppView of our own for tests: what a PDS asks for a home timeline. It reads the posts from the PDS itself, and
sorts them as Bluesky does; strict about who asks (a service token of the PDS) and for what."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


class AppView:
    """`authors`: DID → name of those whose posts are in the timeline."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.pds = ""
        self.authors: dict[str, str] = {}
        self.is_away = False
        self.asked = 0
        app = Starlette(
            routes=[
                Route("/xrpc/app.bsky.feed.getTimeline", self._timeline),
                Route("/xrpc/app.bsky.graph.getFollows", self._follows),
            ]
        )
        config = uvicorn.Config(app, "127.0.0.1", self.port, log_config=None, access_log=False, lifespan="off")
        config.timeout_graceful_shutdown = 1
        self._server = uvicorn.Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server._serve())
        while not self._server.started:
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        assert self._task is not None
        self._server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def _refuse(self, request: Request, allowed: set[str]) -> Response | None:
        self.asked += 1
        if self.is_away:
            return JSONResponse({"error": "UpstreamFailure"}, 502)
        if not request.headers.get("Authorization", "").startswith("Bearer "):
            return JSONResponse({"error": "AuthMissing"}, 401)
        if set(request.query_params) - allowed:
            return JSONResponse({"error": "InvalidRequest"}, 400)
        return None

    def _profile(self, did: str) -> dict[str, Any]:
        return {"did": did, "handle": f"{self.authors[did]}.test", "displayName": self.authors[did]}

    async def _timeline(self, request: Request) -> Response:
        refused = self._refuse(request, {"limit", "cursor", "algorithm"})
        if refused is not None:
            return refused
        rows: list[dict[str, Any]] = []
        async with httpx.AsyncClient() as client:
            for did in self.authors:
                params = {"repo": did, "collection": "app.bsky.feed.post", "limit": "100"}
                answer = await client.get(f"{self.pds}/xrpc/com.atproto.repo.listRecords", params=params)
                for record in answer.json()["records"]:
                    post = {
                        "uri": record["uri"],
                        "cid": record["cid"],
                        "author": self._profile(did),
                        "record": record["value"],
                        "indexedAt": record["value"]["createdAt"],
                    }
                    rows.append({"post": post})
        rows.sort(key=lambda row: (row["post"]["indexedAt"], row["post"]["uri"]), reverse=True)
        at, limit = int(request.query_params.get("cursor", "0")), int(request.query_params.get("limit", "50"))
        more = {"cursor": str(at + limit)} if at + limit < len(rows) else {}
        return JSONResponse({"feed": rows[at : at + limit], **more})

    async def _follows(self, request: Request) -> Response:
        refused = self._refuse(request, {"actor", "limit", "cursor"})
        if refused is not None:
            return refused
        return JSONResponse({"follows": [self._profile(did) for did in self.authors], "subject": {}})
