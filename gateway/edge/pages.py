"""Service pages over device links (C13): sends PAGE and hears PAGED; must never take silence for an answer.

A link that is open says little: the app may not run, the device may be gone without a word. So who pages over it waits
for PAGED, and goes another way without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from gateway.model.frames import FrameType, Page, build_frame

#: request numbers go round
_MOST_REQ = 0xFFFFFFFF


class LinkPages:
    """What waits for PAGED; as many as the pager has calls under way."""

    def __init__(self, send: Callable[[int, bytes], None], link_of: Callable[[int], int]) -> None:
        self._send = send
        #: registration → its link, 0 where there is none
        self._link_of = link_of
        self._req = 0
        #: registrations that asked for pages on the link they are on: a number each, and nothing for all others
        self._takers: set[int] = set()
        #: by link, then by request
        self._waiting: dict[int, dict[int, asyncio.Future[bool]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    async def page(self, registration: int, page: bytes, within_s: float) -> bool:
        """True: the device said in time that it has started what the page is for. One that did not ask for pages is not
        waited for."""
        link = self._link_of(registration)
        if not link or registration not in self._takers:
            return False
        self._req = self._req % _MOST_REQ + 1
        req = self._req
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(link, {})
        waiting[req] = answered
        try:
            self._send(link, build_frame(FrameType.PAGE, Page(req=req, page=page)))
            async with asyncio.timeout(within_s):
                return await answered
        except TimeoutError:
            return False
        finally:
            waiting.pop(req, None)
            if not waiting and self._waiting.get(link) is waiting:
                del self._waiting[link]

    def take(self, registration: int, *, wanted: bool) -> None:
        """REGISTER said so."""
        if wanted:
            self._takers.add(registration)
        else:
            self._takers.discard(registration)

    def leave(self, registrations: Iterable[int]) -> None:
        """They are on no link any more."""
        if self._takers:
            self._takers.difference_update(registrations)

    def on_paged(self, link: int, req: int) -> None:
        """One that nobody waits for (any more) is no error."""
        answered = self._waiting.get(link, {}).get(req)
        if answered is not None and not answered.done():
            answered.set_result(True)

    def on_down(self, link: int) -> None:
        for answered in self._waiting.get(link, {}).values():
            if not answered.done():
                answered.set_result(False)
