"""What an app can see of the connection, and who watches it; an observer never holds the Device up."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import Enum

#: state changes an observer may be behind; past it the oldest are gone
STATES_KEPT = 64


class Connection(Enum):
    IDLE = "idle"  # not started
    CONNECTING = "connecting"
    LOGIN = "login"
    ONLINE = "online"
    WAITING = "waiting"  # for the next try
    STOPPED = "stopped"  # for good: closed, taken over, refused


@dataclass(slots=True, frozen=True)
class DeviceState:
    connection: Connection
    #: why the last link ended, or why the device stopped
    error: Exception | None = None
    #: seconds until the next try, in WAITING
    retry_s: float = 0.0


class Observer:
    def __init__(self, state: DeviceState) -> None:
        self._states = deque([state], maxlen=STATES_KEPT)
        self._event = asyncio.Event()
        self._event.set()

    def put(self, state: DeviceState) -> None:
        self._states.append(state)
        self._event.set()

    async def next(self) -> DeviceState:
        while not self._states:
            self._event.clear()
            await self._event.wait()
        return self._states.popleft()
