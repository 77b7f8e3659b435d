"""A process of a bench that says its port in its first line and, asked by a line, answers with its counts as JSON."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import ClassVar, Self

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
        stdin = self._process.child.stdin
        assert stdin is not None
        stdin.write(b"\n")
        return await self._line()

    async def _line(self) -> dict[str, int]:
        stdout = self._process.child.stdout
        assert stdout is not None
        line = await asyncio.wait_for(stdout.readline(), START_S)
        if not line:
            await self._process.child.wait()
            raise BenchFailed(f"{self._name} ended: {self._process.said()}")
        answer: dict[str, int] = json.loads(line)
        return answer

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)
