"""What the clauses of IM play on: a gateway whose codes go out by an SMSC, users with devices, and the networks of
others that are installed here; must never look inside the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from gateway.client import Device, Im
from gateway.model.im_people import Item, ItemKind
from gateway.paging.sms.local import LocalSmsc
from gateway.tour.im_networks import NETWORKS, Net, missing_of
from gateway.tour.stage import Skipped, Stage, check, eventually

SETTINGS = (
    "im.app=im",
    "im.private_hosts=true",
    "im.phone_codes=sms",
    "im.linger_s=0.5",
    "im.presence_s=0.05",
    "im.irc_line_s=0.05",
    "im.social_poll_s=0.3",
    "im.retry_s=0.2",
    "im.retry_max_s=1",
)
_CODE = re.compile(r"\b[0-9]{6}\b")


class Person:
    """A user with a device."""

    def __init__(self, scene: Scene, name: str, number: str) -> None:
        self.scene = scene
        self.name = name
        self.number = number
        self.user = ""
        self.key = ""
        self.items: list[Item] = []
        self.told: list[Item] = []
        self.im: Im
        self._stack = contextlib.AsyncExitStack()
        self._credentials: Any = None

    async def come(self) -> None:
        """On line, signed in where it was before."""
        device = Device("127.0.0.1", self.scene.stage.device_port, store=self._credentials)
        self.device = await self._stack.enter_async_context(device)
        self._credentials = self.device._store
        self.im = Im(await self.device.register("im", "1.0"))
        self.im.on_told(self.told.append)
        reading = asyncio.create_task(self._read())
        self._stack.callback(reading.cancel)

    async def leave(self) -> None:
        stack, self._stack = self._stack, contextlib.AsyncExitStack()
        await stack.aclose()

    async def _read(self) -> None:
        async for item in self.im.items():
            self.items.append(item)

    async def sign_in(self) -> None:
        """D1: with the code that came to the number."""
        sent = len(self.scene.smsc.submissions)
        await self.im.register(self.number)
        await self.scene.until(lambda: len(self.scene.smsc.submissions) > sent, "the code by short message")
        code = self.scene.last_code()
        self.user = (await self.im.verify(self.number, code, self.name))["user"]

    async def over_rest(self, http: httpx.AsyncClient) -> dict[str, str]:
        """The header of a session of theirs."""
        sent = len(self.scene.smsc.submissions)
        answer = await http.post("/v1/im/register", json={"address": self.number})
        check(answer.status_code == 200, f"register over REST: {answer.status_code} {answer.text}")
        await self.scene.until(lambda: len(self.scene.smsc.submissions) > sent, "the code by short message")
        body = {"address": self.number, "code": self.scene.last_code()}
        answer = await http.post("/v1/im/verify", json=body)
        check(answer.status_code == 200, f"verify over REST: {answer.status_code} {answer.text}")
        return {"authorization": f"Bearer {answer.json()['key']}"}

    async def bind(self, net: Net, credentials: Any = None, name: str = "") -> int:
        """D1; the account's number, once it is connected."""
        view = await self.im.bind(net.name, name or net.name, credentials or net.credentials)
        number = int(view["number"])

        async def connected() -> bool:
            accounts = await self.im.accounts()
            return any(one["number"] == number and one["state"] == "connected" for one in accounts)

        if credentials is None:
            await eventually(connected, f"the session at {net.server}", 30.0)
        return number

    def of(self, kind: ItemKind) -> list[Item]:
        return [item for item in self.items if item.kind is kind]

    def messages(self, account: int | None = None) -> list[Item]:
        """That others wrote."""
        return [
            item
            for item in self.of(ItemKind.MESSAGE)
            if item.envelope is not None
            and not item.envelope.sender.is_self
            and (account is None or item.account == account)
        ]

    async def result(self, number: int) -> Item:
        """What became of a message."""

        def found() -> list[Item]:
            return [item for item in self.of(ItemKind.RESULT) if item.outgoing == number]

        await self.scene.until(found, "the result of a message", 30.0)
        return found()[0]


class Scene:
    def __init__(self, stage: Stage, smsc: LocalSmsc, nets: Sequence[Net], stack: contextlib.AsyncExitStack) -> None:
        self.stage = stage
        self.smsc = smsc
        self.nets = nets
        self._stack = stack

    async def person(self, name: str, number: str) -> Person:
        """Signed in."""
        person = Person(self, name, number)
        await person.come()
        self._stack.push_async_callback(person.leave)
        await person.sign_in()
        return person

    async def friends(self) -> tuple[Person, Person]:
        """Ann and Bob, who are friends (D11)."""
        ann, bob = await self.person("Ann", "+491511234567"), await self.person("Bob", "+491511234568")
        await ann.im.ask("ask_friend", to=bob.user)
        await self.until(lambda: bob.of(ItemKind.FRIEND_REQUEST), "the friend request")
        await bob.im.ask("answer_friend", user=ann.user, accept=True)
        await self.until(lambda: ann.of(ItemKind.FRIEND_ANSWER), "the answer to it")
        return ann, bob

    def last_code(self) -> str:
        # digits are the same in GSM 7 bit and ASCII
        found = _CODE.search(self.smsc.submissions[-1].message.message.decode("latin-1"))
        check(found is not None, "the short message holds no code")
        assert found is not None
        return found[0]

    async def until(self, holds: Callable[[], Any], what: str, timeout_s: float = 15.0) -> None:
        async def probe() -> bool:
            return bool(holds())

        await eventually(probe, what, timeout_s)

    def http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.stage.api_port}", timeout=30, trust_env=False)

    def check_private(self, *secrets: str) -> None:
        """No number, address, text or password in the gateway's log."""
        shown = (self.stage.folder / "gateway.log").read_text()
        check(not any(secret in shown for secret in (*secrets, "1511234567", "1511234568")), "the log shows who it was")


@contextlib.asynccontextmanager
async def im_scene(
    *networks: str, settings: Sequence[str] = (), of_nets: Callable[[Sequence[Net]], Sequence[str]] = lambda _: ()
) -> AsyncIterator[Scene]:
    """With those of the networks whose servers are installed; `of_nets`: settings naming them. Skipped where networks
    are asked for and none is."""
    missing = missing_of()
    there = [name for name in networks if name not in missing]
    if networks and not there:
        raise Skipped("no server of these networks is here: install " + ", ".join(missing[name] for name in networks))
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="heliograph-tour-")))
        nets = []
        for name in there:
            (folder / name).mkdir()
            nets.append(await stack.enter_async_context(NETWORKS[name](folder / name)))
        smsc = LocalSmsc()
        port = await smsc.start()
        stack.push_async_callback(smsc.close)
        stage = Stage(*SETTINGS, f"im.networks={','.join(there)}", *settings, *of_nets(nets))
        secret = stage.add_secret("smsc-password", smsc.password)
        stage.add_settings(
            f"paging.smscs=smpp://{smsc.system_id}@127.0.0.1:{port}", f"paging.smsc_password_file={secret}"
        )
        await stack.enter_async_context(stage)
        yield Scene(stage, smsc, nets, stack)


def left_out(networks: Sequence[str]) -> str:
    """For a row's text: what was not shown, and the remedy."""
    missing = missing_of()
    names = [f"{name} (install {missing[name]})" for name in networks if name in missing]
    return "; NOT SHOWN: " + ", ".join(names) if names else ""
