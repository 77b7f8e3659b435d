"""A node that starts while NATS elects a leader waits for it."""

from __future__ import annotations

import pytest

from gateway.fleet import patience
from gateway.model.errors import LogUnavailable


async def test_a_start_asks_again_while_nats_does_not_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_AGAIN_S", 0.0)
    asked = []

    async def start() -> None:
        asked.append(1)
        if len(asked) < 3:
            raise LogUnavailable

    await patience.start_patiently(start)
    assert len(asked) == 3


async def test_a_start_that_nats_never_takes_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", -1.0)

    async def start() -> None:
        raise LogUnavailable("the fleet's journal can not be written now")

    with pytest.raises(LogUnavailable, match="can not be written"):
        await patience.start_patiently(start)
