"""Resumable uploads of signed-in users: tus 1.0.0 over HTTP (D6, D7); must never hold more of a body than a piece."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from starlette.responses import Response

from gateway.api.call import Call
from gateway.api.door import answer_error
from gateway.api.route import USER, Query, Route
from gateway.im.media import tus
from gateway.im.media.uploads import Uploads, View
from gateway.model.errors import (
    AcceptTimeout,
    BadRequest,
    ChecksumMismatch,
    Conflict,
    GatewayError,
    Gone,
    NotFound,
    NotSignedIn,
    PayloadTooLarge,
    PreconditionFailed,
    QueueFull,
    StoreUnavailable,
    TooManyRequests,
    UnsupportedMedia,
)
from gateway.model.im import Media

PATH = "/v1/im/uploads"
_ONE = PATH + "/{id}"
#: metadata of an upload that say what the file is called
_NAMES = ("filename", "name")

#: whose session key came; NotSignedIn
Authorize = Callable[[Call], bytes]
_Handler = Callable[[Call], Awaitable[Response]]


class UploadView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How far an upload is, and what it became."""

    id: str
    offset: int
    length: int
    expires_at: int
    #: what it became: its `ref` goes into a message
    media: Media | None = None
    #: why it became nothing
    refused: str = ""


class UploadRoutes:
    def __init__(self, uploads: Uploads, authorize: Authorize, max_bytes: int) -> None:
        self._uploads = uploads
        self._authorize = authorize
        self._max_bytes = max_bytes

    # --- tus ------------------------------------------------------------------------------------------------------

    async def options(self, _call: Call) -> Response:
        headers = {
            "tus-version": tus.VERSION,
            "tus-extension": tus.EXTENSIONS,
            "tus-max-size": str(self._max_bytes),
            "tus-checksum-algorithm": tus.ALGORITHMS,
        }
        return _answer(204, headers)

    async def create(self, call: Call) -> Response:
        user = self._authorize(call)
        header = call.request.headers.get
        if header("upload-defer-length") is not None:
            raise BadRequest("the length has to be said at once", field="Upload-Defer-Length")
        length = tus.parse_number(header("upload-length"), "Upload-Length")
        if not length:
            raise BadRequest("an empty file is not taken", field="Upload-Length")
        metadata = tus.parse_metadata(header("upload-metadata"))
        name = next((metadata[key] for key in _NAMES if key in metadata), "")
        checksum = tus.parse_checksum(header("upload-checksum"))
        has_bytes = header("content-type") is not None
        if has_bytes:
            _check_type(call)
            _check_length(call, length)
        view = await call.committed(self._uploads.create(user, length, name))
        if has_bytes:
            view = await self._uploads.append(user, view.id, 0, _pieces(call), checksum)
            _check_taken(view)
        return _answer(201, {"location": f"{PATH}/{view.id}", **_state(view)})

    async def head(self, call: Call) -> Response:
        user = self._authorize(call)
        return _answer(200, _state(self._uploads.show(user, call.path("id"))))

    async def append(self, call: Call) -> Response:
        user = self._authorize(call)
        header = call.request.headers.get
        _check_type(call)
        offset = tus.parse_number(header("upload-offset"), "Upload-Offset")
        checksum = tus.parse_checksum(header("upload-checksum"))
        view = self._uploads.show(user, call.path("id"))
        if offset <= view.length:
            _check_length(call, view.length - offset)
        view = await self._uploads.append(user, call.path("id"), offset, _pieces(call), checksum)
        _check_taken(view)
        return _answer(204, _state(view))

    async def terminate(self, call: Call) -> Response:
        user = self._authorize(call)
        await call.committed(self._uploads.terminate(user, call.path("id")))
        return _answer(204, {})

    async def override(self, call: Call) -> Response:
        """For those who can send nothing but GET and POST."""
        methods: dict[str, _Handler] = {"PATCH": self.append, "DELETE": self.terminate, "HEAD": self.head}
        handle = methods.get(call.request.headers.get("x-http-method-override", ""))
        if handle is None:
            raise BadRequest("expected PATCH, DELETE or HEAD", field="X-HTTP-Method-Override")
        return await handle(call)

    # --- ours -----------------------------------------------------------------------------------------------------

    async def show(self, call: Call) -> Response:
        user = self._authorize(call)
        view = await self._uploads.settle(user, call.path("id"))
        return call.answer(
            UploadView(
                id=view.id,
                offset=view.offset,
                length=view.length,
                expires_at=view.expires_ms // 1_000,
                media=view.media,
                refused=view.refused,
            )
        )


def _speaks_tus(handle: _Handler) -> _Handler:
    """Every answer names the version; a request that asks for another one goes no further."""

    async def speaking(call: Call) -> Response:
        try:
            if call.request.headers.get("tus-resumable") != tus.VERSION:
                raise PreconditionFailed(f"Send Tus-Resumable: {tus.VERSION}.", field="Tus-Resumable")
            return await handle(call)
        except GatewayError as exc:
            answer = answer_error(call.request, exc)
            answer.headers["tus-resumable"] = tus.VERSION
            if exc.status == PreconditionFailed.status:
                answer.headers["tus-version"] = tus.VERSION
            return answer

    return speaking


def _answer(status: int, headers: dict[str, str]) -> Response:
    return Response(status_code=status, headers={"tus-resumable": tus.VERSION, "cache-control": "no-store", **headers})


def _state(view: View) -> dict[str, str]:
    headers = {
        "upload-offset": str(view.offset),
        "upload-length": str(view.length),
        "upload-expires": tus.build_expires(view.expires_ms),
    }
    if view.media is not None:
        headers["upload-media"] = view.media.ref
    return headers


def _check_taken(view: View) -> None:
    if view.refused:
        raise UnsupportedMedia(f"The file is not taken: {view.refused}.")


def _check_type(call: Call) -> None:
    if call.request.headers.get("content-type", "").partition(";")[0].strip().lower() != tus.CONTENT_TYPE:
        raise UnsupportedMedia(f"Send the bytes as {tus.CONTENT_TYPE}, and say so in Content-Type.")


def _check_length(call: Call, left: int) -> None:
    """Before a byte is read, where the request says how many there are."""
    text = call.request.headers.get("content-length", "")
    if text.isdecimal() and int(text[:18]) > left:
        raise PayloadTooLarge("More bytes are to come than are missing of Upload-Length.")


async def _pieces(call: Call) -> AsyncIterator[bytes]:
    """ClientDisconnect where the peer went away."""
    async for piece in call.request.stream():
        if piece:
            yield piece


def upload_routes(uploads: UploadRoutes) -> list[Route]:
    common: dict[str, Any] = {"caller": USER, "group": "media"}
    version = Query("Tus-Resumable", tus.VERSION, kind="string", place="header", required=True)
    checksum = Query(
        "Upload-Checksum",
        f"of this request's bytes: {tus.ALGORITHMS}, then base64",
        kind="string",
        place="header",
    )
    offset = Query("Upload-Offset", "where these bytes begin", place="header", required=True, low=0)
    here = (PreconditionFailed, NotSignedIn, NotFound, Gone)
    write = (StoreUnavailable, QueueFull, AcceptTimeout)
    taken = (BadRequest, Conflict, PayloadTooLarge, UnsupportedMedia, ChecksumMismatch)
    return [
        Route(
            method="OPTIONS",
            path=PATH,
            handle=uploads.options,
            summary="What of tus is spoken here",
            status=204,
            **common,
        ),
        Route(
            method="POST",
            path=PATH,
            handle=_speaks_tus(uploads.create),
            summary="Begin an upload (tus 1.0 creation)",
            about="The first bytes may come with it. Of Upload-Metadata `filename` is used; what the file is, its "
            "bytes say.",
            takes_media=tus.CONTENT_TYPE,
            takes_optional=True,
            status=201,
            params=(
                version,
                Query("Upload-Length", "bytes of the file", place="header", required=True, low=1),
                Query("Upload-Metadata", "filename and its value in base64", kind="string", place="header"),
                checksum,
            ),
            errors=(PreconditionFailed, NotSignedIn, TooManyRequests, *taken, *write),
            **common,
        ),
        Route(
            method="HEAD",
            path=_ONE,
            handle=_speaks_tus(uploads.head),
            summary="How far is it?",
            about="`Upload-Offset` is what is on disk. `Upload-Media` names what it became.",
            params=(version,),
            errors=here,
            **common,
        ),
        Route(
            method="PATCH",
            path=_ONE,
            handle=_speaks_tus(uploads.append),
            summary="Go on with an upload",
            about="With the last byte it is looked at: 415 where it is not taken. 409 where it is at another place, or "
            "another request writes to it: ask for its place, and go on there.",
            takes_media=tus.CONTENT_TYPE,
            takes_optional=True,
            status=204,
            params=(version, offset, checksum),
            errors=(*here, *taken, *write),
            **common,
        ),
        Route(
            method="DELETE",
            path=_ONE,
            handle=_speaks_tus(uploads.terminate),
            summary="End an upload; what it became stays",
            status=204,
            params=(version,),
            errors=(*here, Conflict, *write),
            **common,
        ),
        Route(
            method="POST",
            path=_ONE,
            handle=_speaks_tus(uploads.override),
            summary="The same by X-HTTP-Method-Override",
            takes_media=tus.CONTENT_TYPE,
            takes_optional=True,
            status=204,
            params=(
                version,
                Query("X-HTTP-Method-Override", "PATCH, DELETE or HEAD", kind="string", place="header", required=True),
            ),
            errors=(*here, *taken, *write),
            **common,
        ),
        Route(
            method="GET",
            path=_ONE,
            handle=uploads.show,
            summary="What became of an upload",
            gives=UploadView,
            gives_example={
                "id": "upload_0123456789abcdef0123456789abcdef",
                "offset": 182_044,
                "length": 182_044,
                "expires_at": 1760086400,
                "media": {
                    "ref": "media_fedcba9876543210fedcba9876543210",
                    "mime": "image/jpeg",
                    "size": 181_902,
                    "name": "harbour.jpg",
                    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                    "width": 1600,
                    "height": 1200,
                    "thumbnail": "media_00112233445566778899aabbccddeeff",
                },
            },
            errors=(NotSignedIn, NotFound, Gone, *write),
            **common,
        ),
    ]
