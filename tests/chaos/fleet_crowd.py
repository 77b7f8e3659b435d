"""Devices of a fleet: each the SDK's own Device with some registrations, at any node, gone to another when the link
ends; all that comes and goes is written into the history.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import random
from collections.abc import Sequence
from enum import StrEnum

from fleet_history import Acked, Bound, Frame, History, LinkDown, LinkUp, Shown, Stopped

from gateway.client import Device, MemoryCredentials
from gateway.client.content import AckPolicy, Notification
from gateway.client.errors import DeviceClosed, LinkLost
from gateway.client.events import BindState, Closed
from gateway.client.link import Link
from gateway.client.registration import Registration
from gateway.model.errors import GatewayError
from gateway.model.frames import FrameReader, FrameType, Notify, parse_body, parse_ids
from gateway.tour.fleet_home import GatewayNode

VERSIONS = ("1.0", "1.5", "2.0", "3.1")
COLOURS = ("red", "green", "blue", "black")
#: a device never waits longer before the next node: it is impatient, that much happens in little time
_LONGEST_WAIT_S = 1.0
#: a link that brought no TOKEN by then is given up; a node that is paused takes connections and says nothing
_PATIENCE_S = 4.0
_MOST_FRAME_BYTES = 1 << 20


class Temper(StrEnum):
    PROMPT = "acks at once"
    LATE = "acks when the user saw it, past the ack time at times"
    RESTLESS = "leaves and comes back, to any node"
    SLEEPER = "is away most of the time"


class _Heard(Device):
    """A Device that knows all nodes, and whose frames are overheard."""

    def __init__(self, owner: FleetDevice, nodes: Sequence[GatewayNode]) -> None:
        self._owner = owner
        self._names = {node.devices: node.name for node in nodes}
        host, port = nodes[0].devices
        super().__init__(
            host,
            port,
            nodes=[f"{node.host}:{node.device_port}" for node in nodes[1:]],
            store=owner.credentials,
            label=f"device-{owner.number}",
            heartbeat=2,
            heartbeat_max=3,
            dedupe=1_000_000,
            sleep=owner.wait,
            random=owner.random,
        )
        #: where its link is, or was last
        self.node_name = ""
        self._number = 0
        self._came = FrameReader(_MOST_FRAME_BYTES)
        self._left = FrameReader(_MOST_FRAME_BYTES)

    def roam(self, place: int) -> None:
        """The next link is to another node, as after another network: the SDK stays where it is well otherwise."""
        self._addresses._at = place % len(self._names)
        self.cut()

    async def _one_link(self) -> Closed:
        try:
            async with asyncio.timeout(_PATIENCE_S) as patience:
                watch = asyncio.create_task(self._end_the_wait(patience))
                try:
                    return await super()._one_link()
                finally:
                    watch.cancel()
        except TimeoutError:
            return Closed(LinkLost("No patience left."), retry=True)

    async def _end_the_wait(self, patience: asyncio.Timeout) -> None:
        while not self._owner.is_bound:
            await asyncio.sleep(0.1)
        patience.reschedule(None)

    def on_connected(self, link: Link) -> None:
        assert link._transport is not None
        peer = link._transport.get_extra_info("peername") or ("", 0)
        self.node_name = self._names.get(tuple(peer[:2]), "")
        self._number = self._owner.link_up(self.node_name)
        self._came, self._left = FrameReader(_MOST_FRAME_BYTES), FrameReader(_MOST_FRAME_BYTES)
        write, number = link.write, self._number

        def overheard(data: bytes) -> None:
            for kind, body in self._left.feed(data):
                if kind in (FrameType.ACK, FrameType.WHOLE, FrameType.SHOWN) and self._number == number:
                    self._owner.note_acks(number, parse_ids(body))
            write(data)

        link.write = overheard  # type: ignore[method-assign]
        super().on_connected(link)

    def on_data(self, link: Link, data: bytes) -> None:
        if link is self._link:
            for kind, body in self._came.feed(data):
                if kind == FrameType.NOTIFY:
                    self._owner.note_frame(self._number, parse_body(body, Notify))
        super().on_data(link, data)

    def on_gone(self, link: Link) -> None:
        self._owner.link_down(self._number)
        self._number = 0
        super().on_gone(link)


_link_numbers = itertools.count(1)


class FleetDevice:
    """One device; outlives its links."""

    def __init__(
        self,
        number: int,
        nodes: Sequence[GatewayNode],
        history: History,
        rng: random.Random,
        *,
        temper: Temper = Temper.PROMPT,
        mail_accounts: int = 0,
    ) -> None:
        self.number = number
        self.temper = temper
        self.version = VERSIONS[number % len(VERSIONS)]
        self.colour = COLOURS[number % len(COLOURS)]
        self.alias = f"user-{number // 3}"
        self.credentials = MemoryCredentials()
        self.obedient = False
        #: one account of the app that gets broadcasts: which of several has them is the SDK's choice (A4)
        self.names = [f"{number}/shop/account-{number}"]
        self.names += [f"{number}/mail/account-{number}-{account}" for account in range(mail_accounts)]
        #: name → token
        self.tokens: dict[str, str] = {}
        self.registrations: list[Registration] = []
        self.device: _Heard | None = None
        self._nodes = list(nodes)
        self._history = history
        self._rng = rng
        self._name_of: dict[str, str] = {}  # token → name
        self._awake = asyncio.Event()
        self._awake.set()

    # --- what its Device asks

    def random(self) -> float:
        return self._rng.random()

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, self._rng.uniform(0.05, _LONGEST_WAIT_S)))
        await self._awake.wait()

    @property
    def node_name(self) -> str:
        """Where its link is, or was last."""
        return self.device.node_name if self.device is not None else ""

    @property
    def is_bound(self) -> bool:
        """Its link is up and all its tokens are known there."""
        device = self.device
        if device is None or device._link is None or device._link.gone.done():
            return False
        return bool(self.registrations) and all(r._binding.state is BindState.BOUND for r in self.registrations)

    # --- what is overheard

    def link_up(self, node: str) -> int:
        number = next(_link_numbers)
        self._history.note(LinkUp(link=number, device=self.number, node=node))
        return number

    def link_down(self, link: int) -> None:
        if link:
            self._history.note(LinkDown(link=link))

    def note_frame(self, link: int, notify: Notify) -> None:
        reg = self._name_of.get(notify.token, "") if notify.token else self.of_app(notify.app)
        whole = not notify.more or bool(notify.data)
        self._history.note(Frame(link=link, reg=reg, id=notify.id, op=notify.title, whole=whole))

    def of_app(self, app: str) -> str:
        """Whose broadcasts of the app are; empty: nobody's."""
        return next((name for name in self.names if name.split("/")[1] == app), "")

    def note_acks(self, link: int, ids: list[int]) -> None:
        self._history.note(Acked(link=link, ids=ids))

    # --- its life

    async def start(self) -> None:
        """Registered: returns when it has its tokens."""
        self.device = _Heard(self, self._nodes)
        self.device.start()
        for name in self.names:
            _, app, account = name.split("/")
            registration = await self.device.register(
                app,
                self.version,
                account=account,
                keep=True,
                alias=self.alias,
                tags=[self.colour],
                ack=AckPolicy.DISPLAY if self.temper is Temper.LATE else AckPolicy.RECEIPT,
                on_message=lambda message, name=name: self._on_message(name, message),  # type: ignore[misc]
                on_token=lambda token, name=name: self._on_token(name, token),  # type: ignore[misc]
            )
            self.registrations.append(registration)
            self._on_token(name, registration.token)

    def _on_token(self, name: str, token: str) -> None:
        self.tokens[name] = token
        self._name_of[token] = name
        self._history.note(Bound(reg=name, token=hashlib.sha256(token.encode()).hexdigest()[:12]))

    def _on_message(self, name: str, message: Notification) -> None:
        self._history.note(Shown(reg=name, id=message.id, op=message.title))
        if self.temper is Temper.LATE:
            delay = 0.0 if self.obedient else self._rng.uniform(0, 1.5)
            asyncio.get_running_loop().call_later(delay, message.shown)

    async def live(self) -> None:
        """Its temper, until it is cancelled."""
        while True:
            if self.obedient or self.temper in (Temper.PROMPT, Temper.LATE):
                await asyncio.sleep(0.5)
            elif self.temper is Temper.RESTLESS:
                await asyncio.sleep(self._rng.uniform(0.5, 6))
                self._cut()
            else:
                await asyncio.sleep(self._rng.uniform(0.5, 2))
                await self._sleep()
            self._see_whether_it_stopped()

    def _cut(self) -> None:
        if self.device is not None:
            self.device.roam(self._rng.randrange(1_000))

    async def _sleep(self) -> None:
        """Away for a while."""
        self._awake.clear()
        self._cut()
        try:
            await asyncio.sleep(self._rng.uniform(1, 6))
        finally:
            self._awake.set()

    def _see_whether_it_stopped(self) -> None:
        device = self.device
        if device is not None and device.error is not None and not isinstance(device.error, DeviceClosed):
            name = getattr(device.error, "name", type(device.error).__name__)
            self._history.note(Stopped(device=self.number, error=f"{name}: {device.error}"))
            self.device = None

    async def close(self) -> None:
        if self.device is not None:
            await self.device.aclose()


class FleetCrowd:
    """All devices of a run."""

    def __init__(self, nodes: Sequence[GatewayNode], history: History, rng: random.Random) -> None:
        self.devices: list[FleetDevice] = []
        self._nodes = nodes
        self._history = history
        self._rng = rng
        self._lives: list[asyncio.Task[None]] = []

    def people(self, count: int) -> None:
        """Every temper, two apps, some devices with two accounts."""
        tempers = (Temper.PROMPT,) * 5 + (Temper.LATE,) * 2 + (Temper.RESTLESS,) * 2 + (Temper.SLEEPER,)
        for number in range(count):
            self.devices.append(
                FleetDevice(
                    number,
                    self._nodes,
                    self._history,
                    random.Random(self._rng.random()),
                    temper=tempers[number % len(tempers)],
                    mail_accounts=(2, 0, 0, 1)[number % 4],
                )
            )

    async def start(self, at_once: int = 16) -> None:
        gate = asyncio.Semaphore(at_once)

        async def bring_up(device: FleetDevice) -> None:
            async with gate:
                await device.start()

        await asyncio.gather(*(bring_up(device) for device in self.devices))
        self._lives = [asyncio.create_task(device.live()) for device in self.devices]

    async def settle(self, timeout_s: float) -> None:
        """From now on everybody is there and acks; returns when all are bound. TimeoutError says who is not."""
        for device in self.devices:
            device.obedient = True
        end = asyncio.get_running_loop().time() + timeout_s
        while away := [device.number for device in self.devices if not device.is_bound]:
            if asyncio.get_running_loop().time() > end:
                raise TimeoutError(f"devices {away} are not connected")
            await asyncio.sleep(0.1)

    async def fetch(self, timeout_s: float) -> None:
        """Every device asks for what waits, as an app in the foreground does: a body that was not acked in its time may
        be confirmed no other way. TimeoutError."""

        async def fetch(registration: Registration) -> None:
            while True:
                with contextlib.suppress(LinkLost, GatewayError):
                    await registration.fetch()
                    return
                await asyncio.sleep(0.1)

        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*(fetch(one) for device in self.devices for one in device.registrations))

    async def close(self) -> None:
        for life in self._lives:
            life.cancel()
        ended = await asyncio.gather(*self._lives, return_exceptions=True)
        await asyncio.gather(*(device.close() for device in self.devices), return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error
