"""PAGE and PAGED over a device's link: silence, a late word and a link that ends (C13)."""

from __future__ import annotations

import asyncio

from gateway.edge.pages import LinkPages
from gateway.model.frames import FrameReader, FrameType, Page, parse_body


class Links:
    """Registration 3 is on link 7."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, Page]] = []
        self.of = {3: 7}
        self.pages = LinkPages(self.send, lambda number: self.of.get(number, 0))
        self.pages.take(3, wanted=True)

    def send(self, link: int, frame: bytes) -> None:
        ((kind, body),) = FrameReader().feed(frame)
        assert kind == FrameType.PAGE
        self.sent.append((link, parse_body(body, Page)))

    async def page(self, within_s: float = 5.0) -> asyncio.Task[bool]:
        task = asyncio.create_task(self.pages.page(3, b"page", within_s))
        await asyncio.sleep(0)
        return task


async def test_the_device_says_that_it_started_the_app() -> None:
    links = Links()
    task = await links.page()
    (link, page), *_ = links.sent
    assert (link, page.page) == (7, b"page")
    links.pages.on_paged(7, page.req + 1)  # another one's
    links.pages.on_paged(8, page.req)  # another device's
    assert not task.done()
    links.pages.on_paged(7, page.req)
    links.pages.on_paged(7, page.req)
    assert await task is True
    assert len(links.pages) == 0


async def test_silence_and_the_end_of_the_link_are_no_yes() -> None:
    links = Links()
    assert await links.pages.page(3, b"page", 0.01) is False
    links.pages.on_paged(7, 1)  # too late
    waiting = [await links.page(), await links.page()]
    assert len(links.pages) == 2
    links.pages.on_down(7)
    assert [await task for task in waiting] == [False, False]
    links.of.clear()
    assert await links.pages.page(3, b"page", 5.0) is False
    assert len(links.sent) == 3
    assert len(links.pages) == 0


async def test_a_call_that_is_cut_off_leaves_nothing_behind() -> None:
    links = Links()
    task = await links.page()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(links.pages) == 0


async def test_who_did_not_ask_for_pages_is_not_waited_for() -> None:
    links = Links()
    for forget in (lambda: links.pages.take(3, wanted=False), lambda: links.pages.leave([3, 4])):
        links.pages.take(3, wanted=True)
        forget()
        assert await links.pages.page(3, b"page", 5.0) is False
    assert links.sent == []
