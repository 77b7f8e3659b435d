"""A call to a terminal that is not registered, through Kamailio as docs/kamailio.cfg has it: held, paged by a short
message, let go to the fresh contact (C14, RFC 8599). The gateway is a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from needs import needs

from gateway.paging.ims.contact import PushParams, build_push_params
from gateway.paging.sms.local import Behaviour
from gateway.tour.bare import BareDevice
from gateway.tour.network import Operator, operator
from gateway.tour.operator.sip import DOMAIN, NEEDED, PATIENCE_S, Endpoint, Kamailio, free_port
from gateway.tour.stage import APP, Stage

pytestmark = [pytest.mark.slow, needs(NEEDED)]

BOB, MSISDN = f"sip:bob@{DOMAIN}", "+491511112222"
#: as short as a test can wait for, and as long as no machine is too slow for
HOLD_S, LONG_HOLD_S = 3, 20
SHORT = pytest.mark.parametrize("hold_s", [HOLD_S])


class Network:
    """Kamailio, a gateway that knows the subscriber bob, an SMSC."""

    def __init__(self, kamailio: Kamailio, operator: Operator) -> None:
        self.kamailio = kamailio
        self.smsc = operator.smsc
        self.stage: Stage = operator.stage
        self.operator = operator

    async def paged(self, count: int = 1) -> None:
        await self.eventually(lambda: len(self.smsc.submissions) >= count)

    async def eventually(self, probe: Any) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not probe():
                await asyncio.sleep(0.02)

    async def figure(self, line: str) -> float:
        """Of /metrics."""
        text = (await self.stage.call("GET", "/metrics")).text
        found = [each for each in text.splitlines() if each.startswith(line)]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    async def connected(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while await self.figure("heliograph_ims_links") != 1:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            log = (self.stage.folder / "gateway.log").read_text()
            pytest.fail(f"the gateway does not connect:\n{log[-2000:]}\n{self.kamailio.said[-2000:]}")

    async def counted(self, result: str, count: int = 1) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while await self.figure(f'heliograph_ims_calls_total{{result="{result}"}}') != count:
                await asyncio.sleep(0.02)


@pytest.fixture
def hold_s() -> int:
    return LONG_HOLD_S


@pytest.fixture
async def network(tmp_path: Path, hold_s: int) -> AsyncIterator[Network]:
    async with (
        Kamailio(tmp_path, hold_s) as kamailio,
        operator(
            f"ims.servers=127.0.0.1:{kamailio.evapi_port}",
            f"ims.app={APP}",
            "ims.reconnect_s=0.1",
            "ims.reconnect_max_s=0.2",
            "paging.smsc_reconnect_s=0.1",
            "log.level=debug",
            own=True,
        ) as core,
    ):
        ids = [{"kind": "impu", "value": BOB}, {"kind": "msisdn", "value": MSISDN}]
        await core.trigger("attach", network_ids=ids)
        network = Network(kamailio, core)
        await network.connected()
        yield network
        # after all that happened: no complaint, and nobody's name where it does not belong
        assert core.smsc.faults == []
        # of odd requests two modules complain in their own words
        lines = [line for line in kamailio.said.splitlines() if "ERROR" in line or "CRITICAL" in line]
        assert [line for line in lines if "registrar [" not in line and "jansson [" not in line] == []
        shown = (core.stage.folder / "gateway.log").read_text()
        with contextlib.suppress(Exception):  # a test may have ended the gateway
            shown += (await core.stage.call("GET", "/metrics")).text
        assert [secret for secret in ("bob@", MSISDN[1:], "the secret text") if secret in shown] == []


async def test_a_held_call_goes_on_to_the_contact_that_registers_after_the_page(network: Network) -> None:
    async with Endpoint(network.kamailio, "alice") as alice, Endpoint(network.kamailio, "bob") as bob:
        alice.call("bob", "call-1")
        await network.paged()
        assert network.smsc.submissions[0].message.destination.digits == MSISDN[1:]
        assert alice.statuses("call-1") == [182]
        bob.register()
        assert await alice.answer("INVITE", "call-1") == 200
        invite = await bob.request("INVITE")
        assert invite.first.startswith(f"INVITE sip:bob@127.0.0.1:{bob.port}")
        await bob.request("ACK")
        await network.counted("released")
        statuses = alice.statuses("call-1")  # 180 and 200 leave from two processes of the server
        assert (statuses[0], set(statuses) - {180}, len(bob.requests("INVITE"))) == (182, {182, 200}, 1)
        # who is registered is called at once
        alice.call("bob", "call-2")
        assert await alice.answer("INVITE", "call-2") == 200
        assert len(network.smsc.submissions) == 1


@pytest.mark.parametrize("method", ["MESSAGE", "SUBSCRIBE"])
async def test_other_requests_are_held_and_paged_too(network: Network, method: str) -> None:
    async with Endpoint(network.kamailio, "alice") as alice, Endpoint(network.kamailio, "bob") as bob:
        alice.call("bob", "other-1", method)
        await network.paged()
        bob.register()
        assert await alice.answer(method, "other-1") == 200
        request = await bob.request(method)
        assert request.body == ("the secret text" if method == "MESSAGE" else "")


async def test_calls_at_one_time_are_one_page_and_all_go_on_each_once(network: Network) -> None:
    async with Endpoint(network.kamailio, "alice") as alice, Endpoint(network.kamailio, "bob") as bob:
        branch = alice.call("bob", "call-0")
        alice.call("bob", "call-0", branch=branch)  # sent again
        alice.call("bob", "call-0", branch=branch + "-fork")  # the same call on another way (a merged request)
        for number in (1, 2, 3):
            alice.call("bob", f"call-{number}")
        alice.call("bob", "text", "MESSAGE")
        await network.counted("paged", 6)
        assert len(network.smsc.submissions) == 1
        bob.register()
        for number in range(4):
            assert await alice.answer("INVITE", f"call-{number}") == 200
        assert await alice.answer("MESSAGE", "text") == 200
        await network.counted("released", 6)
        bob.register()  # lets nothing go on a second time
        await bob.answer("REGISTER")
        assert len(bob.requests("MESSAGE")) == 1


@SHORT
async def test_who_never_registers_is_unavailable_after_the_hold(network: Network) -> None:
    loop = asyncio.get_running_loop()
    async with Endpoint(network.kamailio, "alice") as alice, Endpoint(network.kamailio, "bob") as bob:
        began_s = loop.time()
        alice.call("bob", "call-1")
        alice.call("bob", "text", "MESSAGE")
        assert await alice.answer("INVITE", "call-1") == 480
        assert await alice.answer("MESSAGE", "text") == 480
        assert HOLD_S - 1 < loop.time() - began_s < HOLD_S + 2
        await network.counted("timeout", 2)
        bob.register()  # too late
        await bob.answer("REGISTER")
        assert bob.requests("INVITE") == []


async def test_who_is_unknown_and_who_can_not_be_paged_get_the_same_answer(network: Network) -> None:
    await network.operator.trigger("session", network_ids=[{"kind": "impu", "value": f"sip:dora@{DOMAIN}"}])
    answers = []
    async with Endpoint(network.kamailio, "alice") as alice:
        for user in ("nobody", "dora"):
            alice.call(user, f"call-{user}")
            await alice.answer("INVITE", f"call-{user}")
            last = next(each for each in alice.heard if each.one("Call-ID") == f"call-{user}" and each.status == 480)
            answers.append((alice.statuses(f"call-{user}"), last.first))
        assert answers[0] == answers[1]
        await network.counted("refused", 2)
        assert network.smsc.submissions == []


async def test_a_caller_who_gives_up_ends_it_and_the_terminal_is_not_called(network: Network) -> None:
    async with Endpoint(network.kamailio, "alice") as alice, Endpoint(network.kamailio, "bob") as bob:
        alice.call("bob", "call-1")
        await network.paged()
        alice.cancel("call-1")
        assert await alice.answer("INVITE", "call-1") == 487
        await network.counted("cancelled")
        bob.register()
        assert await bob.answer("REGISTER") == 200
        assert bob.requests("INVITE") == []


async def test_a_gateway_that_dies_does_not_stop_what_was_paged(network: Network) -> None:
    async with Endpoint(network.kamailio, "alice") as alice, Endpoint(network.kamailio, "bob") as bob:
        alice.call("bob", "call-1")
        await network.paged()
        await network.stage.stop_gateway(signal.SIGKILL)
        bob.register()
        assert await alice.answer("INVITE", "call-1") == 200


async def test_a_gateway_that_starts_while_a_call_is_held_pages_for_it(network: Network) -> None:
    await network.stage.stop_gateway(signal.SIGKILL)
    async with Endpoint(network.kamailio, "alice") as alice, Endpoint(network.kamailio, "bob") as bob:
        alice.call("bob", "call-1")
        await network.eventually(lambda: alice.statuses("call-1") == [182])
        await network.stage.start_gateway()
        await network.paged()
        bob.register()
        assert await alice.answer("INVITE", "call-1") == 200
        await network.counted("released")


@SHORT
async def test_a_call_while_there_is_no_gateway_ends_after_the_hold(network: Network) -> None:
    await network.stage.stop_gateway(signal.SIGTERM)
    async with Endpoint(network.kamailio, "alice") as alice:
        alice.call("bob", "call-1")
        assert await alice.answer("INVITE", "call-1") == 480


async def test_an_smsc_that_is_slow_costs_nothing_but_time(network: Network) -> None:
    network.smsc.next.append(Behaviour(delay_s=0.8))
    async with Endpoint(network.kamailio, "alice") as alice, Endpoint(network.kamailio, "bob") as bob:
        alice.call("bob", "call-1")
        await network.counted("paged")
        bob.register()
        assert await alice.answer("INVITE", "call-1") == 200


async def test_of_many_calls_that_race_with_registrations_none_is_lost(network: Network) -> None:
    users = [f"user{number}" for number in range(40)]
    for number, user in enumerate(users):
        ids = [
            {"kind": "impu", "value": f"sip:{user}@{DOMAIN}"},
            {"kind": "msisdn", "value": f"+4915122233{number:02}"},
        ]
        await network.operator.trigger("attach", network_ids=ids)
    async with contextlib.AsyncExitStack() as stack:
        alice = await stack.enter_async_context(Endpoint(network.kamailio, "alice"))
        terminals = [await stack.enter_async_context(Endpoint(network.kamailio, user)) for user in users]
        for terminal in terminals:
            alice.call(terminal.user, f"before-{terminal.user}")
            await asyncio.sleep(0.01)  # nobody here sends again what a socket's buffer had no room for
        for terminal in terminals:
            terminal.register()
            alice.call(terminal.user, f"beside-{terminal.user}")
            await asyncio.sleep(0.01)
        for user in users:
            assert await alice.answer("INVITE", f"before-{user}") == 200
            assert await alice.answer("INVITE", f"beside-{user}") == 200
        assert [len(terminal.requests("INVITE")) for terminal in terminals] == [2] * len(users)


async def test_odd_requests_are_answered_and_hurt_nobody(network: Network) -> None:
    async with Endpoint(network.kamailio, "alice") as alice, Endpoint(network.kamailio, "bob") as bob:
        alice.send("INVITE", f"sip:\udcff\udcfe@{DOMAIN}", "odd;1")
        alice.call("$var(user)", "odd-2")
        alice.call("%22%0a", "odd-3")
        alice.call("x" * 200, "odd-4")
        assert await alice.answer("INVITE", "odd;1") == 400
        for number in (2, 3, 4):
            assert await alice.answer("INVITE", f"odd-{number}") == 480
        alice.call("bob", "call-1")
        await network.paged()
        bob.register()
        assert await alice.answer("INVITE", "call-1") == 200
        assert await network.figure("heliograph_ims_events_total") == 0


async def test_a_terminal_that_leaves_lets_nothing_go_on(network: Network) -> None:
    async with Endpoint(network.kamailio, "alice") as alice, Endpoint(network.kamailio, "bob") as bob:
        for expires in (60, 0):
            await bob.answer("REGISTER", bob.register(expires=expires))
        alice.call("bob", "call-1")
        await network.paged()
        await bob.answer("REGISTER", bob.register(expires=0))
        assert bob.requests("INVITE") == []
        bob.register()
        assert await alice.answer("INVITE", "call-1") == 200
        assert len(bob.requests("INVITE")) == 1


# --- RFC 8599


async def test_a_sleeping_contact_is_woken_by_its_own_id_before_it_is_called(network: Network) -> None:
    made = await network.operator.trigger("session", network_ids=[{"kind": "impu", "value": BOB}])
    params = build_push_params(PushParams("heliograph", APP, made["ids"][0]["id"]))
    async with Endpoint(network.kamailio, "alice") as alice, Endpoint(network.kamailio, "bob") as bob:
        first = bob.register(params=params)
        assert await bob.answer("REGISTER", first) == 200
        reply = next(each for each in bob.heard if each.one("Call-ID") == first)
        assert reply.one("Feature-Caps") == '*;+sip.pns="heliograph"'
        alice.call("bob", "call-1")
        await network.paged()
        assert bob.requests("INVITE") == []
        bob.register(params=params)
        assert await alice.answer("INVITE", "call-1") == 200
        assert len(bob.requests("INVITE")) == 1


async def test_the_id_of_a_contact_outlives_its_registration(network: Network) -> None:
    """Here a token: who is called is in no record of a subscriber."""
    terminal = BareDevice(network.stage.device_port)
    token = await terminal.connect("ims-terminal")
    params = build_push_params(PushParams("heliograph", None, token))
    try:
        async with Endpoint(network.kamailio, "alice") as alice, Endpoint(network.kamailio, "dora") as dora:
            await dora.answer("REGISTER", dora.register(params=params, expires=1))
            await asyncio.sleep(2.1)  # the server counts in whole seconds
            alice.call("dora", "call-1")
            await network.counted("paged")
            assert dora.requests("INVITE") == []
            await dora.answer("REGISTER", dora.register(params=params))
            assert await alice.answer("INVITE", "call-1") == 200
            # who leaves takes it along
            await dora.answer("REGISTER", dora.register(params=params, expires=0))
            alice.call("dora", "call-2")
            assert await alice.answer("INVITE", "call-2") == 480
            await network.counted("refused")
    finally:
        await terminal.close()


async def test_a_push_service_that_is_not_ours_is_told_so_and_a_question_answered(network: Network) -> None:
    async with Endpoint(network.kamailio, "bob") as bob:
        other = bob.register(params=";pn-provider=apns;pn-prid=abc")
        assert await bob.answer("REGISTER", other) == 555
        question = bob.register(params=";pn-provider")
        assert await bob.answer("REGISTER", question) == 200
        able = bob.register(params=";pn-provider=heliograph;pn-prid=abc", tags=";+sip.pnsreg")
        assert await bob.answer("REGISTER", able) == 200
        plain = bob.register()
        assert await bob.answer("REGISTER", plain) == 200
        caps = {each.one("Call-ID"): each.one("Feature-Caps") for each in bob.heard}
        ours = '*;+sip.pns="heliograph"'
        assert caps == {other: "", question: ours, able: f'{ours};+sip.pnsreg="120"', plain: ""}


async def test_a_token_in_the_contact_is_a_push_over_the_channel(network: Network) -> None:
    terminal = BareDevice(network.stage.device_port)
    token = await terminal.connect("ims-terminal")
    params = build_push_params(PushParams("heliograph", APP, token))
    try:
        async with Endpoint(network.kamailio, "alice") as alice, Endpoint(network.kamailio, "bob") as bob:
            bob.register(params=params)
            assert await bob.answer("REGISTER") == 200
            alice.call("bob", "call-1")
            await network.counted("paged")
            bob.register(params=params)
            assert await alice.answer("INVITE", "call-1") == 200
            assert network.smsc.submissions == []  # the channel was there
    finally:
        await terminal.close()


# --- SIPp on both sides


class Sipp:
    """Programs that make or take one call each, and end with 0 where it went as it should."""

    def __init__(self, network: Network, folder: Path) -> None:
        self._server = f"127.0.0.1:{network.kamailio.sip_port}"
        self._folder = folder
        self._running: list[asyncio.subprocess.Process] = []

    async def start(self, name: str, *arguments: str, port: int = 0) -> asyncio.subprocess.Process:
        program = shutil.which("sipp")
        assert program is not None
        command = [program, self._server, *arguments, "-s", "bob", "-m", "1", "-i", "127.0.0.1"]
        command += ["-p", str(port or free_port(socket.SOCK_DGRAM)), "-timeout", "20s", "-nostdin"]
        with (self._folder / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, cwd=self._folder)
        self._running.append(process)
        return process

    async def ends_well(self, process: asyncio.subprocess.Process, name: str) -> None:
        async with asyncio.timeout(25):
            code = await process.wait()
        assert code == 0, (self._folder / f"{name}.log").read_text(errors="replace")[-2000:]

    async def close(self) -> None:
        for process in self._running:
            if process.returncode is None:
                process.kill()
                await process.wait()


@needs({"sipp": "sip-tester"})
async def test_sipp_calls_a_sleeping_terminal_which_is_sipp_too(network: Network, tmp_path: Path) -> None:
    sipp = Sipp(network, tmp_path)
    port = free_port(socket.SOCK_DGRAM)
    scenario = {name: str(Path(__file__).with_name(f"sipp_{name}.xml")) for name in ("call", "answer", "register")}
    try:
        called = await sipp.start("called", "-sf", scenario["answer"], port=port)
        caller = await sipp.start("caller", "-sf", scenario["call"])
        await network.paged()
        assert called.returncode is None  # it was not called before it had registered
        woken = await sipp.start("woken", "-sf", scenario["register"], "-key", "contact_port", str(port))
        await sipp.ends_well(woken, "woken")
        await sipp.ends_well(caller, "caller")
        await sipp.ends_well(called, "called")
        await network.counted("released")
    finally:
        await sipp.close()
