"""P10: from the start of the gateway's process, on a store with many registrations and pending pushes, until a device
that logs in has its first pending push.

The store's pages are in the page cache, as after a crash or an upgrade on the same machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from pathlib import Path

from bench.system.big_store import BigStore, account_of, build, version_of
from bench.system.figures import Measured, Run
from bench.system.peer import free_port
from bench.system.stage import APP, BenchFailed, Stage, resident_bytes

FULL, QUICK = (10_000_000, 1_000_000), (200_000, 20_000)
#: a device tries again so soon after a refused connection
RETRY_S = 0.005
WAIT_S = 300.0


async def take(run: Run) -> Measured:
    registrations, pending = QUICK if run.quick else FULL
    with tempfile.TemporaryDirectory(prefix="heliograph-big-") as folder:
        run.say(f"a store with {registrations:,} registrations and {pending:,} pending pushes")
        began = time.monotonic()
        store = await build(Path(folder) / "store", registrations, pending)
        run.say(f"built in {time.monotonic() - began:.0f} s; the gateway starts")
        return await measure(store)


async def measure(store: BigStore) -> Measured:
    port = free_port()
    stage = Stage(f"edge.port={port}", store=store.folder, key="unused")
    # in the middle of the journal, so that nothing is gained by its place
    number = store.every * (store.pending // 2)
    began = time.monotonic()
    device = asyncio.create_task(first_push(port, store, number))
    try:
        async with stage:
            ready_s = time.monotonic() - began
            logged_in, delivered = await asyncio.wait_for(device, WAIT_S)
            resident = resident_bytes(stage.pid)
    finally:
        device.cancel()
    return Measured(
        value=delivered - began,
        unit="s",
        n=store.registrations,
        note=f"{store.pending:,} pending; ready after {ready_s:.1f} s, logged in after {logged_in - began:.1f} s; "
        f"{resident / 1e9:.2f} GB resident, pages of the store included",
        more={"ready_s": ready_s, "login_s": logged_in - began, "pending": store.pending, "resident_bytes": resident},
    )


async def first_push(port: int, store: BigStore, number: int) -> tuple[float, float]:
    """Knock until the door is open, log in, register; returns when WELCOME came and when the first NOTIFY came."""
    from gateway.model.frames import FrameReader, FrameType, Hello, Notify, Register, build_frame, parse_body

    hello = Hello(v=1, device=store.device(number), secret=store.secret(number))
    register = Register(req=1, app=APP, version=version_of(number), account=account_of(number))
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            break
        except OSError:
            await asyncio.sleep(RETRY_S)
    frames = FrameReader()
    logged_in = 0.0
    writer.write(build_frame(FrameType.HELLO, hello) + build_frame(FrameType.REGISTER, register))
    try:
        while data := await reader.read(65_536):
            for kind, body in frames.feed(data):
                if kind == FrameType.WELCOME:
                    logged_in = time.monotonic()
                elif kind == FrameType.NOTIFY:
                    at = time.monotonic()
                    writer.write(build_frame(FrameType.ACK, [parse_body(body, Notify).id]))
                    await writer.drain()
                    return logged_in, at
                elif kind == FrameType.TOKEN and b"created\xc3" in body:
                    raise BenchFailed("the device was not found in the store: its registration was made anew")
                elif kind in (FrameType.ERROR, FrameType.GOAWAY):
                    raise BenchFailed(f"the gateway refused the device: {body!r}")
    finally:
        with contextlib.suppress(ConnectionError):
            writer.close()
    raise BenchFailed("the gateway closed the device's connection")
