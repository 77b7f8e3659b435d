"""Ends what somebody waits for; must never end it twice."""

from __future__ import annotations

import asyncio
from typing import TypeVar

_T = TypeVar("_T")


def resolve(future: asyncio.Future[_T], result: _T, *, error: Exception | None = None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
