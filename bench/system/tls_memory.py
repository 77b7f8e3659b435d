"""P13: user-space bytes of an idle, logged-in device over TLS 1.3, beside one without TLS in the same run.

As P1: devices register, the gateway is restarted on that store, they come back and sit there; once over the plain port,
once, after another restart, over the TLS port with full handshakes. The peer is a TLS server of uvloop that holds as
many connections and does nothing with them. CPU of a handshake: that of the process over the logins, less the same of
plain logins; the floor is a bare loop over OpenSSL's accept.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.system.figures import Measured, Run
from bench.system.stage import BenchFailed, Process, Stage, cpu_seconds, open_files, private_bytes
from gateway.notifiers.local_tls import Authority, Files

FULL, QUICK = 5_000, 2_000
SETTLE_S = 2.0
ANSWER_S = 300.0


class Devices:
    """The helper process that is the devices."""

    def __init__(self, folder: Path, ca: str) -> None:
        self._process = Process("the TLS devices", folder)
        self._ca = ca

    async def start(self) -> None:
        await self._process.start([sys.executable, "-m", "bench.system.tls_devices"], piped=True)

    async def stop(self) -> None:
        await self._process.stop(signal.SIGKILL)

    async def do(self, what: str, **fields: Any) -> dict[str, Any]:
        child = self._process.child
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps({"do": what, "ca": self._ca, **fields}).encode() + b"\n")
        line = await asyncio.wait_for(child.stdout.readline(), ANSWER_S)
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._process.said()}
        if "error" in answer:
            raise BenchFailed(f"the devices could not {what}: {answer['error']}")
        return answer


async def take(run: Run) -> Measured:
    n = run.size(FULL, QUICK)
    if open_files() < n + 200:
        raise BenchFailed(f"{n:,} devices need as many open files; raise the limit (ulimit -n)")
    authority = Authority()
    with tempfile.TemporaryDirectory(prefix="heliograph-tls-") as name:
        folder = Path(name)
        files = authority.issue("localhost", "127.0.0.1").write(folder)
        devices = Devices(folder, authority.pem)
        await devices.start()
        try:
            return await _measure(n, run, devices, folder, files)
        finally:
            await devices.stop()


async def _measure(n: int, run: Run, devices: Devices, folder: Path, files: Files) -> Measured:
    async with Stage("edge.tls_port=0", f"edge.tls_cert={files.cert}", f"edge.tls_key={files.key}") as stage:
        empty = private_bytes(stage.pid)
        run.say(f"{n:,} devices register")
        await devices.do("connect", port=stage.device_port, count=n, tls=False)
        plain, plain_s, _ = await _come_back(n, stage, devices, tls=False)
        run.say("the same over TLS")
        secure, secure_s, per_s = await _come_back(n, stage, devices, tls=True)
        await devices.do("drop")
        await stage.stop_gateway(signal.SIGTERM)
    run.say("the same number at a server of uvloop, and at a bare accept loop")
    peer, _ = await _hold(n, "uvloop", devices, folder, files)
    _, floor_s = await _hold(n, "accept", devices, folder, files)
    value = (secure - empty) / n
    shake_us = (secure_s - plain_s) / n * 1e6
    floor_us = floor_s / n * 1e6
    return Measured(
        value=value,
        unit="bytes",
        n=n,
        peer=peer / n,
        ratio=value / (peer / n),
        note=f"without TLS {(plain - empty) / n:,.0f} bytes; CPU of a full handshake {shake_us:,.0f} µs, of a bare "
        f"accept loop's {floor_us:,.0f} µs; {per_s:,.0f} logins/s, as fast as one client goes",
        more={
            "plain_bytes": (plain - empty) / n,
            "process_empty_bytes": empty,
            "handshake_cpu_us": shake_us,
            "floor_handshake_cpu_us": floor_us,
            "logins_per_s": per_s,
        },
    )


async def _come_back(n: int, stage: Stage, devices: Devices, *, tls: bool) -> tuple[int, float, float]:
    """The gateway is restarted and all devices return: (its private bytes, CPU seconds of the logins, logins a
    second)."""
    await devices.do("drop")
    await stage.stop_gateway(signal.SIGTERM)
    await stage.start_gateway()
    before = cpu_seconds(stage.pid)
    port = stage.device_tls_port if tls else stage.device_port
    answer = await devices.do("connect", port=port, count=n, tls=tls)
    spent = cpu_seconds(stage.pid) - before
    await asyncio.sleep(SETTLE_S)
    return private_bytes(stage.pid), spent, float(answer["per_s"])


async def _hold(n: int, kind: str, devices: Devices, folder: Path, files: Files) -> tuple[int, float]:
    """(private bytes that n connections take at this server, CPU seconds of accepting them)."""
    async with _peer(kind, folder, files) as (pid, port):
        empty, before = private_bytes(pid), cpu_seconds(pid)
        await devices.do("connect", port=port, count=n, tls=True, bare=True)
        spent = cpu_seconds(pid) - before
        await asyncio.sleep(SETTLE_S)
        held = private_bytes(pid) - empty
        await devices.do("drop")
    return held, spent


@asynccontextmanager
async def _peer(kind: str, folder: Path, files: Files) -> AsyncIterator[tuple[int, int]]:
    """(process id, port)."""
    process = Process(f"the {kind} server", folder)
    await process.start([sys.executable, "-m", "bench.system.tls_peers", kind, *map(str, files)], piped=True)
    try:
        assert process.child.stdout is not None
        line = await asyncio.wait_for(process.child.stdout.readline(), ANSWER_S)
        if not line:
            raise BenchFailed(f"the {kind} server did not start: {process.said()}")
        yield process.pid, int(line)
    finally:
        await process.stop(signal.SIGKILL)
