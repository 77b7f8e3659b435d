"""What a tour plays on: a gateway in a process of its own, a provider's HTTP client and a notifier's endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx

_T = TypeVar("_T")

APP = "shop"
#: settings of the stage that differ from the defaults: everything on free ports, a heartbeat one can wait for
SETTINGS = (
    "edge.port=0",
    "api.port=0",
    "edge.heartbeat_min_s=1",
    "edge.drain_s=0.5",
    "delivery.retry_ms=1000",
    "delivery.webpush_private=true",  # the push service of the tour is on this machine
    "log.level=warning",
)
START_S = 30.0


class Shown(NamedTuple):
    """What came out, with figures for a table of their own."""

    detail: str
    figures: dict[str, str]


class Failed(Exception):
    """A clause did not hold; the text says what came out instead."""


class Skipped(Exception):
    """A clause can not be shown on this machine; the text says what to install."""


def check(condition: object, otherwise: str) -> None:
    if not condition:
        raise Failed(otherwise)


async def eventually(probe: Callable[[], Awaitable[Any]], what: str, timeout_s: float = 10.0) -> Any:
    """Ask until the answer is true; Failed past the time."""
    end = time.monotonic() + timeout_s
    while True:
        answer = await probe()
        if answer:
            return answer
        if time.monotonic() > end:
            raise Failed(f"{what} did not come inside {timeout_s:g} s")
        await asyncio.sleep(0.02)


class NotifierEndpoint:
    """A provider's webhook endpoint on loopback; checks each post's signature and keeps what came."""

    def __init__(self) -> None:
        self.secret = "tour-" + hashlib.sha256(str(time.time_ns()).encode()).hexdigest()[:24]
        self.posts: list[tuple[float, dict[str, Any]]] = []
        self.forged = 0
        self._arrived = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/notify"

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                if self._is_signed(headers.get("heliograph-signature", ""), body):
                    self.posts.append((time.monotonic(), json.loads(body)))
                else:
                    self.forged += 1
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()
                async with self._arrived:
                    self._arrived.notify_all()
        writer.close()

    def _is_signed(self, header: str, body: bytes) -> bool:
        parts = dict(part.split("=", 1) for part in header.split(",") if "=" in part)
        expected = hmac.digest(self.secret.encode(), parts.get("t", "").encode() + b"." + body, "sha256").hex()
        return hmac.compare_digest(expected, parts.get("v1", ""))

    async def post_with(self, title: str, timeout_s: float = 10.0) -> float:
        """Wait for the post of the notification with this title; returns when it came (monotonic)."""

        def found() -> float:
            return next((at for at, post in self.posts if title in json.dumps(post)), 0.0)

        async with self._arrived:
            try:
                await asyncio.wait_for(self._arrived.wait_for(lambda: bool(found())), timeout_s)
            except TimeoutError:
                raise Failed(f"the notifier was not asked inside {timeout_s:g} s") from None
        return found()

    def has(self, title: str) -> bool:
        return any(title in json.dumps(post) for _, post in self.posts)


class Stage:
    """`async with Stage() as stage`; the gateway's store is a temporary folder that goes with it.

    `settings`: more of `section.field=value` for this gateway.
    """

    def __init__(self, *settings: str) -> None:
        self._settings = (*SETTINGS, *settings)
        self.folder = Path(tempfile.mkdtemp(prefix="heliograph-tour-"))
        self.endpoint = NotifierEndpoint()
        self.device_port = 0
        self.api_port = 0
        #: of the server of cards; -1: there is none
        self.ota_port = -1
        #: of the mail listener; -1: there is none
        self.im_mail_port = -1
        self.pid = 0
        #: what goes on inside a row that takes long
        self.say: Callable[[str], None] = lambda _: None
        self._shared: dict[str, Any] = {}
        self._ends = contextlib.AsyncExitStack()
        self._process: asyncio.subprocess.Process | None = None
        self._http: httpx.AsyncClient | None = None

    async def shared(self, name: str, make: Callable[[], contextlib.AbstractAsyncContextManager[_T]]) -> _T:
        """What several rows play on: made for the first of them, and ended with the stage."""
        if name not in self._shared:
            self._shared[name] = await self._ends.enter_async_context(make())
        found: _T = self._shared[name]
        return found

    def add_settings(self, *settings: str) -> None:
        """Before it is entered."""
        self._settings += settings

    def add_secret(self, name: str, secret: str) -> Path:
        """A file that its user alone can read, for a setting that wants one."""
        file = self.folder / name
        file.write_text(secret)
        file.chmod(0o600)
        return file

    def as_operator(self) -> dict[str, str]:
        """The header that shows who has the operator's key."""
        admin = (self.folder / "store" / "admin.key").read_text().strip()
        return {"authorization": f"Bearer {admin}"}

    async def __aenter__(self) -> Stage:
        try:
            await self.endpoint.start()
            await self.start_gateway()
            await self._create_app()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._ends.aclose()
        if self._http is not None:
            await self._http.aclose()
        await self.stop_gateway(signal.SIGKILL)
        await self.endpoint.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def start_gateway(self) -> None:
        """Start or restart it on the same store and, after the first time, the same ports."""
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        settings = [*self._settings]
        if self.device_port:
            settings += [f"edge.port={self.device_port}", f"api.port={self.api_port}"]
        if self.ota_port > 0:
            settings.append(f"ota.port={self.ota_port}")
        command = [sys.executable, "-m", "gateway.cli", "serve", "--ready-file", str(ready)]
        command += ["--store", str(self.folder / "store")]
        for setting in settings:
            command += ["--set", setting]
        with (self.folder / "gateway.log").open("ab") as log:
            # an operator's own settings in the environment are for another gateway
            environment = {name: value for name, value in os.environ.items() if not name.startswith("HELIOGRAPH_")}
            self._process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, env=environment)
        end = time.monotonic() + START_S
        while not ready.exists():
            if self._process.returncode is not None or time.monotonic() > end:
                said = (self.folder / "gateway.log").read_text()[-2000:]
                raise Failed(f"the gateway did not start (exit code {self._process.returncode}): {said}")
            await asyncio.sleep(0.02)
        about = json.loads(ready.read_bytes())
        self.pid, self.device_port, self.api_port = about["pid"], about["device_port"], about["api_port"]
        self.ota_port = about["ota_port"]
        self.im_mail_port = about["im_mail_port"]

    async def stop_gateway(self, how: signal.Signals) -> int:
        """Signal it and wait for its end; returns the exit code."""
        if self._process is None or self._process.returncode is not None:
            return 0 if self._process is None else int(self._process.returncode or 0)
        self._process.send_signal(how)
        return await self._process.wait()

    async def _create_app(self) -> None:
        admin = (self.folder / "store" / "admin.key").read_text().strip()
        self._http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.api_port}", timeout=30, trust_env=False)
        answer = await self._http.post(
            "/v1/apps",
            headers={"authorization": f"Bearer {admin}"},
            json={
                "name": APP,
                "fallback": ["webhook"],
                "notifiers": {"webhook": {"url": self.endpoint.url, "secret": self.endpoint.secret}},
            },
        )
        check(answer.status_code == 201, f"the app could not be created: {answer.status_code} {answer.text}")
        self._http.headers["authorization"] = f"Bearer {answer.json()['key']}"

    async def change_app(self, *, notifiers: dict[str, dict[str, str]] | None = None, **fields: Any) -> None:
        """As the operator; `notifiers` beside the endpoint."""
        if notifiers is not None:
            fields["notifiers"] = {"webhook": {"url": self.endpoint.url, "secret": self.endpoint.secret}, **notifiers}
        admin = (self.folder / "store" / "admin.key").read_text().strip()
        answer = await self.call("PATCH", f"/v1/apps/{APP}", json=fields, headers={"authorization": f"Bearer {admin}"})
        check(answer.status_code == 200, f"the app could not be changed: {answer.status_code} {answer.text}")

    # --- what a provider does

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        assert self._http is not None
        return await self._http.request(method, path, **options)

    async def push(self, target: dict[str, Any], title: str, **fields: Any) -> str:
        """Push; returns the push id."""
        answer = await self.call("POST", "/v1/push", json={"target": target, "title": title, **fields})
        check(answer.status_code == 201, f"push refused: {answer.status_code} {answer.text}")
        return str(answer.json()["id"])

    async def look(self, push: str) -> dict[str, Any]:
        """Where is my push?"""
        answer = await self.call("GET", f"/v1/push/{push}")
        check(answer.status_code == 200, f"look-up refused: {answer.status_code} {answer.text}")
        return dict(answer.json())

    async def state_of(self, push: str, state: str, timeout_s: float = 10.0) -> dict[str, Any]:
        """Wait until the push's first delivery is in this state."""

        async def probe() -> dict[str, Any] | None:
            record = await self.look(push)
            return record if record["deliveries"] and record["deliveries"][0]["state"] == state else None

        return dict(await eventually(probe, f"state {state}", timeout_s))

    async def steps_of(self, push: str) -> list[str]:
        return [step["what"] for step in (await self.look(push))["deliveries"][0]["steps"]]

    async def is_connected(self, token: str) -> bool:
        answer = await self.call("GET", f"/v1/registrations/{token}")
        check(answer.status_code == 200, f"registration refused: {answer.status_code} {answer.text}")
        return bool(answer.json()["connected"])

    async def disconnected(self, token: str) -> None:
        """Wait until the gateway knows that the device is gone."""

        async def probe() -> bool:
            return not await self.is_connected(token)

        await eventually(probe, "the end of the connection")

    async def recall(self, push: str) -> None:
        answer = await self.call("DELETE", f"/v1/push/{push}")
        check(answer.status_code == 200, f"recall refused: {answer.status_code} {answer.text}")
