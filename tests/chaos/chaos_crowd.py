"""Devices on real TCP that behave as devices do: some ack at once, some now and then, some late, some come and go.

They speak the frames of docs/frames.md with the codec of `gateway.model.frames` and keep no queue of their own: what
they see goes into the ledger as it comes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from chaos_gateway import Deadline, GatewayProcess
from chaos_ledger import Ledger, LinkMark

from gateway.model.frames import (
    Done,
    Error,
    Fetch,
    Fetched,
    FrameReader,
    FrameType,
    Goaway,
    Hello,
    Notify,
    Register,
    State,
    Token,
    Welcome,
    build_frame,
    parse_body,
)

APP = "shop"


class Temper(StrEnum):
    PROMPT = "acks at once"
    FITFUL = "acks every other"
    LATE = "acks after the ack time"
    RESTLESS = "acks at once, leaves and comes back"
    SLEEPER = "is away most of the time"


class Link(asyncio.Protocol):
    """One connection. Frames go to the device; `lost` is set at its end."""

    def __init__(self, device: ChaosDevice, mark: LinkMark) -> None:
        self.device = device
        self.mark = mark
        self.lost = asyncio.Event()
        self.bound = asyncio.Event()
        self.goaway: Goaway | None = None
        self.errors: list[Error] = []
        self.pongs = 0
        self.heard = asyncio.Event()  # set with every batch of frames
        #: acks sent since the last question, and those before a question that is not answered yet
        self.acks: list[int] = []
        self.questions: dict[int, list[int]] = {}
        self.fetched: dict[int, Fetched] = {}
        self._frames = FrameReader(1 << 20)
        self._transport: asyncio.Transport | None = None
        self._req = 10

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for kind, body in self._frames.feed(data):
            self.device.on_frame(self, kind, body)
        self.device.after_frames(self)
        self.heard.set()
        self.heard.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self.heard.set()

    @property
    def is_up(self) -> bool:
        return not self.lost.is_set()

    def send(self, kind: FrameType, body: Any = None) -> None:
        if self._transport is not None and self.is_up:
            self._transport.write(build_frame(kind, body))

    def ask(self) -> int:
        """A question whose answer proves that all acks sent before it were processed."""
        self._req += 1
        self.questions[self._req] = self.acks
        self.acks = []
        self.send(FrameType.STATE, State(req=self._req))
        return self._req

    def fetch(self, token: str, ids: list[int] | None = None) -> int:
        self._req += 1
        self.send(FrameType.FETCH, Fetch(req=self._req, token=token, ids=ids or []))
        return self._req

    async def fetch_all(self, token: str) -> Fetched:
        """FETCH what waits, and wait until the acks of what came were processed."""
        asked = self.fetch(token)
        await self.until(lambda: asked in self.fetched, "FETCHED")
        question = self.ask()
        await self.until(lambda: question not in self.questions, "DONE")
        return self.fetched.pop(asked)

    def close(self, *, abort: bool = False) -> None:
        if self._transport is None:
            return
        if abort:
            self._transport.abort()
        else:
            self._transport.close()

    async def until(self, happened: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
        """Wait until it is so; ConnectionError where the link ends first."""
        async with Deadline(timeout_s, what):
            while not happened():
                if not self.is_up:
                    raise ConnectionError(f"the link ended before {what}")
                await self.heard.wait()


class ChaosDevice:
    """One device with one registration; outlives its links."""

    def __init__(
        self,
        number: int,
        ledger: Ledger,
        rng: random.Random,
        *,
        temper: Temper = Temper.PROMPT,
        version: str = "1.0",
        alias: str = "",
        tags: tuple[str, ...] = (),
    ) -> None:
        self.number = number
        self.temper = temper
        self.version = version
        self.alias = alias
        self.tags = tags
        self.token = ""
        self.link: Link | None = None
        #: True: acks everything at once from now on, whatever its temper
        self.obedient = False
        #: every GOAWAY with the loop's time
        self.sent_away: list[tuple[float, Goaway]] = []
        #: errors it may be told; any other breaks a rule
        self.expects: frozenset[str] = frozenset()
        self._ledger = ledger
        self._rng = rng
        self._device = ""
        self._secret = b""
        self._fresh: list[int] = []  # to ack after this batch of frames

    async def knock(self, gateway: GatewayProcess) -> Link:
        """HELLO and REGISTER in one go."""
        mark = self._ledger.opened(self.number, gateway.generation)
        loop = asyncio.get_running_loop()
        _, link = await loop.create_connection(lambda: Link(self, mark), "127.0.0.1", gateway.device_port)
        self.link = link
        first = not self.token
        link.send(FrameType.HELLO, Hello(v=1, device=self._device, secret=self._secret))
        link.send(
            FrameType.REGISTER,
            Register(
                req=1,
                app=APP,
                version=self.version,
                account=f"account {self.number}",
                alias=self.alias if first else None,
                tags=list(self.tags) if first else None,
            ),
        )
        return link

    async def connect(self, gateway: GatewayProcess) -> Link:
        """Connected and registered; OSError where the gateway is gone, before TOKEN too."""
        link = await self.knock(gateway)
        try:
            await link.until(link.bound.is_set, "TOKEN")
        except BaseException:
            link.close(abort=True)
            raise
        return link

    # --- frames

    def on_frame(self, link: Link, kind: int, body: bytes) -> None:
        if kind == FrameType.NOTIFY:
            self._on_notify(link, parse_body(body, Notify))
        elif kind == FrameType.DONE:
            acked = link.questions.pop(parse_body(body, Done).req, [])
            self._ledger.processed(link.mark, acked)
        elif kind == FrameType.WELCOME:
            welcome = parse_body(body, Welcome)
            self._device, self._secret = welcome.device, welcome.secret or self._secret
        elif kind == FrameType.TOKEN:
            token = parse_body(body, Token)
            self._ledger.token(self.number, token.token, created=token.created)
            self.token = token.token
            link.bound.set()
        elif kind == FrameType.FETCHED:
            fetched = parse_body(body, Fetched)
            link.fetched[fetched.req] = fetched
        elif kind == FrameType.PONG:
            link.pongs += 1
        elif kind == FrameType.GOAWAY:
            self._on_goaway(link, parse_body(body, Goaway))
        elif kind == FrameType.ERROR:
            error = parse_body(body, Error)
            link.errors.append(error)
            if error.name not in self.expects:
                self._ledger.violate(f"device {self.number} was told {error.name}: {error.message}")
        elif kind != FrameType.RECALL:
            self._ledger.violate(f"device {self.number} got a frame of type {kind:#04x}")

    def _on_goaway(self, link: Link, goaway: Goaway) -> None:
        link.goaway = goaway
        self.sent_away.append((asyncio.get_running_loop().time(), goaway))
        if goaway.name != "draining":
            self._ledger.violate(f"device {self.number} was sent away: {goaway.name}")

    def _on_notify(self, link: Link, note: Notify) -> None:
        self._ledger.notified(link.mark, note.id, note.title, whole=not note.more)
        if note.more:
            # Who asks for the body has the light form; its ack is that of the body (B2).
            link.fetch(self.token, [note.id])
        elif self.obedient or self.temper in (Temper.PROMPT, Temper.RESTLESS, Temper.SLEEPER):
            self._fresh.append(note.id)
        elif self.temper is Temper.LATE:
            pause = self._rng.uniform(0.3, 1.2)
            asyncio.get_running_loop().call_later(pause, self._ack, link, [note.id])
        elif self._rng.random() < 0.5:
            self._fresh.append(note.id)

    def after_frames(self, link: Link) -> None:
        if self._fresh:
            ids, self._fresh = self._fresh, []
            self._ack(link, ids)

    def _ack(self, link: Link, ids: list[int]) -> None:
        if not link.is_up:
            return
        for note_id in ids:
            self._ledger.ack_sent(link.mark, note_id)
        link.send(FrameType.SHOWN if self._rng.random() < 0.1 else FrameType.ACK, ids)
        link.acks += ids
        if self.obedient or self._rng.random() < 0.4:
            link.ask()

    # --- the end

    async def drain(self) -> None:
        """Fetch and ack until nothing waits for this device any more; its link must be up."""
        link = self.link
        assert link is not None
        while True:
            fetched = await link.fetch_all(self.token)
            if not fetched.count and not fetched.more:
                return


class Crowd:
    """All devices of a run, each kept connected by a task of its own as its temper wants."""

    def __init__(self, gateway: GatewayProcess, ledger: Ledger, rng: random.Random) -> None:
        self.devices: list[ChaosDevice] = []
        self._gateway = gateway
        self._ledger = ledger
        self._rng = rng
        self._tasks: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()  # sleepers may come
        self._settling = False

    def add(self, **about: Any) -> ChaosDevice:
        device = ChaosDevice(len(self.devices), self._ledger, random.Random(self._rng.random()), **about)
        self.devices.append(device)
        return device

    async def register_all(self, at_once: int = 50) -> None:
        """Every device gets its token; the load's audiences are fixed from then on."""
        for at in range(0, len(self.devices), at_once):
            await asyncio.gather(*(device.connect(self._gateway) for device in self.devices[at : at + at_once]))

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._live(device)) for device in self.devices]

    def wake_sleepers(self) -> None:
        """They come now, for a moment."""
        self._wake.set()
        self._wake.clear()

    async def settle(self) -> None:
        """From now on everybody is there and obeys."""
        self._settling = True
        for device in self.devices:
            device.obedient = True
        self.wake_sleepers()
        # New links, so that what was left unacked on the old ones is sent again.
        for device in self.devices:
            if device.link is not None:
                device.link.close()
        await asyncio.gather(*(self._bound(device) for device in self.devices))

    async def _bound(self, device: ChaosDevice) -> None:
        async with Deadline(20, f"device {device.number}"):
            while device.link is None or not device.link.is_up or not device.link.bound.is_set():
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        for device in self.devices:
            if device.link is not None:
                device.link.close(abort=True)
                await device.link.lost.wait()
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def _live(self, device: ChaosDevice) -> None:
        while True:
            if device.temper is Temper.SLEEPER and not self._settling:
                if device.link is not None:
                    device.link.close()
                await self._wake.wait()
            await self._gateway.serving.wait()
            if device.link is None or not device.link.is_up:
                try:
                    await device.connect(self._gateway)
                except OSError:
                    await asyncio.sleep(device._rng.uniform(0.01, 0.05))
                    continue
            link = device.link
            assert link is not None
            if self._settling:
                await link.lost.wait()
            elif device.temper in (Temper.RESTLESS, Temper.SLEEPER):
                try:
                    async with asyncio.timeout(device._rng.uniform(0.05, 1.5)):
                        await link.lost.wait()
                except TimeoutError:
                    link.close(abort=device._rng.random() < 0.5)
                    await link.lost.wait()
            else:
                await link.lost.wait()
