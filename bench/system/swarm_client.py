"""Drives `heliograph swarm --control`, one JSON object a line each way; must know nothing of what it speaks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from bench.system.stage import APP, BenchFailed, Process, open_files, reactors_for

ANSWER_S = 600.0
QUIT_S = 20.0
#: addresses a swarm may need; the next one begins behind them
SOURCES = 2_000
#: so few that ports left in TIME_WAIT by those that dropped do not slow down the search for free ones
DEVICES_A_SOURCE = 2_000


class Swarm:
    """`async with Swarm(port=stage.device_port, key=stage.key) as swarm`: one process of devices, gone at the end.

    `devices`: how many it will have; each thread of it has a descriptor table of its own, and there are as many as that
    takes.
    """

    def __init__(
        self,
        *,
        port: int,
        key: str = "",
        protocol: str = "heliograph",
        ack: str = "all",
        heartbeat: int = 60,
        devices: int = 0,
        versions: int = 20,
        first_source: int = 0,
        command: Sequence[str] = (),
    ) -> None:
        self._options = {
            "--host": "127.0.0.1",
            "--port": port,
            "--app": APP,
            "--versions": versions,
            "--threads": reactors_for(devices, open_files()),
            "--heartbeat": heartbeat,
            "--ack": ack,
            "--protocol": protocol,
            "--key": key,
            "--first-source": first_source,
            "--devices-a-source": DEVICES_A_SOURCE,
        }
        self._command = command or (sys.executable, "-m", "gateway.cli", "swarm")
        self._folder = Path(tempfile.mkdtemp(prefix="heliograph-swarm-"))
        self._process = Process("the swarm", self._folder)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def __aenter__(self) -> Self:
        words = [
            str(word) for name, value in self._options.items() if value not in ("", None) for word in (name, value)
        ]
        try:
            await self._process.start([*self._command, "--control", *words], piped=True)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        child = self._process.child
        assert child.stdin is not None
        with contextlib.suppress(ConnectionError):
            child.stdin.write(b'{"do":"quit"}\n')
            child.stdin.close()
        try:
            await asyncio.wait_for(child.wait(), QUIT_S)
        except TimeoutError:
            child.kill()
            await child.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def do(self, what: str, *, wait_s: float = ANSWER_S, **fields: Any) -> dict[str, Any]:
        """One command and its answer; BenchFailed where the swarm could not do it."""
        child = self._process.child
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps({"do": what, **fields}).encode() + b"\n")
            await child.stdin.drain()
            line = await asyncio.wait_for(child.stdout.readline(), wait_s)
        except TimeoutError:
            raise BenchFailed(f"the swarm did not answer {what!r} in {wait_s:g} s: {self._process.said()}") from None
        except ConnectionError:
            line = b""
        if not line:
            code = await child.wait()
            raise BenchFailed(f"the swarm ended at {what!r} with exit code {code}: {self._process.said()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchFailed(f"the swarm could not {what}: {answer['error']}")
        return answer

    async def connect(self, count: int, *, rate: float = 0, at_once: int = 2_000) -> dict[str, Any]:
        """So many more devices, all of them or BenchFailed."""
        answer = await self.do("connect", count=count, rate=rate, register=True, at_once=at_once)
        return _all(answer, "connect", count)

    async def reconnect(self, count: int, *, rate: float = 0) -> dict[str, Any]:
        """All that were dropped come back."""
        return _all(await self.do("reconnect", rate=rate), "reconnect", count)

    async def broadcast(self, count: int = 1, **fields: Any) -> dict[str, Any]:
        """To everyone on line; all of them get all of it or BenchFailed."""
        answer = await self.do("broadcast", count=count, **{"bytes": 100, "timeout_s": 60, **fields})
        if answer["delivered"] < answer["expected"]:
            raise BenchFailed(f"{answer['delivered']} of {answer['expected']} deliveries came: {answer}")
        return answer


def _all(answer: dict[str, Any], what: str, count: int) -> dict[str, Any]:
    if answer["connected"] < count:
        raise BenchFailed(f"{answer['connected']} of {count} devices could {what}: {answer}")
    return answer
