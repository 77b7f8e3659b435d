"""Answers to requests with an idempotency key, for a while: a repeated request gets the first one's answer and does
nothing; must never give one user's answer to another, nor keep what was asked.

They live in RAM. After a restart own IM is still told apart by the ids that are made of the key (gateway/im/messaging/
own.py), and what waits for a network by its txn_id.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Generic, NamedTuple, TypeVar

from gateway.model.errors import Conflict

#: answers kept; past it the oldest goes
MOST = 50_000

Answer = TypeVar("Answer")


class _Kept(NamedTuple):
    #: of what was asked
    digest: bytes
    answer: asyncio.Future[Any]


class Once(Generic[Answer]):
    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[bytes, str], _Kept] = OrderedDict()

    async def run(self, user: bytes, key: str, digest: bytes, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Conflict where the key came with another request. What failed may be asked again."""
        if not key:
            return await ask()
        kept = self._kept.get((user, key))
        if kept is not None:
            if kept.digest != digest:
                raise Conflict("the idempotency key was used with another message", field="idempotency_key")
            answer: Answer = await asyncio.shield(kept.answer)
            return answer
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._kept[user, key] = _Kept(digest, future)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        try:
            answer = await ask()
        except BaseException as exc:
            self._kept.pop((user, key), None)
            future.set_exception(exc if isinstance(exc, Exception) else Conflict("the first request was cut off"))
            future.exception()  # whoever waits for it gets it, and nobody has to
            raise
        future.set_result(answer)
        return answer
