"""What the routes of IM work with; handed in by the composition root."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.api.route import Route
from gateway.im.asking import Asking


@dataclass(slots=True, kw_only=True)
class ImRest:
    asking: Asking
    # whose session key this is, by an Authorization header; None: nobody's
    user_of: Callable[[str | None], bytes | None]
    # one more question of a client without a session: 0, or how many ms it has to wait
    stranger: Callable[[str], int]
    # uploads, media and links: routes of their own
    media: Sequence[Route] = ()
