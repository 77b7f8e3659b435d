"""A whole fleet on this machine: NATS servers and gateways, each a process of its own, that can be killed, paused and
started again; must never outlive who started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import httpx
import msgspec

from gateway.tour.nats_servers import AGREE_S, HOST, NatsServers, free_ports, tied

START_S = 120.0
END_S = 20.0
#: settings of each gateway that differ from the defaults: what a fleet needs to be seen failing over in seconds
SETTINGS = ("edge.heartbeat_min_s=1", "edge.device_logins_per_minute=0", "edge.drain_s=0.5", "log.level=info")
#: lines of a gateway's log in the text of a failure
_LAST_LINES = 30


class NotStarted(RuntimeError):
    """It ended, or said nothing, before it was ready; the text has the end of its log."""


class Ground(Protocol):
    """Where processes live: on loopback, or each in a network of its own."""

    def host(self, name: str) -> str:
        """Address at which the process of this name is found."""
        ...

    def command(self, name: str) -> Sequence[str]:
        """What its command line begins with."""
        ...


class Loopback:
    """All at one address."""

    def host(self, name: str) -> str:  # noqa: ARG002 - of all
        return HOST

    def command(self, name: str) -> Sequence[str]:  # noqa: ARG002 - of all
        return ()


class GatewayNode:
    """`heliograph serve` on one store folder and fixed ports; each start is a new `life`."""

    def __init__(self, name: str, folder: Path, host: str, command: Sequence[str] = ()) -> None:
        self.name = name
        self.folder = folder
        self.store = folder / "store"
        self.host = host
        self.device_port, self.api_port = free_ports(2)
        self.settings: list[str] = []
        self.environment: dict[str, str] = {}
        self.life = 0
        #: monotonic seconds of its last start, and how long that took
        self.started_at = 0.0
        self.start_s = 0.0
        self.is_paused = False
        self._command = tuple(command)
        self._process: asyncio.subprocess.Process | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def devices(self) -> tuple[str, int]:
        return self.host, self.device_port

    @property
    def api(self) -> str:
        return f"http://{self.host}:{self.api_port}"

    @property
    def log_file(self) -> Path:
        return self.folder / "gateway.log"

    @property
    def _ready_file(self) -> Path:
        return self.folder / "ready.json"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def spawn(self, *settings: str, environment: Mapping[str, str] | None = None) -> None:
        """Started, and not waited for. `settings` and `environment` are for this life only."""
        if self.is_running:
            raise RuntimeError(f"{self.name} runs already")
        self.life += 1
        self.started_at = time.monotonic()
        self.start_s = 0.0
        self.is_paused = False
        self._ready_file.unlink(missing_ok=True)
        command = [*tied(), *self._command, sys.executable, "-m", "gateway.cli", "serve"]
        command += ["--store", str(self.store), "--port", str(self.device_port), "--api-port", str(self.api_port)]
        command += ["--ready-file", str(self._ready_file)]
        own = [f"edge.host={self.host}", f"api.host={self.host}"]
        for setting in (*SETTINGS, *own, *self.settings, *settings):
            command += ["--set", setting]
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self.environment, **(environment or {})},
            )

    async def until_serving(self, timeout_s: float = START_S) -> None:
        """Both doors are open. NotStarted."""
        end = time.monotonic() + timeout_s
        while not self._ready_file.exists():
            if not self.is_running or time.monotonic() > end:
                raise NotStarted(f"{self.name} did not start:\n{self.last_words()}")
            await asyncio.sleep(0.02)
        self.start_s = time.monotonic() - self.started_at

    def last_words(self) -> str:
        if not self.log_file.exists():
            return ""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-_LAST_LINES:])

    def complaints(self) -> list[str]:
        """Lines of its log, over all its lives, that tell of a fault of its own."""
        found = []
        for line in self.log_file.read_text(errors="replace").splitlines() if self.log_file.exists() else ():
            if line.startswith("{"):
                with contextlib.suppress(msgspec.DecodeError):
                    record: dict[str, Any] = msgspec.json.decode(line)
                    if record.get("level") in ("error", "critical") or "exception" in record:
                        found.append(line)
            elif line.startswith(("Traceback", "Fatal", "Segmentation")):
                found.append(line)
        return found

    def send_signal(self, number: int) -> None:
        if self._process is not None and self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    async def kill(self) -> None:
        """SIGKILL, and gone when it returns."""
        self.send_signal(signal.SIGKILL)
        await self._ended(END_S)

    async def terminate(self, timeout_s: float = END_S) -> int | None:
        """SIGTERM: drained and ended when it returns; killed where that takes longer. The exit code."""
        self.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            return await self._ended(timeout_s)
        await self.kill()
        return None

    async def _ended(self, timeout_s: float) -> int | None:
        if self._process is None:
            return None
        async with asyncio.timeout(timeout_s):
            return await self._process.wait()

    def pause(self) -> None:
        self.send_signal(signal.SIGSTOP)
        self.is_paused = True

    def resume(self) -> None:
        self.send_signal(signal.SIGCONT)
        self.is_paused = False

    async def reasons(self, http: httpx.AsyncClient) -> list[str] | None:
        """Why it can not take pushes; empty: it can; None: no answer."""
        try:
            answer = await http.get(f"{self.api}/readyz", timeout=2.0)
            return list(answer.json()["reasons"])
        except (httpx.HTTPError, ValueError, KeyError):
            return None

    async def figure(self, http: httpx.AsyncClient, name: str) -> float | None:
        """A gauge or counter without labels; None: no answer, or none of this name."""
        try:
            lines = (await http.get(f"{self.api}/metrics", timeout=2.0)).text.splitlines()
        except httpx.HTTPError:
            return None
        return next((float(line.split()[1]) for line in lines if line.startswith(f"{name} ")), None)


class FleetHome:
    """As a context manager, or `start` and `close`. `nats` 0: one gateway alone, without a fleet. `settings` are those
    of all gateways."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 3,
        nats: int = 3,
        partitions: int = 16,
        settings: Sequence[str] = (),
        ground: Ground | None = None,
    ) -> None:
        self.folder = folder
        self.partitions = partitions
        folder.mkdir(parents=True, exist_ok=True)
        self._ground: Ground = ground or Loopback()
        self.nats: NatsServers | None = None
        self.nodes: list[GatewayNode] = []
        shared = list(settings)
        if nats:
            hosts = [self._ground.host(f"n{number}") for number in range(1, nats + 1)]
            self.nats = NatsServers(folder / "nats", nats, hosts=hosts)
            shared += self._fleet_settings(self.nats, nats, partitions)
        for number in range(1, nodes + 1):
            name = f"g{number}"
            node = GatewayNode(name, folder / name, self._ground.host(name), self._ground.command(name))
            node.settings = [*shared, *([f"cluster.node={name}"] if nats else [])]
            self.nodes.append(node)
        self.http = httpx.AsyncClient(trust_env=False, timeout=10.0)

    def _fleet_settings(self, nats: NatsServers, servers: int, partitions: int) -> list[str]:
        secret = self.folder / "fleet.secret"
        if not secret.exists():
            secret.write_text(secrets.token_urlsafe(32))
            secret.chmod(0o600)
        return [
            f"cluster.url={nats.urls}",
            f"cluster.monitors={nats.monitors}",
            f"cluster.secret_file={secret}",
            f"cluster.partitions={partitions}",
            f"cluster.replicas={min(servers, 3)}",
        ]

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- all of it ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """NATS has a leader, all gateways serve, and each partition has an owner."""
        await self.start_nats()
        for node in self.nodes:
            await node.spawn()
        await asyncio.gather(*(node.until_serving() for node in self.nodes))
        await self.until_ready()

    async def until_ready(self, timeout_s: float = START_S) -> None:
        """Each gateway that runs says that it can take pushes, and each partition has its owner. NotStarted."""
        end = time.monotonic() + timeout_s
        for node in self.nodes:
            while node.is_running and not node.is_paused and (reasons := await node.reasons(self.http)) != []:
                if time.monotonic() > end:
                    raise NotStarted(f"{node.name} is not ready ({reasons}):\n{node.last_words()}")
                await asyncio.sleep(0.05)
        while self.nats is not None and self.nodes and (owned := await self.owned()) != self.partitions:
            if time.monotonic() > end:
                raise NotStarted(f"{owned} of {self.partitions} partitions have an owner")
            await asyncio.sleep(0.05)

    async def owned(self) -> int:
        """Partitions that the gateways which answer have; -1: they do not agree."""
        owned = unowned = 0
        for node in self.nodes:
            if node.is_running and not node.is_paused:
                owned += int(await node.figure(self.http, "heliograph_partitions_owned") or 0)
                unowned += int(await node.figure(self.http, "heliograph_partitions_unowned") or 0)
        return -1 if unowned else owned

    async def close(self) -> None:
        """Everything ends; the folder stays."""
        for node in self.nodes:
            node.resume()
        await asyncio.gather(*(node.kill() for node in self.nodes), return_exceptions=True)
        await self.http.aclose()
        if self.nats is not None:
            await self.nats.close()

    # --- one of them ----------------------------------------------------------------------------------------------

    async def restart(self, number: int, *settings: str, environment: Mapping[str, str] | None = None) -> None:
        """The gateway that was killed, or not, serves again."""
        node = self.nodes[number]
        if node.is_running:
            await node.kill()
        await node.spawn(*settings, environment=environment)
        await node.until_serving()

    def admin_key(self) -> str:
        """Of the operator of this fleet."""
        for node in self.nodes:
            file = node.store / "admin.key"
            if file.exists():
                return file.read_text().strip()
        raise NotStarted("no gateway has an admin key yet")

    # --- NATS -----------------------------------------------------------------------------------------------------

    async def start_nats(self) -> None:
        if self.nats is None:
            return
        for number in range(len(self.nats.servers)):
            self.start_nats_server(number)
        await self.nats.wait_until_healthy()

    def start_nats_server(self, number: int) -> None:
        assert self.nats is not None
        server = self.nats.servers[number]
        server.start(self._runner(f"n{number + 1}"))

    def _runner(self, name: str) -> Callable[..., subprocess.Popen[bytes]]:
        first = self._ground.command(name)

        def run(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
            return subprocess.Popen([*first, *command], **options)  # noqa: S603 - our own command line

        return run

    def signal_nats(self, number: int, what: int) -> None:
        """SIGKILL also waits for its end."""
        assert self.nats is not None
        self.nats.servers[number].kill(what)

    async def nats_healthy(self) -> None:
        """All servers are up and agree again. RuntimeError."""
        if self.nats is not None:
            await self.nats.wait_until_healthy(AGREE_S)
