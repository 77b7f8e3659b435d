"""Clause C14: a call waits until the terminal, paged by a short message, has registered; through Kamailio with a caller
and a terminal where it is installed, else with a SIP server's side of our own; raises Failed where it does not hold.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from gateway.paging.ims.local import LocalCscf
from gateway.tour.fleet import Fleet
from gateway.tour.network import MSISDN, Operator, operator
from gateway.tour.operator.programs import missing
from gateway.tour.operator.sip import CONFIG, DOMAIN, NEEDED, Endpoint, Kamailio
from gateway.tour.stage import APP, Stage, check, eventually

IMPU = f"sip:bob@{DOMAIN}"
HOLD_S = 10


async def held_call(_stage: Stage, _fleet: Fleet) -> str:
    packages = missing(NEEDED)
    return await (_by_our_own(packages) if packages or not CONFIG.is_file() else _by_kamailio())


def _settings(port: int) -> Sequence[str]:
    return f"ims.servers=127.0.0.1:{port}", f"ims.app={APP}", "ims.reconnect_s=0.1"


async def _know_bob(network: Operator) -> None:
    ids = [{"kind": "impu", "value": IMPU}, {"kind": "msisdn", "value": MSISDN}]
    await network.trigger("attach", network_ids=ids)

    async def is_up() -> bool:
        return "heliograph_ims_links 1.0" in (await network.stage.call("GET", "/metrics")).text

    await eventually(is_up, "the connection to the SIP server")


async def _check_private(network: Operator) -> None:
    shown = (network.stage.folder / "gateway.log").read_text() + (await network.stage.call("GET", "/metrics")).text
    check(not any(secret in shown for secret in ("bob@", MSISDN[1:])), "who is called was shown")
    network.check_strict()


async def _by_kamailio() -> str:
    with tempfile.TemporaryDirectory(prefix="heliograph-tour-") as folder:
        async with Kamailio(Path(folder), HOLD_S) as kamailio, operator(*_settings(kamailio.evapi_port)) as network:
            await _know_bob(network)
            async with Endpoint(kamailio, "alice") as alice, Endpoint(kamailio, "bob") as bob:
                alice.call("bob", "c14")
                await network.paged(1)
                check(alice.statuses("c14") == [182], f"the caller heard {alice.statuses('c14')}")
                check(not bob.requests("INVITE"), "the call went out before there was a contact")
                bob.register()
                answer = await alice.answer("INVITE", "c14")
                check(answer == 200, f"the call ended with {answer}")
                alice.call("nobody", "c14-nobody")
                refused = await alice.answer("INVITE", "c14-nobody")
                check(refused == 480, f"a call to nobody ended with {refused}")
            await _check_private(network)
    return (
        f"Kamailio held the INVITE (182), bob's phone got a short message by {network.by_what}"
        " and registered, the call was answered (200)"
    )


async def _by_our_own(packages: str) -> str:
    cscf = LocalCscf()
    await cscf.start()
    try:
        async with operator(*_settings(cscf.port)) as network:
            await _know_bob(network)
            held, unknown = cscf.invite(IMPU, left_s=HOLD_S), cscf.invite(f"sip:nobody@{DOMAIN}", left_s=HOLD_S)
            why = await unknown.ended
            check(why == "refused", f"a call to nobody ended with {why}")

            async def is_paged() -> bool:
                return held.paged.is_set()

            await eventually(is_paged, "the page")
            await network.paged(1)
            check(cscf.register(IMPU) == 1, "the call was not held any more")
            check(not cscf.faults, f"the SIP server complains: {cscf.faults}")
            await _check_private(network)
    finally:
        await cscf.close()
    install = f"apt install {packages}" if packages else "its configuration is in docs/kamailio.cfg"
    return (
        f"held, paged by a short message, let go at the registration (a SIP server of our own; a real one: {install})"
    )


CLAUSES = {"C14": ("a call waits for its terminal", held_call)}
