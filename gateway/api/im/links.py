"""Files out: by a signed link that expires, for anybody who has it, and by name for the user who may have it; must
never list any, nor tell one that is not there from one that is another's."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from gateway.api.call import Call
from gateway.api.im.served import FileAnswer, open_file
from gateway.api.im.uploads import Authorize
from gateway.api.route import ANYBODY, Query, Route
from gateway.im.media.library import Held, Library
from gateway.metrics import Metric, Metrics
from gateway.model.errors import NotFound, NotSignedIn

#: a user's own device may keep a file so long without asking again, seconds
_OWN_AGE_S = 86_400


class MediaRoutes:
    def __init__(self, library: Library, authorize: Authorize, metrics: Metrics) -> None:
        self._library = library
        self._authorize = authorize
        self._metrics = metrics

    async def linked(self, call: Call) -> Response:
        found = self._library.linked(call.path("token"))
        if found is None:
            self._count("link none")
            raise NotFound("The link is wrong or has expired.")
        held, left_s = found
        return await self._serve(call, held, left_s, "link")

    async def own(self, call: Call) -> Response:
        user = self._authorize(call)
        held = self._library.held(user, call.path("ref"))
        if held is None:
            self._count("user none")
            raise NotFound("There is no such file.")
        return await self._serve(call, held, _OWN_AGE_S, "user")

    async def _serve(self, call: Call, held: Held, max_age_s: int, way: str) -> Response:
        try:
            descriptor = await open_file(held.path)
        except NotFound:
            self._count(f"{way} lost")
            raise
        answer = FileAnswer(descriptor, held.media, call.request.headers, max_age_s)
        self._count(f"{way} {answer.status_code}")
        return answer

    def _count(self, result: str) -> None:
        self._metrics.count(Metric.IM_MEDIA_SERVED, label=result)


def media_routes(media: MediaRoutes) -> list[Route]:
    common: dict[str, Any] = {
        "method": "GET",
        "caller": ANYBODY,
        "group": "media",
        "gives_media": "application/octet-stream",
        "params": (Query("Range", "one range of bytes", kind="string", place="header"),),
        "also": ((206, "A part"), (304, "As you have it"), (416, "The range lies behind the end")),
    }
    return [
        Route(
            path="/m/{token}",
            handle=media.linked,
            summary="The file behind a signed link",
            about="Whoever has the link may fetch it until it expires. Always as an attachment, and never as anything "
            "but what its bytes were found to be.",
            errors=(NotFound,),
            **common,
        ),
        Route(
            path="/v1/im/media/{ref}",
            handle=media.own,
            summary="A file of a message",
            errors=(NotSignedIn, NotFound),
            **common,
        ),
    ]
