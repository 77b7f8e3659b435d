"""Clauses K1 to K5: a fleet on three NATS servers, with devices and providers at all nodes, and what happens when parts
of it die. All rows play on one fleet, which is whole again after each."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.model.cluster import partition_of
from gateway.model.registration import parse_token
from gateway.tour.fleet import Fleet
from gateway.tour.fleet_home import FleetHome, NotStarted
from gateway.tour.fleet_load import OPEN, FleetLoad, Ledger, Phone
from gateway.tour.nats_servers import nats_server
from gateway.tour.plain_providers import PlainProvider, what_providers_saw
from gateway.tour.stage import Failed, Shown, Skipped, Stage, check, eventually

PHONES = 30
PARTITIONS = 16
#: a node that is silent for so long is dead; what a fail-over takes begins with it
LEASE_S = 2.0
SETTINGS = (f"cluster.lease_s={LEASE_S}", "cluster.beat_s=0.4", "cluster.ask_timeout_s=3", "delivery.ack_ms=2000")
#: a node that ended well takes so long at most
DRAIN_S = 30.0
#: of each provider, between two pushes
PAUSE_S = 0.02
#: the same of providers that do not wait for the answers
PLAIN_PAUSE_S = 0.04


class Scene:
    """`load`: phones and providers."""

    def __init__(self, home: FleetHome, load: FleetLoad) -> None:
        self.home = home
        self.load = load

    async def owners(self) -> dict[int, str]:
        """Partition → name of its node, as the operator is told."""
        node = self.home.nodes[0]
        command = [sys.executable, "-m", "gateway.cli", "cluster", "status", "--json"]
        for setting in node.settings:
            command += ["--set", setting]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        raw, _ = await process.communicate()
        try:
            return {each["partition"]: each["owner"] for each in json.loads(raw)["partitions"]}
        except (ValueError, KeyError):
            raise Failed("heliograph cluster status says nothing") from None

    async def links(self) -> list[int]:
        """Devices connected to each node that answers."""
        return [int(await node.figure(self.home.http, "heliograph_links") or 0) for node in self.home.nodes]

    def phones_of(self, partitions: set[int]) -> list[Phone]:
        return [
            phone
            for phone in self.load.phones
            if partition_of(parse_token(phone.token) or b"\0\0", PARTITIONS) in partitions
        ]

    async def owned_by(self, name: str) -> set[int]:
        return {partition for partition, owner in (await self.owners()).items() if owner == name}

    async def whole_again(self) -> None:
        """All nodes and NATS servers run, each partition has an owner, all devices are on line."""
        try:
            await self.home.nats_healthy()
            await self.home.until_ready()
        except RuntimeError as exc:
            raise Failed(str(exc)) from None
        await self.all_online()

    async def all_online(self) -> None:
        async def probe() -> bool:
            return all(phone.is_online for phone in self.load.phones)

        await eventually(probe, "all devices on line", 30.0)


@asynccontextmanager
async def _fleet(stage: Stage) -> AsyncIterator[Scene]:
    try:
        nats_server()
    except RuntimeError as exc:
        raise Skipped(str(exc)) from None
    with tempfile.TemporaryDirectory(prefix="heliograph-tour-") as folder:
        home = FleetHome(Path(folder), partitions=PARTITIONS, settings=SETTINGS)
        for node in home.nodes:
            node.settings.append(f"cluster.spool={node.folder / 'spool'}")
        load = FleetLoad(home)
        stage.say("three NATS servers and three gateways come up")
        try:
            await home.start()
            await load.open(PHONES)
            yield Scene(home, load)
        except NotStarted as exc:
            raise Failed(str(exc)) from None
        finally:
            await load.close()
            await home.close()


async def _scene(stage: Stage) -> Scene:
    scene = await stage.shared("fleet", lambda: _fleet(stage))
    await scene.whole_again()
    return scene


async def anywhere(stage: Stage, _fleet: Fleet) -> str:
    """K1: devices at any node, providers at any node."""
    scene = await _scene(stage)
    load = scene.load
    links = await scene.links()
    check(min(links) > 0 and sum(links) == PHONES, f"devices by node: {links}")
    titles = []
    for phone in load.phones:
        for node in range(3):
            titles.append(await load.accepted(phone, node))
    await load.all_shown(15.0)
    batch = [{"target": {"token": phone.token}, "title": f"batch {phone.number}"} for phone in load.phones]
    answer = await load.call(scene.home.nodes[1], "POST", "/v1/push/batch", json=batch)
    made = Counter(json.loads(line)["status"] for line in answer.text.splitlines())
    check(made == {201: PHONES}, f"a batch: {dict(made)}")
    body = {"target": {"everyone": True}, "title": "to everyone"}
    answer = await load.call(scene.home.nodes[2], "POST", "/v1/push", json=body)
    check(answer.status_code == 201, f"a broadcast: {answer.status_code} {answer.text}")

    async def probe() -> bool:
        to_all = len({phone for phone, _ in load.ledger.shown["to everyone"]})
        batched = sum(bool(load.ledger.shown[f"batch {phone.number}"]) for phone in load.phones)
        return to_all == batched == PHONES

    await eventually(probe, "the batch and the broadcast at every device", 15.0)
    owned = Counter((await scene.owners()).values())
    return (
        f"{PHONES} devices at three nodes ({', '.join(map(str, links))}), {PARTITIONS} partitions "
        f"({', '.join(map(str, owned.values()))}): {len(titles)} pushes from all to all, a batch, a broadcast"
    )


async def accepted_is_kept(stage: Stage, _fleet: Fleet) -> str:
    """K2: accepted at a node that dies at once."""
    scene = await _scene(stage)
    load, home = scene.load, scene.home
    victim, others = home.nodes[0], home.nodes[1:]
    phones = scene.phones_of(await scene.owned_by(victim.name))[:5]
    check(phones, f"no device has its token at {victim.name}")
    await asyncio.gather(*(phone.leave() for phone in phones))
    answers = await asyncio.gather(*(load.push(phone, victim, key=False) for phone in phones))
    await victim.kill()
    died = time.monotonic()
    said = [answer.status_code for answer in answers]
    check(said == [201] * len(phones), f"pushes were answered {said}")
    stage.say(f"{victim.name} is killed right after its 201; the devices come to the other two")
    before = [phone.token for phone in phones]
    try:
        async with asyncio.timeout(30):
            await asyncio.gather(*(phone.come(others) for phone in phones))
    except TimeoutError:
        raise Failed("the devices got no token from the other nodes") from None
    check([phone.token for phone in phones] == before, "another token after the node's death")
    await load.all_shown(30.0)
    took = time.monotonic() - died
    await home.restart(0)
    await scene.whole_again()
    check(load.ledger.twice() == 0, f"{load.ledger.twice()} came twice")
    return (
        f"{len(phones)} pushes that {victim.name} accepted and nobody had: at devices of the others {took:.1f} s after "
        "its death"
    )


async def killed_in_the_middle(stage: Stage, _fleet: Fleet) -> Shown:
    """K3: a node and a NATS server killed under load."""
    scene = await _scene(stage)
    load, home = scene.load, scene.home
    ledger = load.ledger = _new_ledger(load)
    victim = home.nodes[1]
    partitions = await scene.owned_by(victim.name)
    affected = {phone.number for phone in scene.phones_of(partitions)}
    check(affected, f"no device has its token at {victim.name}")
    for phone in load.phones:
        phone.gaps.clear()
    load.start_pushing(PAUSE_S)
    stage.say("pushes from all nodes to all devices")
    await asyncio.sleep(3.0)
    home.signal_nats(1, signal.SIGKILL)
    await victim.kill()
    died = time.monotonic()
    before = len(ledger.promises)
    stage.say(f"{before} accepted; now {victim.name} and the NATS server n2 are killed")
    failed_over = await _first_of(ledger, affected, died)
    stage.say(f"another node delivers for {victim.name} {failed_over:.1f} s later")
    await scene.all_online()
    back = max((gap for phone in load.phones for gap in phone.gaps), default=0.0)
    await asyncio.sleep(3.0)
    stage.say("both are started again")
    home.start_nats_server(1)
    await home.restart(1)
    await asyncio.sleep(3.0)
    await load.stop_pushing()
    await scene.whole_again()
    stage.say(f"{len(ledger.promises)} accepted in all; waiting for the last of them")
    await load.all_shown()
    states = await load.settled(list(ledger.promises))
    accepted, acked = len(ledger.promises), states.get("acked", 0)
    pending = sum(count for state, count in states.items() if state in OPEN)
    lost, twice, astray = accepted - acked - pending, ledger.twice(), ledger.astray()
    figures = {
        "accepted": f"{accepted:,}",
        "acked": f"{acked:,}",
        "pending": f"{pending:,}",
        "lost": f"{lost:,}",
        "shown twice": f"{twice:,}",
        "tried again by providers (503, no answer)": f"{ledger.refused:,}",
        "from the kill to the first delivery by another owner": f"{failed_over:.1f} s",
        f"longest that a device of {victim.name} had no link": f"{back:.1f} s",
    }
    check((lost, twice, astray) == (0, 0, 0), f"{figures}, at another device {astray}")
    check(pending == 0, f"{pending} are pending though every device has its own: {states}")
    return Shown(
        f"{accepted} accepted, {acked} acked, lost {lost}, twice {twice}; fail-over {failed_over:.1f} s",
        figures,
    )


async def _first_of(ledger: Ledger, phones: set[int], since: float) -> float:
    """Seconds from then to the first message that was asked for later and shown to one of these."""

    async def probe() -> float:
        shown = [
            at
            for title, promise in list(ledger.promises.items())
            if promise.phone in phones and promise.asked_at > since
            for phone, at in ledger.shown.get(title, ())
            if phone == promise.phone
        ]
        return min(shown, default=0.0)

    return float(await eventually(probe, "a delivery by another owner", 40.0)) - since


async def without_nats(stage: Stage, _fleet: Fleet) -> str:
    """K4: no NATS server can be reached."""
    scene = await _scene(stage)
    load, home = scene.load, scene.home
    assert home.nats is not None
    for phone in load.phones:
        phone.gaps.clear()
    for number in range(len(home.nats.servers)):
        home.signal_nats(number, signal.SIGKILL)
    gone = time.monotonic()
    stage.say("all three NATS servers are killed")

    async def noticed() -> bool:
        return all([await node.reasons(home.http) for node in home.nodes])

    await eventually(noticed, "that the nodes notice it", 20.0)
    spooled = [await load.push(phone, home.nodes[phone.number % 3], key=False) for phone in load.phones]
    said = Counter(answer.status_code for answer in spooled)
    check(said == {202: PHONES}, f"pushes were answered {dict(said)}")
    never = await load.call(
        home.nodes[0], "POST", "/v1/push", json={"target": {"token": load.phones[0].token}, "ttl": 0}
    )
    check(
        never.status_code == 503 and int(never.headers.get("retry-after", "0")) > 0,
        f"now or never: {never.status_code}, Retry-After {never.headers.get('retry-after')}",
    )
    waiting = spooled[0].json()["id"]
    view = (await load.call(home.nodes[0], "GET", f"/v1/push/{waiting}")).json()
    check(view["state"] == "spooled", f"the look-up says {view['state']}")
    newcomer = Phone(PHONES, load.ledger)
    joining = asyncio.create_task(newcomer.come(home.nodes))
    await asyncio.sleep(max(0.0, 5.0 - (time.monotonic() - gone)))  # five heartbeats of each device
    away = time.monotonic() - gone
    check(all(phone.is_online and not phone.gaps for phone in load.phones), "a device lost its link")
    check(not joining.done(), "a device got a token that nobody wrote down")
    stage.say(f"{away:.0f} s without NATS: every link is there, {PHONES} pushes are on the nodes' own disks")
    try:
        for number in range(len(home.nats.servers)):
            home.start_nats_server(number)
        back = time.monotonic()
        await scene.whole_again()
        await load.all_shown()
        took = time.monotonic() - back
        await asyncio.wait_for(joining, 30.0)
    except TimeoutError:
        raise Failed("the device that came meanwhile got no token") from None
    finally:
        joining.cancel()
        await asyncio.gather(joining, return_exceptions=True)
        await newcomer.leave()
    view = (await load.call(home.nodes[1], "GET", f"/v1/push/{waiting}")).json()
    check(view["id"] != waiting and view["state"] in ("pending", "done"), f"the look-up says {view}")
    check(load.ledger.twice() == 0, f"{load.ledger.twice()} came twice")
    return (
        f"{away:.0f} s: no link lost; {PHONES} pushes spooled (202), at their devices {took:.1f} s after NATS "
        "came back, none twice; what can not wait: 503 with Retry-After"
    )


async def rolling_restart(stage: Stage, _fleet: Fleet) -> Shown:
    """K5: each node is drained and started again, under load; what devices and providers see of it."""
    scene = await _scene(stage)
    load, home = scene.load, scene.home
    ledger = load.ledger = _new_ledger(load)
    for phone in load.phones:
        phone.gaps.clear()
    patient = PlainProvider(load, retries=True, name="patient", pause_s=PLAIN_PAUSE_S)
    other = PlainProvider(load, retries=False, name="once", pause_s=PLAIN_PAUSE_S)
    patient.start()
    other.start()
    moved = 0
    try:
        for number, node in enumerate(home.nodes):
            had = (await scene.links())[number]
            stage.say(f"{node.name} drains: {had} devices are sent to the others")
            code = await node.terminate(DRAIN_S)
            check(code == 0, f"{node.name} ended with {code}")
            await scene.all_online()
            moved += had
            await home.restart(number)
            await home.until_ready()
    except NotStarted as exc:
        raise Failed(str(exc)) from None
    finally:
        await asyncio.gather(patient.stop(), other.stop())
    await load.all_shown()
    gaps = sorted(gap for phone in load.phones for gap in phone.gaps)
    check(gaps, "no device was sent away")
    check(ledger.twice() == 0, f"{ledger.twice()} came twice")
    seen = patient.seen
    check(not seen.failed, f"a provider that repeats was refused: {dict(seen.answers)}")
    figures = {
        "accepted": f"{len(ledger.promises):,}",
        "shown twice": f"{ledger.twice():,}",
        "devices sent to another node": f"{moved:,}",
        "without a link, half of them, all": f"{gaps[len(gaps) // 2]:.1f}, {gaps[-1]:.1f} s",
        **what_providers_saw(seen, other.seen),
    }
    return Shown(
        f"{len(ledger.promises)} pushes accepted meanwhile, all shown once; {moved} devices sent to another node by "
        f"name, half of them back inside {gaps[len(gaps) // 2]:.1f} s, all inside {gaps[-1]:.1f} s; a provider saw "
        f"{seen.refused} times 503 in {len(seen.waits)} pushes, and waited {seen.wait(1):.2f} s at most",
        figures,
    )


def _new_ledger(load: FleetLoad) -> Ledger:
    """What this row promises is counted by itself."""
    ledger = Ledger()
    for phone in load.phones:
        phone.ledger = ledger
    return ledger


CLAUSES = {
    "K1": ("a fleet: any node to any node", anywhere),
    "K2": ("accepted at a node that dies at once", accepted_is_kept),
    "K3": ("a node and a NATS server killed under load", killed_in_the_middle),
    "K4": ("NATS unreachable", without_nats),
    "K5": ("each node restarted under load", rolling_restart),
}
