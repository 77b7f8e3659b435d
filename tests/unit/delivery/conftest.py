"""Fixtures of the delivery tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from house import House


@pytest.fixture
async def house() -> AsyncIterator[House]:
    built = House()
    built.app()
    yield built
    await built.close()
