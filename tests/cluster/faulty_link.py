"""A connection on which answers are lost, requests too, and requests arrive late."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import nats.errors
from journal_rig import PlainLink


class FaultyClient:
    """Stands before the client of a connection. `faults`: what becomes of the publishes to come, one after another."""

    def __init__(self, link: PlainLink, subject_part: str) -> None:
        self._client = link.nats
        self._part = subject_part
        self.faults: list[str] = []
        self.luck: random.Random | None = None
        self.late: list[asyncio.Task[Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def _fault(self, subject: str) -> str:
        if self._part not in subject or subject.startswith("$"):
            return ""
        if self.faults:
            return self.faults.pop(0)
        if self.luck is not None:
            return self.luck.choice(["", "", "", "answer lost", "request lost", "late", "nobody"])
        return ""

    async def request(self, subject: str, payload: bytes = b"", timeout: float = 1, headers: Any = None) -> Any:
        fault = self._fault(subject)
        if fault == "request lost":
            raise nats.errors.TimeoutError
        if fault == "nobody":
            raise nats.errors.NoRespondersError
        if fault == "late":

            async def later() -> None:
                await asyncio.sleep(0.05)
                await self._client.request(subject, payload, timeout=timeout, headers=headers)

            self.late.append(asyncio.get_running_loop().create_task(later()))
            raise nats.errors.TimeoutError
        answer = await self._client.request(subject, payload, timeout=timeout, headers=headers)
        if fault == "answer lost":
            raise nats.errors.TimeoutError
        return answer

    async def settle(self) -> None:
        await asyncio.gather(*self.late, return_exceptions=True)


class FaultyLink:
    def __init__(self, link: PlainLink, subject_part: str = ".journal.") -> None:
        self._link = link
        self.nats = FaultyClient(link, subject_part)

    @property
    def is_up(self) -> bool:
        return self._link.is_up
