"""Clause C9: a link for an opaque id, as a short message where the operator has no push proxy gateway, and through one
where it has, Kannel where it is installed, else one of our own; raises Failed where it does not hold.
"""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

from gateway.paging.udh import parse_header
from gateway.paging.wap.documents import Action, Document, ServiceIndication
from gateway.paging.wap.local import LocalPpg
from gateway.paging.wap.wbxml import parse_wbxml
from gateway.paging.wap.wsp import parse_push
from gateway.tour.bare import BareDevice
from gateway.tour.fleet import Fleet
from gateway.tour.network import IMSI, MSISDN, Operator, operator
from gateway.tour.operator.kannel import NEEDED, PASSWORD, USER, Kannel
from gateway.tour.operator.programs import missing
from gateway.tour.stage import Stage, check, eventually

HREF = "https://shop.example/m/{push}"


async def by_wap_push(_stage: Stage, _fleet: Fleet) -> str:
    """The device is away; its terminal gets a link to open, by the SMSC, then by a push proxy gateway."""
    async with operator() as network:
        stage = network.stage
        await stage.change_app(notifiers={"wap": {"href": HREF}})
        opaque = (await network.trigger("attach"))["ids"][0]["id"]
        device = BareDevice(stage.device_port)
        token = await device.connect("c9", addresses={"wap": opaque})
        await device.close()
        await stage.disconnected(token)

        push = await _push(network, token, "delivered")
        message = await network.paged(1)
        _check(_read(message), push)
        network.check_strict()

        packages = missing(NEEDED)
        how = await (_by_our_own(network, token) if packages else _by_kannel(network, token))
        shown = (stage.folder / "gateway.log").read_text() + (await stage.call("GET", "/metrics")).text
        shown += str(await stage.look(push))
        check(not any(secret in shown for secret in (IMSI, MSISDN[1:])), "a number was shown")
    remedy = f" (for Kannel: apt install {packages})" if packages else ""
    return (
        f"an indication of {len(message)} bytes to port 2948 by {network.by_what}, the same {how}; no number"
        f" shown{remedy}"
    )


async def _by_kannel(network: Operator, token: str) -> str:
    with tempfile.TemporaryDirectory(prefix="heliograph-tour-") as folder:
        async with Kannel(Path(folder)) as kannel:
            await _restart(network.stage, kannel.url, USER, PASSWORD)
            push = await _push(network, token, "notified")

            async def arrived() -> bool:
                return bool(kannel.sent)

            await eventually(arrived, "the short message behind Kannel")
            check(kannel.sent[0].receiver == MSISDN, "Kannel got another number")
            _check(_read(kannel.sent[0].header + kannel.sent[0].body), push)
    return "through Kannel"


async def _by_our_own(network: Operator, token: str) -> str:
    ppg = LocalPpg()
    await ppg.start()
    try:
        await _restart(network.stage, ppg.url, ppg.user, ppg.password)
        push = await _push(network, token, "notified")
        check(not ppg.faults and len(ppg.taken) == 1, f"the PPG took {len(ppg.taken)} and complains: {ppg.faults}")
        check(ppg.taken[0].msisdn == MSISDN.lstrip("+"), "the PPG got another number")
        _check(ppg.taken[0].document, push)
    finally:
        await ppg.close()
    return "through a PPG of our own"


async def _restart(stage: Stage, url: str, user: str, password: str) -> None:
    """The gateway again, with a PPG to ask."""
    await stage.stop_gateway(signal.SIGTERM)
    file = stage.folder / "ppg-password"
    file.write_text(password)
    file.chmod(0o600)
    stage.add_settings(f"wap.ppg={url}", f"wap.ppg_user={user}", f"wap.ppg_password_file={file}")
    await stage.start_gateway()


def _read(message: bytes) -> Document:
    """What the terminal makes of a short message."""
    header, body = parse_header(message)
    check(header.ports is not None and header.ports.destination == 2948, f"the header is {header}")
    return parse_wbxml(parse_push(body).body)


async def _push(network: Operator, token: str, word: str) -> str:
    """Push by `wap`; wait for this word of it in the history."""
    push = await network.stage.push({"token": token}, "c9", text="read this", urgency="high", fallback=["wap"])

    async def told() -> bool:
        steps = (await network.stage.look(push))["deliveries"][0]["steps"]
        return any((step["what"], step["channel"]) == (word, "wap") for step in steps)

    await eventually(told, f"{word} by wap")
    return push


def _check(document: Document, push: str) -> None:
    check(isinstance(document, ServiceIndication), f"the terminal got {document}")
    assert isinstance(document, ServiceIndication)
    check(document.href == HREF.replace("{push}", push), f"the link is {document.href}")
    check(document.text == "c9 - read this", f"the text is {document.text}")
    check(document.action is Action.HIGH, f"the action is {document.action}")


CLAUSES = {"C9": ("a link opened by WAP push", by_wap_push)}
