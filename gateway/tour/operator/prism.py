"""A strict T8 server of another implementation: npm's Prism, which checks each request against a description of the API
and posts the reports; on a free port of loopback; must never install anything.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
from pathlib import Path
from typing import Self

PACKAGE = "@stoplight/prism-cli@5.16.0"
#: what it is told of the API: the part of 3GPP TS 29.122 that a push gateway uses, with `SCS_AS_ID` in its paths
DESCRIPTION = Path(__file__).with_name("t8_openapi.json")
SCS_AS_ID = "pushgw"
#: where the tests of a checkout have it
FOLDER = Path(__file__).parents[3] / "build" / "node-prism"
PATIENCE_S = 60.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def find_prism() -> str:
    """The program, on the path or in this checkout; "" where it is not installed."""
    if shutil.which("node") is None:
        return ""
    ours = FOLDER / "node_modules" / ".bin" / "prism"
    return shutil.which("prism") or (str(ours) if ours.exists() else "")


class Prism:
    """As a context manager, which does not wait until it is up; `said` is its log."""

    def __init__(self, program: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.root = f"http://127.0.0.1:{self._port}"
        self.said: list[str] = []
        self._program = program
        self._is_up = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        where = ("-h", "127.0.0.1", "-p", str(self._port))
        self._process = await asyncio.create_subprocess_exec(
            *("node", self._program, "mock", "--errors", "--multiprocess=false", *where, str(DESCRIPTION)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._reading = asyncio.create_task(self._read(self._process))
        return self

    async def listens(self) -> None:
        """Wait until it does, which takes it seconds; RuntimeError where it ends before."""
        async with asyncio.timeout(PATIENCE_S):
            await self._is_up.wait()
        if not self.count("listening on"):
            raise RuntimeError("Prism does not start: " + "\n".join(self.said[-20:]))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.said.append(_COLOUR.sub("", line.decode("utf-8", "replace")).rstrip())
            if "listening on" in self.said[-1]:
                self._is_up.set()
        self._is_up.set()  # it ended

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)

    def count(self, words: str) -> int:
        return sum(words in line for line in self.said)

    @property
    def violations(self) -> int:
        """What was not as the description has it."""
        return self.count("Violation")
