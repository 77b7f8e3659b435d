"""What the pager `ip` sends is what others read as CoAP: Wireshark, field by field, and aiocoap as a terminal (C11)."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import aiocoap
import pytest
from aiocoap import resource
from ip_scene import HERE, IpScene
from needs import needs

from gateway.client import WakeListener
from gateway.model.coap import CHANGED, Coap, CoapType, build_coap
from gateway.paging.app_payload import parse_payload
from gateway.paging.ip.datagram import Timing, What, post

pytestmark = pytest.mark.slow
FIELDS = [
    "coap.version",
    "coap.type",
    "coap.token_len",
    "coap.code",
    "coap.mid",
    "coap.token",
    "coap.opt.uri_path",
    "coap.opt.ctype",
    "coap.payload_length",
]


def dissect(datagrams: list[bytes], folder: Path) -> list[list[str]]:
    """Each as a UDP datagram to port 16000 in a capture of raw IPv4 (link type 101)."""
    file = folder / "coap.pcap"
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 101)
    for data in datagrams:
        udp = struct.pack(">HHHH", 40_000, 16_000, 8 + len(data), 0) + data
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, b"\x7f\0\0\1", b"\x7f\0\0\1") + udp
        out += struct.pack("<IIII", 0, 0, len(ip), len(ip)) + ip
    file.write_bytes(out)
    done = subprocess.run(
        ["tshark", "-r", str(file), "-d", "udp.port==16000,coap", "-T", "fields", "-E", "separator=|"]
        + [word for field in (*FIELDS, "_ws.malformed") for word in ("-e", field)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return [line.split("|") for line in done.stdout.decode().splitlines()]


@needs({"tshark": "tshark"})
async def test_wireshark_reads_what_is_sent(tmp_path: Path) -> None:
    async with IpScene(tmp_path) as scene:
        await scene.on_line()
        assert (await scene.push()).ok
        (raw,) = scene.terminal.raw
        answer = build_coap(Coap(CoapType.ACK, CHANGED, 0x1234, b"12345678"))
        sent, answered = await asyncio.to_thread(dissect, [raw, answer], tmp_path)
        assert sent[:2] == ["1", "0"]  # confirmable
        assert sent[2:4] == ["8", "2"]  # POST
        assert sent[4] == str(raw[2] << 8 | raw[3])
        assert sent[5].replace(":", "") == raw[4:12].hex()
        assert sent[6] == "push"
        assert "octet-stream" in sent[7]
        payload = parse_payload(raw[-int(sent[8]) :])
        assert (payload.title, payload.text) == ("Hi", "there")
        assert answered[1:4] == ["2", "8", "68"]  # 2.04 inside the acknowledgement
        assert {sent[-1], answered[-1]} == {""}


async def test_aiocoap_is_the_terminal(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "coap-server")
    payloads: list[bytes] = []

    class Push(resource.Resource):
        async def render_post(self, request: object) -> object:
            payloads.append(request.payload)  # type: ignore[attr-defined]
            return aiocoap.Message(code=aiocoap.CHANGED)

    class Slow(resource.Resource):
        async def render_post(self, request: object) -> object:
            await asyncio.sleep(0.3)  # past the time in which aiocoap answers inside the acknowledgement
            return aiocoap.Message(code=aiocoap.CHANGED)

    site = resource.Site()
    site.add_resource(["push"], Push())
    site.add_resource(["slow"], Slow())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((HERE, 0))
        port = free.getsockname()[1]
    server = await aiocoap.Context.create_server_context(site, bind=(HERE, port), transports=["simplesocketserver"])
    try:
        here, timing = IPv4Address(HERE), Timing(1.0, 1)
        found = await post(here, port, "push", b"hello", timing, allows_own=True)
        assert (found.what, found.code, payloads) == (What.ANSWERED, CHANGED, [b"hello"])
        assert (await post(here, port, "slow", b"x", timing, allows_own=True)).code == CHANGED
        assert (await post(here, port, "nothing", b"x", timing, allows_own=True)).code == 0x84
    finally:
        await server.shutdown()


async def test_aiocoap_wakes_the_device_sdk() -> None:
    woken: list[bytes] = []
    listener = WakeListener(woken.append)
    port = await listener.start(0, HERE)
    client = await aiocoap.Context.create_client_context(transports=["simple6"])
    try:
        payload = b"\x01" + bytes(38)
        message = aiocoap.Message(code=aiocoap.POST, uri=f"coap://{HERE}:{port}/push", payload=payload)
        assert (await asyncio.wait_for(client.request(message).response, 10)).code == aiocoap.CHANGED
        assert woken == [payload]
        message = aiocoap.Message(code=aiocoap.GET, uri=f"coap://{HERE}:{port}/push")
        assert (await asyncio.wait_for(client.request(message).response, 10)).code == aiocoap.METHOD_NOT_ALLOWED
    finally:
        await client.shutdown()
        listener.close()
