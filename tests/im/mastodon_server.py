"""A Mastodon server of our own for tests: strict. A request that the documentation of Mastodon's API
(docs.joinmastodon.org) does not describe, an unknown parameter, one out of its bounds, is a fault and refused."""

from __future__ import annotations

import asyncio
import contextlib
import html
import itertools
import re
import socket
import urllib.parse
from datetime import UTC, datetime
from email.parser import BytesParser
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_PAGING = {"max_id", "since_id", "min_id"}
_STATUS_FIELDS = {"status", "media_ids", "in_reply_to_id", "sensitive", "spoiler_text", "visibility", "language"}


class Refused(Exception):
    def __init__(self, status: int, error: str) -> None:
        self.status, self.error = status, error


class MastodonServer:
    """`tokens`: token → name of the account. `faults`: what no client may do."""

    def __init__(self, tokens: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._tokens = tokens
        self._ids = itertools.count(110_000_000_000_000_000)
        self.accounts = {
            name: {"id": str(next(self._ids)), "acct": name, "username": name, "display_name": ""}
            for name in tokens.values()
        }
        self.follows: set[tuple[str, str]] = set()
        self.statuses: list[dict[str, Any]] = []
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.media: dict[str, dict[str, Any]] = {}
        self.files: dict[str, tuple[str, bytes]] = {}
        self.keys: dict[tuple[str, str], dict[str, Any]] = {}
        self.faults: list[str] = []
        #: answers to be given before any other: status, headers, body
        self.odd: list[tuple[int, dict[str, str], bytes]] = []
        #: how many posts of a home timeline are kept
        self.kept = 800
        routes = [
            ("/api/v1/accounts/verify_credentials", "GET", self._verify),
            ("/api/v1/accounts/lookup", "GET", self._lookup),
            ("/api/v1/accounts/{id}/following", "GET", self._following),
            ("/api/v1/accounts/{id}/follow", "POST", self._follow),
            ("/api/v1/follow_requests/{id}/authorize", "POST", self._authorize),
            ("/api/v1/timelines/home", "GET", self._home),
            ("/api/v1/notifications", "GET", self._notifications),
            ("/api/v1/statuses", "POST", self._post),
            ("/api/v2/media", "POST", self._upload),
            ("/api/v1/media/{id}", "GET", self._media),
        ]
        app = Starlette(
            routes=[
                *(Route(path, self._guard(run), methods=[method]) for path, method, run in routes),
                Route("/files/{name}", self._file),
            ],
            exception_handlers={404: self._unknown, 405: self._unknown},
        )
        self._app = app
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        config = uvicorn.Config(self._app, "127.0.0.1", self.port, log_config=None, access_log=False, lifespan="off")
        config.timeout_graceful_shutdown = 1
        self._server = uvicorn.Server(config)
        self._task = asyncio.create_task(self._server._serve())
        while not self._server.started:
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        assert self._server is not None
        assert self._task is not None
        self._server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    # --- who asks, and for what

    def _guard(self, run: Any) -> Any:
        async def answer(request: Request) -> Response:
            if self.odd:
                status, headers, body = self.odd.pop(0)
                return Response(body, status, headers)
            kind, _, token = request.headers.get("Authorization", "").partition(" ")
            if kind != "Bearer" or token not in self._tokens:
                return JSONResponse({"error": "The access token is invalid"}, 401)
            try:
                return await run(request, self._tokens[token])
            except Refused as exc:
                return JSONResponse({"error": exc.error}, exc.status)

        return answer

    def _fault(self, text: str) -> Refused:
        self.faults.append(text)
        return Refused(422, text)

    async def _unknown(self, request: Request, exc: Exception) -> Response:
        self.faults.append(f"{request.method} {request.url.path}")
        return JSONResponse({"error": "Record not found"}, 404)

    def _check(self, request: Request, allowed: set[str], most: int = 0) -> dict[str, str]:
        given = set(request.query_params.keys())
        if given - allowed:
            raise self._fault(f"{request.url.path}: {given - allowed}")
        if "limit" in given and not 1 <= int(request.query_params["limit"]) <= most:
            raise self._fault(f"{request.url.path}: limit")
        return dict(request.query_params)

    def _account(self, id: str) -> str:
        for name, account in self.accounts.items():
            if account["id"] == id:
                return name
        raise Refused(404, "Record not found")

    # --- accounts

    async def _verify(self, request: Request, me: str) -> Response:
        self._check(request, set())
        return JSONResponse(self.accounts[me])

    async def _lookup(self, request: Request, me: str) -> Response:
        acct = self._check(request, {"acct"})["acct"]
        if acct not in self.accounts:
            raise Refused(404, "Record not found")
        return JSONResponse(self.accounts[acct])

    async def _following(self, request: Request, me: str) -> Response:
        self._check(request, {*_PAGING, "limit"}, 80)
        whose = self._account(request.path_params["id"])
        followed = sorted(other for who, other in self.follows if who == whose)
        at = int(request.query_params.get("max_id", 0))
        # one on a page: whoever does not turn pages misses some
        more = at + 1 < len(followed)
        url = f"http://127.0.0.1:{self.port}{request.url.path}?max_id={at + 1}"
        headers = {"Link": f'<{url}>; rel="next"'} if more else {}
        return JSONResponse([self.accounts[name] for name in followed[at : at + 1]], headers=headers)

    async def _follow(self, request: Request, me: str) -> Response:
        form = await _parse_form(request)
        if set(form) - {"reblogs", "notify", "languages"}:
            raise self._fault("follow")
        other = self._account(request.path_params["id"])
        self.follows.add((me, other))
        return JSONResponse({"id": request.path_params["id"], "following": True})

    def ask(self, who: str, whom: str) -> None:
        """A request to follow."""
        self._note(whom, "follow_request", who, None)

    async def _authorize(self, request: Request, me: str) -> Response:
        other = self._account(request.path_params["id"])
        self.follows.add((other, me))
        return JSONResponse({"id": request.path_params["id"], "followed_by": True})

    # --- what was posted

    def _page(self, request: Request, rows: list[dict[str, Any]], allowed: set[str], most: int) -> Response:
        where = self._check(request, {*_PAGING, "limit", *allowed}, most)
        limit = int(where.get("limit", most // 2))
        rows = sorted(rows, key=lambda row: int(row["id"]))
        rows = [row for row in rows if int(row["id"]) < int(where.get("max_id", 1 << 62))]
        rows = [row for row in rows if int(row["id"]) > int(where.get("since_id", -1))]
        if "min_id" in where:
            rows = [row for row in rows if int(row["id"]) > int(where["min_id"])][:limit]
        return JSONResponse(rows[-limit:][::-1])

    async def _home(self, request: Request, me: str) -> Response:
        rows = [
            status
            for status in self.statuses
            if status["visibility"] != "direct"
            and (status["account"]["acct"] == me or (me, status["account"]["acct"]) in self.follows)
        ]
        return self._page(request, rows[-self.kept :], set(), 40)

    async def _notifications(self, request: Request, me: str) -> Response:
        types = request.query_params.getlist("types[]")
        rows = [note for whose, note in self.notes if whose == me and note["type"] in types]
        return self._page(request, rows, {"types[]"}, 80)

    def _note(self, whose: str, kind: str, by: str, status: dict[str, Any] | None) -> None:
        note = {"id": str(next(self._ids)), "type": kind, "account": self.accounts[by], "created_at": _now()}
        self.notes.append((whose, note if status is None else {**note, "status": status}))

    async def _post(self, request: Request, me: str) -> Response:
        form = await _parse_form(request)
        given = {name.removesuffix("[]") for name in form}
        if given - _STATUS_FIELDS:
            raise self._fault(f"statuses: {given - _STATUS_FIELDS}")
        key = request.headers.get("Idempotency-Key")
        if key and (me, key) in self.keys:
            return JSONResponse(self.keys[me, key])
        text = str(form.get("status", ""))
        media = form.get("media_ids[]", "").split()
        if not text and not media:
            raise Refused(422, "Validation failed: Text can't be blank")
        if len(text) > 500:
            raise Refused(422, "Validation failed: Text character limit of 500 exceeded")
        if form.get("visibility", "public") not in ("public", "unlisted", "private", "direct"):
            raise self._fault("visibility")
        if any(one not in self.media or self.media[one]["url"] is None for one in media):
            raise Refused(422, "Validation failed: Media is not ready")
        mentioned = [name for name in re.findall(r"@([a-z]+)", text) if name in self.accounts]
        words = html.escape(text, quote=False).replace("\n", "<br>")
        words = re.sub(r"@([a-z]+)", r'<span class="h-card"><a href="x">@<span>\1</span></a></span>', words)
        status = {
            "id": str(next(self._ids)),
            "created_at": _now(),
            "account": self.accounts[me],
            "content": f"<p>{words}</p>" if text else "",
            "visibility": form.get("visibility", "public"),
            "spoiler_text": form.get("spoiler_text", ""),
            "in_reply_to_id": form.get("in_reply_to_id"),
            "mentions": [{"id": self.accounts[name]["id"], "acct": name} for name in mentioned],
            "media_attachments": [self.media[one] for one in media],
            "reblog": None,
        }
        self.statuses.append(status)
        for name in mentioned:
            if name != me:
                self._note(name, "mention", me, status)
        if key:
            self.keys[me, key] = status
        return JSONResponse(status)

    # --- files

    async def _upload(self, request: Request, me: str) -> Response:
        form = await _parse_form(request)
        file = form.get("file")
        if not isinstance(file, tuple) or set(form) - {"file", "thumbnail", "description", "focus"}:
            raise self._fault("media")
        mime, data = file
        id = str(next(self._ids))
        name = f"{id}.{mime.partition('/')[2]}"
        self.files[name] = mime, data
        # in work still: the url comes with the second look
        self.media[id] = {"id": id, "type": "image", "url": None, "meta": {"original": {"width": 1, "height": 1}}}
        return JSONResponse(self.media[id], 202)

    async def _media(self, request: Request, me: str) -> Response:
        id = request.path_params["id"]
        if id not in self.media:
            raise Refused(404, "Record not found")
        name = next(each for each in self.files if each.startswith(id))
        self.media[id]["url"] = f"http://127.0.0.1:{self.port}/files/{name}"
        return JSONResponse(self.media[id])

    async def _file(self, request: Request) -> Response:
        mime, data = self.files[request.path_params["name"]]
        return Response(data, media_type=mime)


async def _parse_form(request: Request) -> dict[str, Any]:
    """Texts, files as (type, bytes), and a list as words."""
    kind, body = request.headers.get("Content-Type", ""), await request.body()
    form: dict[str, Any] = {}
    if kind.startswith("multipart/form-data"):
        message = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
        for part in message.get_payload():
            name = part.get_param("name", header="content-disposition")
            data = part.get_payload(decode=True)
            form[name] = data.decode() if part.get_filename() is None else (part.get_content_type(), data)
        return form
    for name, value in urllib.parse.parse_qsl(body.decode(), keep_blank_values=True):
        form[name] = f"{form[name]} {value}" if name in form and name.endswith("[]") else value
    return form


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
