"""K3: from kill -9 of a node until a device on another node has again a push that the dead node had accepted and sent.

The devices take what comes and do not ack; the provider has its 201 of all pushes. The ack time is shorter than the
lease: with a longer one a push may still count as in flight where the device is when its partition is adopted, and then
it is rightly not sent again before that is over. Each run kills another node, and starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import httpx

from bench.system.figures import Measured, Run
from bench.system.fleet_stage import FleetStage
from bench.system.stage import APP, BenchFailed
from gateway.model.frames import FrameReader, FrameType, Hello, Notify, Register, Token, build_frame, parse_body
from gateway.model.registration import parse_token

RUNS_FULL, RUNS_QUICK = 6, 2
#: devices of each run whose registrations the victim owns
DEVICES = 12
#: devices made to find so many, at most
MOST_DEVICES = 400
WAIT_S = 60.0
ACK_MS = 1_000
AGAIN_S = 0.5


@dataclass(slots=True)
class SilentDevice:
    """Logged in and registered, never acks. `came`: moments of each notification, by id."""

    number: int
    port: int
    news: asyncio.Event  # of all of them
    token: str = ""
    came: dict[str, list[float]] = field(default_factory=dict)
    registered: asyncio.Event = field(default_factory=asyncio.Event)
    _writer: asyncio.StreamWriter | None = None
    _task: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        hello = Hello(v=1)
        register = Register(req=1, app=APP, version="1.0", account=f"silent-{self.number}")
        self._writer.write(build_frame(FrameType.HELLO, hello) + build_frame(FrameType.REGISTER, register))
        self._task = asyncio.create_task(self._read(reader))
        await asyncio.wait_for(self.registered.wait(), WAIT_S)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        frames = FrameReader()
        while data := await reader.read(65_536):
            for kind, body in frames.feed(data):
                if kind == FrameType.NOTIFY:
                    self.came.setdefault(parse_body(body, Notify).id, []).append(time.monotonic())
                    self.news.set()
                elif kind == FrameType.TOKEN:
                    self.token = parse_body(body, Token).token
                    self.registered.set()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()


async def devices_of(stage: FleetStage, victim: int, first: int) -> list[SilentDevice]:
    """Connected to the other nodes by turns, owned by the victim."""
    owners = await stage.owners()
    others = [node for node in range(len(stage.home.nodes)) if node != victim]
    found: list[SilentDevice] = []
    news = asyncio.Event()
    for number in range(first, first + MOST_DEVICES):
        device = SilentDevice(number, stage.device_port(others[number % len(others)]), news)
        await device.connect()
        if stage.owner_in(owners, parse_token(device.token) or b"") == victim:
            found.append(device)
            if len(found) == DEVICES:
                return found
        else:
            await device.close()
    raise BenchFailed(f"of {MOST_DEVICES} devices only {len(found)} were owned by one of three nodes")


async def push_all(stage: FleetStage, node: int, devices: list[SilentDevice]) -> None:
    """One to each, accepted and come."""
    headers = {"authorization": f"Bearer {stage.key}"}
    end = time.monotonic() + WAIT_S
    async with httpx.AsyncClient(base_url=stage.api(node), headers=headers, timeout=30, trust_env=False) as http:

        async def push(device: SilentDevice) -> None:
            while (
                answer := await http.post("/v1/push", json={"target": {"token": device.token}, "title": "x"})
            ).status_code != 201:
                if answer.status_code != 503 or time.monotonic() > end:
                    raise BenchFailed(f"a push was refused: {answer.status_code} {answer.text}")
                await asyncio.sleep(AGAIN_S)

        await asyncio.gather(*map(push, devices))
    await until_all(devices, lambda one: bool(one.came))


async def until_all(devices: list[SilentDevice], is_so: Callable[[SilentDevice], bool]) -> None:
    """TimeoutError where it takes too long."""
    news = devices[0].news
    async with asyncio.timeout(WAIT_S):
        while not all(map(is_so, devices)):
            news.clear()
            await news.wait()


async def one_run(stage: FleetStage, victim: int, first: int) -> tuple[float, float]:
    """Seconds from the kill to the first redelivery, and to the last."""
    devices = await devices_of(stage, victim, first)
    try:
        await push_all(stage, (victim + 1) % len(stage.home.nodes), devices)
        killed = time.monotonic()
        await stage.home.nodes[victim].kill()
        await until_all(devices, lambda one: again(one, killed) > 0)
        moments = [again(one, killed) for one in devices]
    except TimeoutError:
        came = sum(bool(again(one, killed)) for one in devices)
        raise BenchFailed(f"after {WAIT_S:g} s only {came} of {len(devices)} pushes came again") from None
    finally:
        await asyncio.gather(*(one.close() for one in devices))
    return min(moments) - killed, max(moments) - killed


def again(device: SilentDevice, killed: float) -> float:
    """When it had its push again; 0: not yet."""
    return next((at for moments in device.came.values() for at in moments if at > killed), 0.0)


async def take(run: Run) -> Measured:
    runs = RUNS_QUICK if run.quick else RUNS_FULL
    firsts, lasts = [], []
    async with FleetStage(f"delivery.ack_ms={ACK_MS}") as stage:
        for number in range(runs):
            victim = number % len(stage.home.nodes)
            first, last = await one_run(stage, victim, number * MOST_DEVICES)
            firsts.append(first)
            lasts.append(last)
            run.say(f"kill {number + 1}: first after {first:.2f} s, the last of {DEVICES} after {last:.2f} s")
            await stage.home.restart(victim)
            await stage.until_settled()
    return Measured(
        value=max(firsts),
        unit="s",
        n=runs,
        note=f"{runs} kills; first again p50 {median(firsts):.2f} s, most {max(firsts):.2f} s; all {DEVICES} again p50 "
        f"{median(lasts):.2f} s, most {max(lasts):.2f} s",
        more={"first_s": firsts, "all_s": lasts, "p50_s": median(firsts), "all_max_s": max(lasts)},
    )
