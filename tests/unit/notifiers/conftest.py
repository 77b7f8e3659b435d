"""Fixtures of the upstream notifiers' tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.notifiers.local_tls import Authority


@pytest.fixture(scope="session")
def authority() -> Authority:
    """One is enough: making keys takes time."""
    return Authority()


@pytest.fixture(autouse=True)
async def in_time() -> AsyncIterator[None]:
    """A test that waits for what never comes says where, long before the runner's limit."""
    async with asyncio.timeout(40):
        yield
