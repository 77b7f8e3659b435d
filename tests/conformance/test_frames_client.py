"""docs/frames.md is enough: two devices written from that page alone, against a real gateway.

`frames_client.py` and `frames_client.mjs` share no code with the gateway nor with each other. Each test below gives
both of them the same orders, and looks at what came over the wire and at what the provider is told.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.tour.stage import Stage, eventually

FOLDER = Path(__file__).parent
NODE = shutil.which("node") or shutil.which("nodejs")
COMMANDS = {"python": [sys.executable, str(FOLDER / "frames_client.py")]}
if NODE:  # without it, conftest.py says at the end of the run what is missing
    COMMANDS["node"] = [NODE, str(FOLDER / "frames_client.mjs")]
PATIENCE_S = 60.0

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Device:
    """A client process for one test: orders go to it, what it says comes back."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self._port = port
        self._open: set[str] = set()
        self.said: list[dict[str, Any]] = []

    def order(self, do: str, link: str = "a", **fields: Any) -> None:
        assert self._process.stdin is not None
        if do == "open":
            self._open.add(link)
        self._process.stdin.write(json.dumps({"do": do, "link": link, **fields}).encode() + b"\n")

    async def _next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), PATIENCE_S)
        assert line, f"the client ended; it had said {self.said}"
        event: dict[str, Any] = json.loads(line)
        assert "broken" not in event, event
        if event.get("closed"):
            self._open.remove(event["link"])
        return event

    async def close(self) -> None:
        """Close what is open still, so that the next test starts with nothing."""
        for link in self._open:
            self.order("close", link)
        while self._open:
            await self._next()

    async def event(self, **wanted: Any) -> dict[str, Any]:
        """The first event with these fields, of those said and of those to come; the others stay for later."""
        at = 0
        while True:
            for at in range(at, len(self.said)):  # noqa: B020
                if all(self.said[at].get(key) == value for key, value in wanted.items()):
                    return self.said.pop(at)
            try:
                self.said.append(await self._next())
            except TimeoutError:
                raise AssertionError(f"no {wanted}, but {self.said}") from None
            at = len(self.said) - 1

    async def frame(self, name: str, link: str = "a", **wanted: Any) -> dict[str, Any]:
        body: dict[str, Any] = (await self.event(frame=name, link=link, **wanted))["body"]
        return body

    async def notify(self, title: str, verdict: str, link: str = "a") -> dict[str, Any]:
        """The next NOTIFY, which is to be this one, taken by the client as `verdict`."""
        event = await self.event(frame="NOTIFY", link=link)
        body: dict[str, Any] = event["body"]
        assert (body["title"], event["verdict"]) == (title, verdict)
        return body

    async def ended(self, link: str = "a") -> Any:
        """Wait for the end of the link; returns the bounds of the wait before the next try."""
        return (await self.event(link=link, closed=True))["back"]

    async def login(self, link: str = "a", **hello: Any) -> dict[str, Any]:
        self.order("open", link, port=self._port, hello=hello)
        return await self.frame("WELCOME", link)

    async def register(self, link: str = "a", **fields: Any) -> str:
        self.order("register", link, **{"app": "shop", "version": "1.0", **fields})
        return str((await self.frame("TOKEN", link))["token"])

    def heard(self, name: str) -> list[Any]:
        return [event["body"] for event in self.said if event.get("frame") == name]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with Stage() as stage:
        yield stage


@pytest_asyncio.fixture(scope="module", params=list(COMMANDS), loop_scope="module")
async def client(request: pytest.FixtureRequest) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *COMMANDS[request.param], stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    yield process
    process.stdin.close()
    assert await process.wait() == 0


@pytest_asyncio.fixture(loop_scope="module")
async def device(client: asyncio.subprocess.Process, stage: Stage) -> AsyncIterator[Device]:
    device = Device(client, stage.device_port)
    yield device
    await device.close()


async def has_shown(stage: Stage, push: str) -> None:
    async def probe() -> bool:
        return "shown" in await stage.steps_of(push)

    await eventually(probe, "the step shown")


async def test_login_brings_an_identity_and_the_terms(device: Device) -> None:
    welcome = await device.login(device="lamp", heartbeat=60, sdk="conformance/1")
    assert welcome["v"] == 1
    assert welcome["device"].startswith("lamp~")
    assert len(bytes.fromhex(welcome["secret"])) > 0
    assert welcome["heartbeat_min"] <= welcome["heartbeat"] == 60 <= welcome["heartbeat_max"]
    assert 0 < welcome["window"] <= 65535
    assert welcome["max_frame"] >= 4096
    assert welcome["now_ms"] > 1_700_000_000_000


async def test_identity_and_token_survive_a_reconnect(device: Device) -> None:
    first = await device.login()
    token = await device.register(account="anna")
    assert len(token) == 22
    assert await device.register(account="bert", keep=True) != token
    device.order("close")
    await device.ended()
    again = await device.login("b", device=first["device"], secret=first["secret"])
    assert again["device"] == first["device"]
    assert "secret" not in again
    device.order("register", "b", app="shop", version="1.0", account="anna")
    answer = await device.frame("TOKEN", "b")
    assert answer["token"] == token
    assert not answer.get("created", False)


async def test_notification_is_delivered_and_acked(device: Device, stage: Stage) -> None:
    await device.login()
    token = await device.register()
    push = await stage.push({"token": token}, "Hello", data={"chat": 7, "deep": [1.5, None, "ü", -40000, True]})
    body = await device.notify("Hello", "message")
    assert body["token"] == token
    assert body["data"] == {"chat": 7, "deep": [1.5, None, "ü", -40000, True]}
    assert body["at"] > 1_700_000_000
    await stage.state_of(push, "acked")


async def test_unconfirmed_comes_again_and_a_duplicate_is_known(device: Device, stage: Stage) -> None:
    first = await device.login()
    device.order("confirm", how="none")
    token = await device.register()  # orders are carried out in turn
    push = await stage.push({"token": token}, "Twice")
    one = await device.notify("Twice", "message")
    device.order("close")
    await device.ended()
    await device.login("b", device=first["device"], secret=first["secret"])
    await device.register("b")
    two = await device.notify("Twice", "again", "b")
    assert two["id"] == one["id"]
    assert (await stage.look(push))["deliveries"][0]["state"] != "acked"
    device.order("ack", "b", ids=[two["id"]])
    await stage.state_of(push, "acked")


async def acked_by(stage: Stage, push: str, registrations: int) -> None:
    async def probe() -> bool:
        return bool((await stage.look(push))["figures"].get("acked") == registrations)

    await eventually(probe, f"ack of {registrations} registrations")


async def test_broadcast(device: Device, stage: Stage) -> None:
    """Once for each registration bound, with one id; who registers later gets it too, while it is live."""
    await device.login()
    await device.register(account="anna")
    await device.register(account="bert", keep=True)
    push = await stage.push({"everyone": True}, "To all", data=[1, 2])
    body = await device.notify("To all", "message")
    assert not body.get("token")
    assert body["app"] == "shop"
    assert body["data"] == [1, 2]
    assert (await device.notify("To all", "again"))["id"] == body["id"]
    await acked_by(stage, push, 2)
    await device.login("later")
    await device.register("later")
    await device.notify("To all", "message", "later")
    await acked_by(stage, push, 3)
    await stage.recall(push)
    assert await device.frame("RECALL", "later") == [body["id"]]


async def test_light_notification_and_its_body(device: Device, stage: Stage) -> None:
    await device.login()
    token = await device.register()
    push = await stage.push({"token": token}, "Photo", data={"size": 5000}, body="on_demand")
    tip = await device.notify("Photo", "tip")
    assert "data" not in tip
    device.order("fetch", token=token, ids=[tip["id"]])
    body = await device.notify("Photo", "message")
    assert body["id"] == tip["id"]
    assert body["data"] == {"size": 5000}
    assert (await device.frame("FETCHED"))["count"] == 1
    await stage.state_of(push, "acked")


async def test_body_of_a_light_broadcast(device: Device, stage: Stage) -> None:
    await device.login()
    token = await device.register()
    push = await stage.push({"everyone": True}, "Big news", data="all of it", body="on_demand")
    tip = await device.notify("Big news", "tip")
    device.order("fetch", token=token, ids=[tip["id"]])
    assert (await device.notify("Big news", "message"))["data"] == "all of it"
    assert (await device.frame("FETCHED"))["count"] == 1
    await stage.recall(push)


async def test_fetch_brings_what_waits(device: Device, stage: Stage) -> None:
    """Below the urgency floor things wait in the gateway; FETCH without ids asks for them."""
    await device.login(urgency=3)
    token = await device.register()
    pushes = [await stage.push({"token": token}, f"Waits {n}", data=n, urgency="low") for n in range(3)]
    device.order("fetch", token=token)
    fetched = await device.frame("FETCHED")
    assert fetched["count"] == 3
    assert {body["title"] for body in device.heard("NOTIFY")} == {"Waits 0", "Waits 1", "Waits 2"}
    for push in pushes:
        await stage.state_of(push, "acked")
    device.order("fetch", token=token)
    assert (await device.frame("FETCHED"))["count"] == 0


async def test_urgency_floor_comes_down_with_state(device: Device, stage: Stage) -> None:
    await device.login(urgency=3)
    token = await device.register()
    await stage.push({"token": token}, "Later", urgency="normal")
    await stage.push({"token": token}, "Now", urgency="high")
    await device.notify("Now", "message")
    device.order("state", urgency=0)
    await device.frame("DONE")
    await device.notify("Later", "message")


async def test_shown_alone_and_after_ack(device: Device, stage: Stage) -> None:
    await device.login()
    token = await device.register()
    push = await stage.push({"token": token}, "Acked, then shown")
    body = await device.notify("Acked, then shown", "message")
    await stage.state_of(push, "acked")
    assert "shown" not in await stage.steps_of(push)
    device.order("shown", ids=[body["id"]])
    await has_shown(stage, push)
    device.order("confirm", how="shown")
    await device.register()  # orders are carried out in turn
    push = await stage.push({"token": token}, "Shown only")
    await device.notify("Shown only", "message")
    await stage.state_of(push, "acked")
    await has_shown(stage, push)


async def test_recall(device: Device, stage: Stage) -> None:
    await device.login()
    device.order("confirm", how="none")
    token = await device.register()  # orders are carried out in turn
    push = await stage.push({"token": token}, "Oops")
    body = await device.notify("Oops", "message")
    await stage.recall(push)
    assert await device.frame("RECALL") == [body["id"]]


async def test_state_changes_the_heartbeat_and_pings_hold_the_link(device: Device) -> None:
    welcome = await device.login()
    device.order("state", heartbeat=welcome["heartbeat_min"], foreground=True)
    assert (await device.frame("DONE"))["heartbeat"] == welcome["heartbeat_min"] == 1
    for _ in range(2):
        await device.frame("PONG")
    device.order("state", heartbeat=86400)
    assert (await device.frame("DONE"))["heartbeat"] == welcome["heartbeat_max"]


async def test_ping_by_hand(device: Device) -> None:
    await device.login()
    device.order("ping")
    await device.frame("PONG")


async def test_unregister(device: Device, stage: Stage) -> None:
    await device.login()
    token = await device.register()
    device.order("unregister", token=token)
    await device.frame("DONE")
    device.order("fetch", token=token)
    error = await device.frame("ERROR")
    assert (error["code"], error["name"], error["req"]) == (32, "unknown_token", 3)
    await stage.push({"token": token}, "Not bound")
    assert await device.register() == token
    await device.notify("Not bound", "message")
    device.order("unregister", token=token, forget=True)
    await device.frame("DONE")
    assert await device.register() != token


async def test_another_account_takes_the_place_of_the_first(device: Device, stage: Stage) -> None:
    await device.login()
    anna = await device.register(account="anna")
    bert = await device.register(account="bert")
    await stage.push({"token": anna}, "For Anna")
    await stage.push({"token": bert}, "For Bert")
    await device.notify("For Bert", "message")
    assert device.heard("NOTIFY") == []


async def test_takeover(device: Device, stage: Stage) -> None:
    first = await device.login()
    await device.login("b", device=first["device"], secret=first["secret"])
    goaway = await device.frame("GOAWAY")
    assert (goaway["code"], goaway["name"]) == (23, "takeover")
    assert await device.ended() is None
    token = await device.register("b")
    await stage.push({"token": token}, "To the newer")
    await device.notify("To the newer", "message", "b")


async def test_unknown_frame_is_refused_and_the_link_goes_on(device: Device) -> None:
    await device.login()
    device.order("raw", hex="7e03c0c0c0")
    error = await device.frame("ERROR")
    assert (error["code"], error["name"]) == (12, "unknown_frame")
    device.order("ping")
    await device.frame("PONG")


async def test_wrong_credentials_are_refused(device: Device, stage: Stage) -> None:
    first = await device.login(device="lamp")
    wrong = [
        {"device": first["device"], "secret": "00" * 32},
        {"device": first["device"]},
        {"secret": first["secret"]},
    ]
    for number, hello in enumerate(wrong):
        link = f"wrong {number}"
        device.order("open", link, port=stage.device_port, hello=hello)
        error = await device.frame("ERROR", link)
        assert (error["code"], error["name"]) == (21, "unauthorized")
        assert await device.ended(link) is None
    bare = await device.login("bare")
    assert (await device.login("bare again", device=bare["device"]))["device"] != bare["device"]
    device.order("ping")
    await device.frame("PONG")


@pytest.mark.parametrize("malformed", ["0902c0c0", "0180808080", "0e0280c0"])
async def test_malformed_frame_ends_the_link(device: Device, malformed: str) -> None:
    await device.login()
    device.order("raw", hex=malformed)
    assert (await device.frame("ERROR"))["name"] == "malformed_frame"
    assert await device.ended() is None


async def test_refused_request_leaves_the_link(device: Device) -> None:
    await device.login()
    refused = [("nobodys", "1", "unknown_app"), ("no name", "1", "invalid_field"), ("shop", 1, "invalid_field")]
    for req, (app, version, name) in enumerate(refused, 1):
        device.order("register", app=app, version=version)
        error = await device.frame("ERROR")
        assert (error["name"], error["req"]) == (name, req)
    await device.register()


async def test_frames_behind_hello_need_no_welcome(device: Device, stage: Stage) -> None:
    device.order("open", port=stage.device_port, hello={})
    device.order("register", app="shop", version="1.0")
    device.order("ping")
    await device.frame("WELCOME")
    await device.frame("TOKEN")
    await device.frame("PONG")


async def test_requests_in_a_row_are_carried_out_in_order(device: Device, stage: Stage) -> None:
    first = await device.login()
    token = await device.register()
    await device.login("b", device=first["device"], secret=first["secret"])
    device.order("register", "b", app="shop", version="1.0")
    device.order("fetch", "b", token=token)
    device.order("unregister", "b", token=token)
    device.order("fetch", "b", token=token)
    assert (await device.frame("TOKEN", "b"))["token"] == token
    assert (await device.frame("FETCHED", "b"))["req"] == 2
    assert (await device.frame("DONE", "b"))["req"] == 3
    error = await device.frame("ERROR", "b")
    assert (error["name"], error["req"]) == ("unknown_token", 4)


async def test_unspoken_version(device: Device, stage: Stage) -> None:
    device.order("open", port=stage.device_port, hello={"v": 9})
    error = await device.frame("ERROR")
    assert (error["name"], error["versions"]) == ("unsupported_version", [1])
    assert await device.ended() is None


async def test_collapse_recalls_the_older_behind_the_newer(device: Device, stage: Stage) -> None:
    await device.login()
    device.order("confirm", how="none")
    token = await device.register()  # orders are carried out in turn
    await stage.push({"token": token}, "1 : 0", collapse_key="score")
    older = await device.notify("1 : 0", "message")
    await stage.push({"token": token}, "2 : 0", collapse_key="score")
    newer = await device.notify("2 : 0", "message")
    assert newer["collapse"] == older["collapse"] == "score"
    assert await device.frame("RECALL") == [older["id"]]


async def test_window_holds_back_and_confirmations_make_room(device: Device, stage: Stage) -> None:
    welcome = await device.login(window=2)
    assert welcome["window"] == 2
    device.order("confirm", how="none")
    token = await device.register()  # orders are carried out in turn
    for title in ("1", "2", "3"):
        await stage.push({"token": token}, title, data="ü" * 1000)
    ids = [(await device.notify(title, "message"))["id"] for title in ("1", "2")]
    device.order("ping")
    await device.frame("PONG")
    assert device.heard("NOTIFY") == []
    device.order("ack", ids=ids)
    await device.notify("3", "message")


async def test_restart_of_the_gateway(device: Device, stage: Stage) -> None:
    """GOAWAY says when to come back; identity, token and what was not confirmed are there again."""
    first = await device.login()
    device.order("confirm", how="none")
    token = await device.register()  # orders are carried out in turn
    push = await stage.push({"token": token}, "Over the restart")
    await device.notify("Over the restart", "message")
    await stage.stop_gateway(signal.SIGTERM)
    assert (await device.frame("GOAWAY"))["name"] == "draining"
    low, high = await device.ended()
    assert 0 <= low < high
    await stage.start_gateway()
    await device.login("b", device=first["device"], secret=first["secret"])
    assert await device.register("b") == token
    again = await device.notify("Over the restart", "again", "b")
    device.order("ack", "b", ids=[again["id"]])
    await stage.state_of(push, "acked")
