"""Fixtures of the heart of IM: supervision and messaging over a scripted network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from im_heart import Heart


@pytest.fixture
async def build_heart() -> AsyncIterator[Callable[..., Heart]]:
    hearts: list[Heart] = []

    def build(*args: object, **settings: object) -> Heart:
        hearts.append(Heart(*args, **settings))  # type: ignore[arg-type]
        return hearts[-1]

    yield build
    for heart in hearts:
        await heart.close()
