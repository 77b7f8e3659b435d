"""The gateway's Diameter before a relay and an HSS that are not ours: freeDiameterd routes, python-diameter answers
(C7, C10, C14)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from diameter_hss import Somebody, TheirHss
from diameter_scene import EXTERNAL_ID, IMPU, IMSI, MSISDN, until
from needs import needs

from gateway.config.sections import Config
from gateway.diameter.node import Node, NotConnected, build_node
from gateway.diameter.s6c import S6cRegister
from gateway.diameter.s6m import S6mRegister
from gateway.diameter.sh import ShHome
from gateway.metrics import Metrics
from gateway.model.subscriber import NetworkId, NetworkIdKind, OpaqueKind, Subscriber
from gateway.model.subscribers import Numbers
from gateway.paging.trigger import tsp_errors
from gateway.paging.trigger.tsp import TspWay
from gateway.paging.trigger.way import DeviceTrigger, Outcome
from gateway.tour.operator.diameter_relay import GATEWAY_HOST, HSS_HOST, NEEDED, REALM, Relay

pytestmark = [pytest.mark.slow, needs(NEEDED)]

ANN = Subscriber(b"h" * 16, [NetworkId(NetworkIdKind.MSISDN, f"+{MSISDN}")], OpaqueKind.O_TMSN, "")
TRIGGER = DeviceTrigger(reference=4_000_000_007, payload=b"\x01wake", port=16_002, validity_s=300, is_urgent=True)


@pytest.fixture(scope="module")
def hss() -> Iterator[TheirHss]:
    """For all tests here: it takes its time to end."""
    hss = TheirHss()
    hss.by_impu[IMPU] = hss.by_external_id[EXTERNAL_ID] = Somebody(MSISDN, IMSI)
    hss.start()
    yield hss
    hss.stop()


@pytest.fixture
async def network(tmp_path: Path, hss: TheirHss) -> AsyncIterator[Relay]:
    hss.actions.clear()
    hss.status = 0
    async with Relay(tmp_path, hss.port) as network:
        yield network


def build(network: Relay, metrics: Metrics, *, tls: bool = False) -> Node:
    config = Config()
    section = config.diameter
    section.origin_host, section.origin_realm = GATEWAY_HOST, REALM
    section.reconnect_s, section.reconnect_max_s, section.watchdog_s = 0.1, 0.2, 0.5
    section.peers = [f"127.0.0.1:{network.port}"]
    if tls:
        section.peers = [f"aaas://127.0.0.1:{network.tls_port}"]
        mine = network.authority.issue(name=GATEWAY_HOST)
        section.tls_ca = str(network.folder / "authority.pem")
        section.tls_cert, section.tls_key = str(network.folder / "gw.pem"), str(network.folder / "gw.key")
        Path(section.tls_cert).write_text(mine.certificate)
        Path(section.tls_key).write_text(mine.key)
    node = build_node(config, metrics)
    assert node is not None
    return node


@pytest.fixture(params=["plain", "tls"])
async def node(request: pytest.FixtureRequest, network: Relay) -> AsyncIterator[Node]:
    node = build(network, Metrics(process=False), tls=request.param == "tls")
    node.start()
    await until(lambda: node.open_peers == 1)
    yield node
    await node.close()


async def test_the_hss_finds_whom_it_is_asked_for(node: Node) -> None:
    for host in ("", HSS_HOST):
        assert await S6cRegister(node, host, "4917000000").look_up(Numbers(f"+{MSISDN}", "")) == Numbers(MSISDN, IMSI)
        assert await S6cRegister(node, host).look_up(Numbers("4999", "")) is None
        assert await ShHome(node, host).find(IMPU) == Numbers(MSISDN, IMSI)
        assert await ShHome(node, host).find("sip:nobody@example.net") is None
        assert await S6mRegister(node, host, "pushgw").find(EXTERNAL_ID) == Numbers(MSISDN, IMSI)
        assert await S6mRegister(node, host).find("nobody@push.example.com") is None


async def test_a_trigger_reaches_the_mtc_iwf_and_its_report_comes_back(hss: TheirHss, node: Node) -> None:
    heard: list[tuple[int, Outcome, str]] = []
    way = TspWay(node, lambda *what: heard.append(what), mtc_iwf_host=HSS_HOST, scs_identity="pushgw")
    way.start()
    assert (await way.send(ANN, TRIGGER)).row is tsp_errors.OK
    (action,) = hss.actions
    assert action.reference_number == TRIGGER.reference
    assert (action.action_type, action.validity_time, action.scs_identity) == (1, 300, b"pushgw")
    data = action.trigger_data
    assert (data.payload, data.priority_indication, data.application_port_identifier) == (b"\x01wake", 1, 16_002)
    hss.status = 102
    assert (await way.send(ANN, TRIGGER)).row.reason == "INVEXTID"
    assert await asyncio.to_thread(hss.report, TRIGGER.reference, 3) == 2001
    assert heard == [(TRIGGER.reference, Outcome.FAILED, "undeliverable")]


async def test_a_relay_that_restarts_is_met_again(network: Relay) -> None:
    metrics = Metrics(process=False)
    node = build(network, metrics)
    node.start()
    try:
        await until(lambda: node.open_peers == 1)
        await network.stop()
        await until(lambda: node.open_peers == 0)
        with pytest.raises(NotConnected):
            await ShHome(node).find(IMPU)
        await network.start()
        await until(lambda: node.open_peers == 1)
        assert await ShHome(node).find(IMPU) == Numbers(MSISDN, IMSI)
    finally:
        await node.close()


async def test_the_watchdog_keeps_a_quiet_connection(network: Relay) -> None:
    metrics = Metrics(process=False)
    node = build(network, metrics)
    node.start()
    try:
        await until(lambda: node.open_peers == 1)
        await asyncio.sleep(2.5)  # five of our intervals
        assert node.open_peers == 1
        assert [key for key in metrics.counters if "diameter_ended" in key[0].spec.name] == []
    finally:
        await node.close()
