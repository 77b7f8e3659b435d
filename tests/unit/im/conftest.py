"""What tests of IM's rooms share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from im_ust_rig import UstRig, rig_in_ram, rig_over_store


@pytest.fixture(params=["ram", "store"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[UstRig]:
    """UST over records in RAM, and the same over LMDB."""
    if request.param == "ram":
        yield rig_in_ram()
        return
    async with rig_over_store(tmp_path) as over_store:
        yield over_store
