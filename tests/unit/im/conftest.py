"""What tests of IM's rooms share: UST over records, supervision and messaging over a scripted network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from im_heart import Heart
from im_ust_rig import UstRig, rig_in_ram, rig_over_store


@pytest.fixture(params=["ram", "store"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[UstRig]:
    """UST over records in RAM, and the same over LMDB."""
    if request.param == "ram":
        yield rig_in_ram()
        return
    async with rig_over_store(tmp_path) as over_store:
        yield over_store


@pytest.fixture
async def build_heart() -> AsyncIterator[Callable[..., Heart]]:
    hearts: list[Heart] = []

    def build(*args: object, **settings: object) -> Heart:
        hearts.append(Heart(*args, **settings))  # type: ignore[arg-type]
        return hearts[-1]

    yield build
    for heart in hearts:
        await heart.close()
