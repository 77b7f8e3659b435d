"""A whole gateway in the test's own loop: real sockets on both doors, free ports, a store in a temporary folder."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from bare_device import PATIENCE_S, BareDevice

from gateway.app import Gateway
from gateway.config.sections import Config
from gateway.metrics import Metric
from gateway.model.ports import Subscribers

#: an end to what would be waited for in vain, and no disk sync: what is tested here is not power loss
DEFAULTS = {
    "edge.port": 0,
    "edge.drain_s": 0.2,
    "api.port": 0,
    "store.sync": False,
    "store.max_bytes": 1 << 30,
}
FINAL = {"acked", "expired", "recalled", "replaced", "rejected"}


def build_config(path: Path, settings: dict[str, Any]) -> Config:
    config = Config()
    config.store.path = str(path)
    for name, value in {**DEFAULTS, **settings}.items():
        section, _, field = name.partition(".")
        assert hasattr(getattr(config, section), field), name
        setattr(getattr(config, section), field, value)
    return config


class Provider:
    """One app and its key."""

    def __init__(self, http: httpx.AsyncClient, app: str, key: str) -> None:
        self._http = http
        self.app = app
        self.key = key
        self._headers = {"authorization": f"Bearer {key}"}

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self._http.request(method, path, headers=self._headers, **options)

    async def push(self, target: str | dict[str, Any], title: str = "", **fields: Any) -> str:
        """To a token or another target; returns the push id."""
        where = {"token": target} if isinstance(target, str) else target
        answer = await self.call("POST", "/v1/push", json={"target": where, "title": title, **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def push_many(self, pushes: list[dict[str, Any]]) -> list[str]:
        """One batch: one turn of the loop for all of it, one commit."""
        answer = await self.call("POST", "/v1/push/batch", json=pushes)
        lines = [line for line in answer.text.splitlines() if line]
        results = [httpx.Response(200, text=line).json() for line in lines]
        assert [r["status"] for r in results] == [201] * len(pushes), results[-1]
        return [r["id"] for r in results]

    async def look(self, push: str) -> dict[str, Any]:
        answer = await self.call("GET", f"/v1/push/{push}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def delivery(self, push: str) -> dict[str, Any]:
        """The only delivery of a push."""
        deliveries = (await self.look(push))["deliveries"]
        assert len(deliveries) == 1
        return dict(deliveries[0])

    async def figures(self, push: str) -> dict[str, int]:
        return dict((await self.look(push))["figures"])

    async def steps(self, push: str) -> list[str]:
        return [step["what"] for step in (await self.delivery(push))["steps"]]

    async def reaches(self, push: str, *states: str) -> dict[str, Any]:
        """Wait until its only delivery is in one of these states."""
        last: dict[str, Any] = {}

        async def probe() -> bool:
            last.update(await self.delivery(push))
            return last["state"] in states

        try:
            await until(probe)
        except AssertionError:
            raise AssertionError(f"not {states}, but {last['state']}: {[s['what'] for s in last['steps']]}") from None
        return last

    async def recall(self, push: str) -> dict[str, int]:
        answer = await self.call("DELETE", f"/v1/push/{push}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def revoke(self, token: str) -> None:
        answer = await self.call("DELETE", f"/v1/registrations/{token}")
        assert answer.status_code == 204, answer.text

    async def is_connected(self, token: str) -> bool:
        answer = await self.call("GET", f"/v1/registrations/{token}")
        assert answer.status_code == 200, answer.text
        return bool(answer.json()["connected"])


async def until(
    probe: Callable[[], Awaitable[Any] | Any], timeout_s: float = PATIENCE_S, *, pause_s: float = 0.004
) -> Any:
    """Ask until the answer is true; for states that no event reaches the test from."""
    end = time.monotonic() + timeout_s
    while True:
        answer = probe()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < end, f"not so inside {timeout_s} s"
        await asyncio.sleep(pause_s)


class House:
    """`async with House(path, {"edge.window": 4}) as house`. `restart` is a new process as far as the store can see."""

    def __init__(
        self,
        path: Path,
        settings: dict[str, Any] | None = None,
        *,
        apps: dict[str, Any] | None = None,
        subscribers: Subscribers | None = None,
    ) -> None:
        self.path = path
        self.subscribers = subscribers
        self.settings = settings or {}
        self._apps = apps if apps is not None else {"shop": {}}
        self.devices: list[BareDevice] = []
        self.gateway: Gateway

    async def __aenter__(self) -> House:
        await self._start()
        self.providers = {}
        for name, fields in self._apps.items():
            self.providers[name] = await self.create_app(name, **fields)
        return self

    async def _start(self) -> None:
        self.gateway = await Gateway.start(
            build_config(self.path / "store", self.settings), subscribers=self.subscribers
        )
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.gateway.api.port}", timeout=30, trust_env=False, verify=False
        )

    async def __aexit__(self, *_: object) -> None:
        for device in self.devices:
            if not device.closed:
                device.vanish()
        await self.http.aclose()
        await self.gateway.stop()

    async def restart(self, **settings: Any) -> None:
        """Stop without a drain and start on the same store and ports; keyword `edge__window` is edge.window."""
        ports = {"edge.port": self.port, "api.port": self.gateway.api.port}
        await self.http.aclose()
        await self.gateway.stop()
        self.settings |= ports | {name.replace("__", "."): value for name, value in settings.items()}
        await self._start()
        for provider in self.providers.values():
            provider._http = self.http

    async def create_app(self, name: str, **fields: Any) -> Provider:
        admin = self.gateway.admin_key_file.read_text().strip()
        answer = await self.http.post(
            "/v1/apps", headers={"authorization": f"Bearer {admin}"}, json={"name": name, **fields}
        )
        assert answer.status_code == 201, answer.text
        provider = Provider(self.http, name, answer.json()["key"])
        self.providers[name] = provider
        return provider

    @property
    def port(self) -> int:
        return self.gateway.edge.port

    @property
    def shop(self) -> Provider:
        return self.providers["shop"]

    def device(self, host: str = "127.0.0.1") -> BareDevice:
        device = BareDevice(self.port, host)
        self.devices.append(device)
        return device

    # --- figures

    def value(self, metric: Metric, label: str = "") -> float:
        return self.gateway.metrics.value(metric, label)

    def counter(self, name: str) -> int:
        """Of all reactors."""
        return sum(reactor.counters()[name] for reactor in self.gateway.edge.plane.reactors)

    def ended(self, reason: str) -> int:
        return self.counter(f"ended:{reason}")

    @property
    def sessions(self) -> int:
        return self.gateway.store.directory.registry.sessions

    async def is_empty(self) -> None:
        """Wait until no link, no session and nothing in flight is left."""
        await until(lambda: not self.counter("links") and not self.sessions and not self.counter("inflight"))
