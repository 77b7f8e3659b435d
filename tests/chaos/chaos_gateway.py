"""The gateway under test, in a process of its own: started, killed, asked to drain; must never outlive its test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

#: from the spawn to both doors open; a start takes a second, two busy cores and a sanitizer's worth of patience more
START_S = 30.0
#: said on stdout once both doors are open and the ready file is there
_READY = b"devices:"
#: lines of its log kept for the report of a failure
_KEPT_LINES = 4_000


def find_ports(count: int = 2) -> list[int]:
    """Free ports below the range the kernel hands out, so that none of it is taken while the gateway is away, and no
    device that knocks meanwhile is connected to itself."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(max(2_000, lowest - 20_000), lowest)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


class NotStarted(AssertionError):
    """It ended, or said nothing, before it was ready."""


class GatewayProcess:
    """`heliograph serve` on one store folder and fixed ports. Each start is a new `generation`."""

    def __init__(self, store: Path, *settings: str) -> None:
        self.store = store
        self.settings = list(settings)
        self.device_port, self.api_port = find_ports()
        self.generation = 0
        self.exit_code: int | None = None
        #: set while both doors are open
        self.serving = asyncio.Event()
        self.lines: list[str] = []
        self._process: asyncio.subprocess.Process | None = None
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> GatewayProcess:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def spawn(self, *settings: str) -> None:
        """Start it, and wait for nothing. `settings` are for this time only."""
        assert self._process is None, "it runs already"
        self.generation += 1
        self.exit_code = None
        command = [sys.executable, "-m", "gateway.cli", "serve", "--store", str(self.store)]
        command += ["--port", str(self.device_port), "--api-port", str(self.api_port), "--log-level", "warning"]
        for setting in (*self.settings, *settings):
            command += ["--set", setting]
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._listener = asyncio.create_task(self._listen(self._process), name="gateway's output")

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip())
            del self.lines[:-_KEPT_LINES]
            if line.startswith(_READY):
                self.serving.set()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, *settings: str) -> None:
        """Start it; both doors are open when it returns."""
        await self.spawn(*settings)
        await self.until_serving()

    async def until_serving(self) -> None:
        assert self._listener is not None
        ready = asyncio.create_task(self.serving.wait())
        try:
            await asyncio.wait((ready, self._listener), timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if not self.serving.is_set():
            code = await self._collect() if self._listener.done() else None
            raise NotStarted(f"the gateway did not start (exit code {code}):\n" + "\n".join(self.lines[-30:]))

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, and gone when it returns."""
        self.serving.clear()
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._collect()

    async def ended(self, timeout_s: float) -> int:
        """Wait until it ends by itself; returns the exit code."""
        assert self._process is not None
        async with asyncio.timeout(timeout_s):
            await self._process.wait()
        return await self._collect()

    async def terminate(self, timeout_s: float = 20.0) -> int:
        """SIGTERM, and wait for the end."""
        self.serving.clear()
        self.send_signal(signal.SIGTERM)
        return await self.ended(timeout_s)

    async def _collect(self) -> int:
        assert self._process is not None
        assert self._listener is not None
        self.exit_code = await self._process.wait()
        self.serving.clear()
        await self._listener
        self._process = self._listener = None
        return self.exit_code

    def complaints(self) -> list[str]:
        """Lines of its log that tell of a fault of its own."""
        found = []
        for line in self.lines:
            if line.startswith("{"):
                record: dict[str, Any] = json.loads(line)
                if record.get("level") in ("error", "critical") or "exception" in record:
                    found.append(line)
            elif line.startswith(("Traceback", "Fatal", "Segmentation", "  File ")):
                found.append(line)
        return found


class Deadline:
    """`async with Deadline(s, what)`: TimeoutError says what did not come, and what else there is to `tell`."""

    def __init__(self, seconds: float, what: str, tell: Callable[[], str] = str) -> None:
        self._timeout = asyncio.timeout(seconds)
        self._text = f"{what} did not come inside {seconds:g} s"
        self._tell = tell

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise AssertionError("\n".join(filter(None, (self._text, self._tell())))) from None
