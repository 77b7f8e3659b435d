"""The gateway under test: a process of its own on a temporary store, with an app whose key is known, and what /proc
says about it; must never look inside the gateway by another way than its doors.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import httpx

ROOT = Path(__file__).resolve().parents[2]
APP = "bench"
#: settings that differ from the defaults: free ports, heartbeats one can wait for, devices that come back at once
SETTINGS = (
    "edge.port=0",
    "api.port=0",
    "edge.heartbeat_min_s=1",
    "edge.device_logins_per_minute=0",
    "edge.drain_s=0",
    "log.level=warning",
)
START_S = 120.0
STOP_S = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


class BenchFailed(Exception):
    """A figure could not be taken; the text says why and what would help."""


def open_files() -> int:
    """Raise this process's limit of open files, which its children inherit, as far as the machine lets; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = int(Path("/proc/sys/fs/nr_open").read_text())
    for limit in ((most, max(most, hard)), (hard, hard)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            return limit[0]
    return soft


def reactors_for(devices: int, limit: int) -> int:
    """Each reactor has a descriptor table of its own; the kernel spreads connections over them not quite evenly."""
    return max(1, math.ceil(devices * 1.05 / limit))


def cpu_seconds(pid: int) -> float:
    """User and system time of the process's threads so far; in nanoseconds where the kernel counts them, for
    utime + stime of a short run are a few ticks of 10 ms."""
    try:
        threads = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    except OSError:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


def private_bytes(pid: int) -> int:
    """Anonymous memory of the process: heap, slabs and stacks, not files mapped (the store's pages)."""
    return _rollup(pid)["Anonymous"]


def resident_bytes(pid: int) -> int:
    return _rollup(pid)["Rss"]


def _rollup(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(rest.split()[0]) * 1024 for name, rest in (line.split(":", 1) for line in lines)}


def kernel_bytes() -> dict[str, int]:
    """What the kernel holds, whole machine: slabs (sockets, epoll items, files) and the buffers of TCP."""
    memory = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    found = {
        name.lower(): int(memory[name].split()[0]) * 1024
        for name in ("MemTotal", "MemAvailable", "Slab", "SUnreclaim", "KernelStack", "PageTables")
    }
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            words = line.split()
            found["tcp_sockets"] = int(words[words.index("inuse") + 1])
            found["tcp_buffers"] = int(words[words.index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE")
    return found


def kernel_objects(most: int = 8) -> dict[str, int]:
    """The largest slab caches, bytes; empty where /proc/slabinfo may not be read."""
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()[2:]
    except OSError:
        return {}
    sizes = {words[0]: int(words[2]) * int(words[3]) for words in map(str.split, lines)}
    return dict(sorted(sizes.items(), key=lambda pair: -pair[1])[:most])


class Process:
    """A child with its output in a log file; ends with `stop`."""

    def __init__(self, name: str, folder: Path) -> None:
        self._log = folder / f"{name}.log"
        self._name = name
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def child(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    async def start(self, command: Sequence[str], *, piped: bool = False) -> None:
        pipe = asyncio.subprocess.PIPE if piped else None
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=pipe,
                stdout=pipe if piped else log,
                stderr=log,
                cwd=ROOT,
                limit=1 << 24,
            )

    def check(self) -> None:
        """BenchFailed where it has ended."""
        if self._process is not None and self._process.returncode is not None:
            raise BenchFailed(f"{self._name} ended with exit code {self._process.returncode}: {self.said()}")

    def said(self) -> str:
        """Its last lines."""
        lines = self._log.read_text(errors="replace").strip().splitlines() if self._log.exists() else []
        return " / ".join(line.strip() for line in lines[-3:])[-500:]

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(how)
            try:
                await asyncio.wait_for(self._process.wait(), STOP_S)
            except TimeoutError:
                self._process.kill()
        return await self._process.wait()


class Stage:
    """`async with Stage("edge.reactors=2") as stage`; the store is a temporary folder that goes with it.

    `store`: a folder that is there already; its app must be called APP, and the key is not known then but `key`.
    """

    def __init__(self, *settings: str, store: Path | None = None, key: str = "") -> None:
        self._settings = [*SETTINGS, *settings]
        self.folder = Path(tempfile.mkdtemp(prefix="heliograph-bench-"))
        self.store = store if store is not None else self.folder / "store"
        self.key = key
        self.device_port = 0
        self.device_tls_port = -1
        self.api_port = 0
        self._gateway = Process("gateway", self.folder)

    @property
    def pid(self) -> int:
        return self._gateway.pid

    async def __aenter__(self) -> Self:
        try:
            await self.start_gateway()
            if not self.key:
                await self._create_app()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._gateway.stop(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    async def start_gateway(self) -> float:
        """Start it, or again on the same store and ports; returns the moment it was started (time.monotonic)."""
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        settings = [*self._settings]
        if self.device_port:
            settings += [f"edge.port={self.device_port}", f"api.port={self.api_port}"]
        command = [sys.executable, "-m", "gateway.cli", "serve", "--ready-file", str(ready), "--store", str(self.store)]
        for setting in settings:
            command += ["--set", setting]
        began = time.monotonic()
        await self._gateway.start(command)
        while not ready.exists():
            self._gateway.check()
            if time.monotonic() - began > START_S:
                raise BenchFailed(f"the gateway was not ready after {START_S:g} s: {self._gateway.said()}")
            await asyncio.sleep(0.005)
        about = json.loads(ready.read_bytes())
        self.device_port, self.api_port = about["device_port"], about["api_port"]
        self.device_tls_port = about["device_tls_port"]
        return began

    async def stop_gateway(self, how: signal.Signals = signal.SIGTERM) -> int:
        return await self._gateway.stop(how)

    def check(self) -> None:
        """BenchFailed where the gateway is no longer there."""
        self._gateway.check()

    async def _create_app(self) -> None:
        admin = (self.store / "admin.key").read_text().strip()
        headers = {"authorization": f"Bearer {admin}"}
        async with httpx.AsyncClient(base_url=self.url, timeout=30, trust_env=False) as http:
            answer = await http.post("/v1/apps", headers=headers, json={"name": APP})
        if answer.status_code != 201:
            raise BenchFailed(f"the app could not be created: {answer.status_code} {answer.text}")
        self.key = str(answer.json()["key"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A call of the provider API with the app's key."""
        headers = {"authorization": f"Bearer {self.key}"}
        async with httpx.AsyncClient(base_url=self.url, timeout=60, trust_env=False, headers=headers) as http:
            return await http.request(method, path, **options)
