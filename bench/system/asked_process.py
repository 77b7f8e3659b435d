"""A process of a bench that says its port in its first line and, asked by a line, answers with its counts as JSON; or
with what it was asked for by a JSON object."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, Self

from bench.system.stage import BenchFailed, Process, cpu_seconds

START_S = 60.0


class AskedProcess:
    """`async with` starts `python -m MODULE WORDS …` and ends it; `port` is what it listens on."""

    #: what runs, and what it is called where it fails
    module: ClassVar[str]

    def __init__(self, name: str, words: list[str]) -> None:
        self._name, self._words = name, words
        self._folder = Path(tempfile.mkdtemp(prefix="heliograph-bench-"))
        self._process = Process(name, self._folder)
        self.port = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    async def __aenter__(self) -> Self:
        try:
            await self._process.start([sys.executable, "-m", self.module, *self._words], piped=True)
            self.port = (await self._line())["port"]
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def counts(self) -> dict[str, int]:
        """So far."""
        return await self._ask(b"\n", START_S)

    async def ask(self, what: str, *, wait_s: float = START_S, **fields: Any) -> dict[str, Any]:
        return await self._ask(json.dumps({"do": what, **fields}).encode() + b"\n", wait_s)

    async def _ask(self, line: bytes, wait_s: float) -> dict[str, Any]:
        stdin = self._process.child.stdin
        assert stdin is not None
        stdin.write(line)
        return await self._line(wait_s)

    async def _line(self, wait_s: float = START_S) -> dict[str, Any]:
        stdout = self._process.child.stdout
        assert stdout is not None
        try:
            line = await asyncio.wait_for(stdout.readline(), wait_s)
        except TimeoutError:
            raise BenchFailed(f"{self._name} did not answer in {wait_s:g} s: {self._process.said()}") from None
        if not line:
            await self._process.child.wait()
            raise BenchFailed(f"{self._name} ended: {self._process.said()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)


async def answer_asked(port: int, does: dict[str, Callable[..., Awaitable[dict[str, Any]]]]) -> None:
    """The other end: say the port, and answer each {"do": …} until the end of input."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps({"port": port}), flush=True)
    while line := await reader.readline():
        asked: dict[str, Any] = json.loads(line)
        print(json.dumps(await does[asked.pop("do")](**asked)), flush=True)
