"""A push to an opaque id goes through a push proxy gateway of another implementation, Kannel, and what reaches the
terminal is what was meant (C9)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from needs import needs
from sms_scene import IDS, MSISDN, until
from wap_scene import WapScene

from gateway.model.notification import Content, pack_data
from gateway.paging.udh import Concat, Ports, parse_header
from gateway.paging.wap.documents import Action, Document, Loading, ServiceIndication, ServiceLoading
from gateway.paging.wap.local import LocalPpg
from gateway.paging.wap.wbxml import parse_wbxml
from gateway.paging.wap.wsp import SIC, SLC, WspPush, parse_push
from gateway.tour.bare import BareDevice
from gateway.tour.network import MSISDN as NUMBER
from gateway.tour.network import operator
from gateway.tour.operator.kannel import NEEDED, PASSWORD, USER, Kannel, Sent
from gateway.tour.stage import eventually

pytestmark = [pytest.mark.slow, needs(NEEDED)]


@pytest.fixture
async def kannel(tmp_path: Path) -> AsyncIterator[Kannel]:
    async with Kannel(tmp_path) as kannel:
        yield kannel


def before(kannel: Kannel, folder: Path, password: str = PASSWORD, **wap: Any) -> WapScene:
    """The notifier, with Kannel as its PPG."""
    scene = WapScene(folder, url=kannel.url, ppg=LocalPpg(user=USER, password=password), ppg_timeout_s=8.0, **wap)
    scene.config.delivery.notifier_timeout_s = 10.0
    return scene


def join(sent: list[Sent]) -> WspPush:
    """What the terminal puts together."""
    headers = [parse_header(each.header)[0] for each in sent]
    assert {header.ports for header in headers} == {Ports(2948, 9200)}
    if len(sent) > 1:
        concats = [header.concat for header in headers]
        assert all(isinstance(concat, Concat) for concat in concats)
        assert [(c.part, c.parts) for c in concats if c] == [(n, len(sent)) for n in range(1, len(sent) + 1)]
    return parse_push(b"".join(each.body for each in sent))


def read(sent: list[Sent], content_type: int) -> Document:
    push = join(sent)
    assert push.content_type == content_type
    assert push.content_length in (-1, len(push.body))
    return parse_wbxml(push.body)


async def test_indication_loading_parts_and_every_plane(kannel: Kannel, tmp_path: Path) -> None:
    async with before(kannel, tmp_path) as scene:
        result = await scene.push(urgency=3)
        assert (result.ok, result.detail) == (True, "PAP 1001")
        await until(lambda: len(kannel.sent) == 1)
        document = read(kannel.sent, SIC)
        assert isinstance(document, ServiceIndication)
        assert document.href == f"https://shop.example/m/{IDS.build('shop', 9)}"
        assert (document.text, document.si_id, document.action) == ("Hi - there", IDS.build("shop", 9), Action.HIGH)
        assert document.created_s
        assert document.expires_s > document.created_s
        # nothing of the gateway's HTTP client goes on to the terminal
        assert len(join(kannel.sent).body) + 20 > len(kannel.sent[0].body)
        assert b"python" not in kannel.sent[0].body
        assert kannel.sent[0].receiver == f"+{MSISDN}"

        scene.settings["mode"] = "sl"
        href = "http://www.news.example.com/a?b=c&d=%20e'"
        assert (await scene.push(seq=10, urgency=3, content=Content(data=pack_data({"href": href})))).ok
        await until(lambda: len(kannel.sent) == 2)
        assert read(kannel.sent[1:], SLC) == ServiceLoading(href, Loading.EXECUTE_HIGH)

        scene.settings = {"href": href, "parts": "4"}
        planes = "".join(chr(plane << 16 | 0x41) for plane in range(17))
        text = f"{planes} <&>\"' " + "ж" * 120
        assert (await scene.push(seq=11, content=Content(text=text))).ok
        await until(lambda: len(kannel.sent) > 2 and len(kannel.sent) == 2 + _parts(kannel.sent[2]))
        document = read(kannel.sent[2:], SIC)
        assert isinstance(document, ServiceIndication)
        assert document.text == text


def _parts(sent: Sent) -> int:
    concat = parse_header(sent.header)[0].concat
    return concat.parts if concat is not None else 1


async def test_a_text_that_is_cut_fits_into_the_parts_here_too(kannel: Kannel, tmp_path: Path) -> None:
    async with before(kannel, tmp_path) as scene:
        for at, parts in enumerate((1, 2, 10)):
            scene.settings |= {"parts": str(parts)}
            count = len(kannel.sent)
            assert (await scene.push(seq=20 + at, content=Content(text="y" * 4_000))).ok
            await until(lambda count=count: len(kannel.sent) > count)  # type: ignore[misc]
            taken = kannel.sent[count]
            await until(lambda count=count, taken=taken: len(kannel.sent) == count + _parts(taken))  # type: ignore[misc]
            document = read(kannel.sent[count:], SIC)
            assert isinstance(document, ServiceIndication)
            assert document.text.endswith("…")
            assert _parts(taken) <= parts


async def test_what_kannel_refuses_is_its_row(kannel: Kannel, tmp_path: Path) -> None:
    async with before(kannel, tmp_path) as scene:
        # long ago by its clock
        scene.notifier._clock = lambda: 1_000_000
        result = await scene.push(expires_s=2_000)
        assert (result.dead, result.detail) == (True, "PAP 2001")
        assert scene.outcomes("forbidden") == 1
    async with before(kannel, tmp_path, ppg_bearer="Carrier Pigeon") as scene:
        result = await scene.push()
        assert (result.dead, result.detail) == (True, "PAP 2000")
    assert kannel.sent == []


async def test_a_wrong_password(kannel: Kannel, tmp_path: Path) -> None:
    async with before(kannel, tmp_path, password="not-the-password") as scene:
        result = await scene.push()
        assert (result.ok, result.dead, result.detail) == (False, False, "HTTP 401")
        assert scene.outcomes("unauthorized") == 1
    assert kannel.sent == []


async def test_kannel_is_killed_and_comes_back(kannel: Kannel, tmp_path: Path) -> None:
    async with before(kannel, tmp_path) as scene:
        assert (await scene.push(seq=1)).ok
        await until(lambda: len(kannel.sent) == 1)
        await kannel.kill("wapbox")
        result = await scene.push(seq=2)
        assert (result.ok, result.dead, result.detail) == (False, False, "connection")
        await kannel.start("wapbox")
        assert (await scene.push(seq=2)).ok
        await until(lambda: len(kannel.sent) == 2)


async def test_many_at_once(kannel: Kannel, tmp_path: Path) -> None:
    async with before(kannel, tmp_path) as scene:
        results = await asyncio.gather(*(scene.push(seq=seq) for seq in range(1, 101)))
        assert all(result.ok for result in results)
        await until(lambda: len(kannel.sent) == 100)
        ids = {document.si_id for each in kannel.sent if isinstance(document := read([each], SIC), ServiceIndication)}
        assert ids == {IDS.build("shop", seq) for seq in range(1, 101)}


async def test_a_whole_gateway_before_kannel_shows_no_number(kannel: Kannel, tmp_path: Path) -> None:
    async with operator(own=True) as network:
        stage = network.stage
        opaque = (await network.trigger("attach"))["ids"][0]["id"]
        await stage.change_app(notifiers={"wap": {"href": "https://shop.example/m/{push}"}})
        file = tmp_path / "ppg-password"
        file.write_text(PASSWORD)
        file.chmod(0o600)
        await stage.stop_gateway(signal.SIGTERM)
        stage.add_settings(
            f"wap.ppg={kannel.url}", f"wap.ppg_user={USER}", f"wap.ppg_password_file={file}", "log.level=debug"
        )
        await stage.start_gateway()
        device = BareDevice(stage.device_port)
        token = await device.connect("k", addresses={"wap": opaque})
        await device.close()
        await stage.disconnected(token)
        push = await stage.push({"token": token}, "Hi", text="there", fallback=["wap"])
        await until(lambda: len(kannel.sent) == 1)
        document = read(kannel.sent, SIC)
        assert isinstance(document, ServiceIndication)
        assert (document.href, document.text) == (f"https://shop.example/m/{push}", "Hi - there")
        assert kannel.sent[0].receiver == NUMBER
        # and one that fails
        await kannel.kill("wapbox")
        failed = await stage.push({"token": token}, "secret-words", text="there", fallback=["wap"])

        async def tried() -> bool:
            steps = (await stage.look(failed))["deliveries"][0]["steps"]
            return any(step["channel"] == "wap" for step in steps)

        await eventually(tried, "a try by wap")
        log = (stage.folder / "gateway.log").read_text()
        metrics = (await stage.call("GET", "/metrics")).text
        assert "wap connection" in metrics
        shown = log + metrics + str(await stage.look(push)) + str((await stage.look(failed))["deliveries"])
        for secret in (NUMBER[1:], "secret-words", "shop.example", PASSWORD):
            assert secret not in shown
