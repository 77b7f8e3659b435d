"""A gateway with IM in a process of its own, for D1 to D3: `python -m bench.system.im_gateway STORE SETTING…`.

It is the whole gateway with its doors, store and connectors; what stands beside it in the process makes users and
accounts for the devices that registered, without codes, reads how late the loop is, and pushes by token (the floor).
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import uvloop

from bench.system.asked_process import AskedProcess, answer_asked
from bench.system.im_network import FILLING, stamp
from bench.system.pacing import LagProbe, pace
from bench.system.stage import APP, SETTINGS, BenchFailed, private_bytes
from gateway.app import Gateway
from gateway.cli.options import read_config
from gateway.config.logging import setup_logging
from gateway.delivery.accept import Acceptor
from gateway.delivery.request import PushRequest, TargetRequest
from gateway.model.errors import GatewayError
from gateway.model.im_people import Account, AccountState, User
from gateway.model.registration import build_token

#: rows in one commit
AT_ONCE = 500
LOOK_S = 0.1


class ImGateway(AskedProcess):
    module = "bench.system.im_gateway"

    def __init__(self, *settings: str, network: str = "irc") -> None:
        super().__init__("the gateway", [])
        self._network = network
        own = (f"im.app={APP}", f"im.networks={network}", "im.private_hosts=true", *settings)
        self._words = [str(self._folder / "store"), *SETTINGS, *own]

    async def settle(self, **form: str) -> None:
        """Each registered device is a user's from now on, who has bound an account; "{number}" in a field: the
        number of the device. They are away meanwhile."""
        await self.ask("settle", network=self._network, form=form)

    async def wait_until_connected(self, n: int, still_s: float) -> None:
        """BenchFailed where no more come for so long."""
        connected, moved = -1, time.monotonic()
        while connected < n:
            now, seen = time.monotonic(), (await self.ask("look"))["connected"]
            if seen > connected:
                connected, moved = seen, now
            elif now - moved > still_s:
                raise BenchFailed(f"{connected:,} of {n:,} accounts are connected, and no more come")
            await asyncio.sleep(LOOK_S)


class Bench:
    def __init__(self, gateway: Gateway) -> None:
        assert gateway.im is not None
        self._supervisor = gateway.im.supervisor
        self._store = gateway.store
        self._lag = LagProbe()
        self._accounts: list[int] = []
        self._tokens: list[bytes] = []
        self._acceptor = Acceptor(
            directory=self._store.directory,
            journal=self._store.journal,
            schedules=self._store.schedules,
            dispatcher=gateway.dispatcher,
            config=gateway.config,
            metrics=gateway.metrics,
        )

    async def settle(self, network: str, form: dict[str, str]) -> dict[str, Any]:
        users, accounts = self._store.im_users, self._store.im_accounts
        done: list[asyncio.Future[None]] = []
        for token in self._registered():
            user = os.urandom(16)
            now_ms = time.time_ns() // 1_000_000
            done += [users.put_user(User(user, now_ms, "Somebody")), users.sign_in(token, user)]
            number = accounts.reserve()
            filled = {name: value.format(number=len(self._accounts)) for name, value in form.items()}
            sealed = accounts.seal(user, number, network, filled)
            done.append(accounts.put_account(Account(number, user, network, network, sealed, now_ms)))
            self._accounts.append(number)
            self._tokens.append(token)
            if len(done) >= AT_ONCE:
                await asyncio.gather(*done)
                done.clear()
        await asyncio.gather(*done)
        gc.collect()
        gc.freeze()
        return {"users": len(self._tokens)}

    def _registered(self) -> Iterator[bytes]:
        directory = self._store.directory
        for part in directory.everybody():
            for number in part:
                registration = directory.registration(number)
                if registration is not None:
                    yield registration.token

    async def begin(self) -> dict[str, Any]:
        """How late the loop is from now on; what the process has now."""
        gc.collect()
        self._lag.start()
        return {"bytes": private_bytes(os.getpid()), "at_s": time.monotonic()}

    async def end(self) -> dict[str, Any]:
        lag = await self._lag.stop()
        gc.collect()
        return {"bytes": private_bytes(os.getpid()), **{f"lag_{name}": value for name, value in lag.items()}}

    async def look(self) -> dict[str, Any]:
        state = self._supervisor.state
        return {"connected": sum(state(number) is AccountState.CONNECTED for number in self._accounts)}

    async def push(self, count: int, rate: float) -> dict[str, Any]:
        """Plain pushes, to each device in turn, durable before they leave as those of IM are."""
        app = self._store.directory.app(APP)
        assert app is not None
        tokens = [build_token(token) for token in self._tokens]
        refused = 0

        def one(number: int) -> None:
            nonlocal refused
            target = TargetRequest(token=tokens[number % len(tokens)])
            request = PushRequest(target=target, title="friend", text=stamp() + FILLING, urgency="high")
            try:
                self._acceptor.push(app, request, time.time_ns() // 1_000_000, durable_first=True)
            except GatewayError:
                refused += 1

        began_s = time.monotonic()
        seconds = await pace(count, rate, one)
        return {"began_s": began_s, "seconds": seconds, "refused": refused}


async def serve(store: str, settings: list[str]) -> None:
    config = read_config(None, [*settings, f"store.path={store}"])
    setup_logging(config.log)
    gc.set_threshold(100_000, 50, 1000)  # as gateway.app.run
    gateway = await Gateway.start(config)
    gc.freeze()
    bench = Bench(gateway)
    does = {name: getattr(bench, name) for name in ("settle", "begin", "end", "look", "push")}
    await answer_asked(gateway.edge.port, does)
    await gateway.stop()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2:]))
