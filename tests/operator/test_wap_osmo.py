"""Without a push proxy gateway: a WAP push reaches a terminal through real network elements, SMSC, MSC, paging and
SMS-DELIVER, in one part and in several (C9)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from needs import needs
from sms_scene import IDS, until
from test_osmo import OperatorScene
from wap_scene import DirectScene

from gateway.model.notification import Content
from gateway.paging.udh import Ports, parse_header
from gateway.paging.wap.documents import ServiceIndication, ServiceLoading
from gateway.paging.wap.wbxml import parse_wbxml
from gateway.paging.wap.wsp import parse_push
from gateway.tour.operator.osmo import NEEDED, Operator
from gateway.tour.operator.terminal import Terminal

pytestmark = [pytest.mark.slow, needs(NEEDED)]


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Operator]:
    async with Operator(tmp_path) as operator:
        yield operator


async def test_indication_and_loading_reach_the_terminal(network: Operator, tmp_path: Path) -> None:
    async with Terminal(network.ip) as terminal, DirectScene(tmp_path, OperatorScene(network)) as scene:
        await terminal.attach()
        result = await scene.push()
        assert result.ok, result
        await until(lambda: len(terminal.delivered) == 1)
        header, body = parse_header(terminal.delivered[0].data)
        assert header.ports == Ports(2948, 9200)
        document = parse_wbxml(parse_push(body).body)
        assert isinstance(document, ServiceIndication)
        assert (document.text, document.href) == ("Hi - there", f"https://shop.example/m/{IDS.build('shop', 9)}")
        await until(lambda: scene.history.words == ["delivered"])
        assert scene.history.steps[0][3] == "wap"

        scene.settings["mode"] = "sl"
        assert (await scene.push(seq=10)).ok
        await until(lambda: len(terminal.delivered) == 2)
        _, body = parse_header(terminal.delivered[1].data)
        assert isinstance(parse_wbxml(parse_push(body).body), ServiceLoading)

        scene.settings["mode"] = "si"
        assert (await scene.push(seq=11, content=Content(text="ж" * 100))).detail == "3 parts"
        await until(lambda: len(terminal.delivered) == 5)
        parts = [parse_header(sms.data) for sms in terminal.delivered[2:]]
        whole = b"".join(
            part for _, part in sorted(parts, key=lambda each: each[0].concat.part if each[0].concat else 0)
        )
        document = parse_wbxml(parse_push(whole).body)
        assert isinstance(document, ServiceIndication)
        assert document.text == "ж" * 100
        await until(lambda: len(scene.history.words) == 5)
        assert sorted(scene.history.words[2:]) == ["delivered 1/3", "delivered 2/3", "delivered 3/3"]
