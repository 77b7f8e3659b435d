"""What we write is what Wireshark reads: capabilities, Sh, S6m and Tsp, message by message, with no AVP malformed (C7,
C10, C14), and each by the name and type that its dictionary has."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from diameter_scene import EXTERNAL_ID, IMPU, MSISDN, DiameterScene

from gateway.diameter import codes
from gateway.diameter.avps import build_octets
from gateway.diameter.codes import Application
from gateway.diameter.local import LocalDiameter
from gateway.diameter.messages import Message, build_message
from gateway.diameter.s6c import S6cRegister
from gateway.diameter.s6m import S6mRegister
from gateway.diameter.sh import ShHome
from gateway.model.subscriber import NetworkId, NetworkIdKind, OpaqueKind, Subscriber
from gateway.model.subscribers import Numbers
from gateway.paging.trigger.tsp import TspWay
from gateway.paging.trigger.way import DeviceTrigger

TSHARK = pytest.mark.skipif(shutil.which("tshark") is None, reason="NOT TESTED: apt install tshark")
pytestmark = [pytest.mark.slow, TSHARK]
APPLICATIONS = {
    "Sh": Application.SH.value,
    "S6m": Application.S6M.value,
    "S6c": Application.S6C.value,
    "Tsp": Application.TSP.value,
}

#: names and values that each message has to have in Wireshark's words; a group has no value
SAID = [
    {("Auth-Application-Id", f"3GPP {name} ({number})") for name, number in APPLICATIONS.items()},
    {
        ("User-Identity", ""),
        ("Public-Identity", IMPU),
        ("Data-Reference", "MSISDN (17)"),
        ("Data-Reference", "IMSI (32)"),
    },
    {
        ("User-Identifier", ""),
        ("External-Identifier", EXTERNAL_ID),
        ("S6-Service-ID", "DEVICE_TRIGGER (0)"),
        ("SCS-Identity", "6777"),
        ("SIR-Flags", "1"),
    },
    {("MSISDN", "947110325476"), ("SC-Address", "9471000000"), ("SM-Delivery-Not-Intended", "ONLY_IMSI_REQUESTED (0)")},
    {
        ("Device-Action", ""),
        ("MSISDN", "947110325476"),
        ("Reference-Number", "7"),
        ("Action-Type", "Device Trigger Request (1)"),
        ("Trigger-Data", ""),
        ("Payload", "0177616b65"),
        ("Priority-Indication", "Priority (1)"),
        ("Application-Port-Identifier", "16002"),
        ("Validity-Time", "300"),
    },
    {("Result-Code", "DIAMETER_SUCCESS (2001)"), ("Proxy-Info", ""), ("Proxy-State", "0102")},
    {("Disconnect-Cause", "REBOOTING (0)")},
]


def dissect(messages: list[bytes], folder: Path) -> list[str]:
    """The words Wireshark has for each, sent to port 3868 in a capture of raw IPv4 (link type 101)."""
    file = folder / "diameter.pcap"
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 101)
    sequence = 1
    for message in messages:
        tcp = struct.pack(">HHIIBBHHH", 40_000, 3_868, sequence, 1, 0x50, 0x18, 8_192, 0, 0) + message
        sequence += len(message)
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0, b"\x7f\0\0\1", b"\x7f\0\0\1") + tcp
        out += struct.pack("<IIII", 0, 0, len(ip), len(ip)) + ip
    file.write_bytes(out)
    done = subprocess.run(
        ["tshark", "-r", str(file), "-O", "diameter"], check=True, capture_output=True, timeout=60, text=True
    )
    return re.split(r"^Frame \d+", done.stdout, flags=re.MULTILINE)[1:]


class Recorder(LocalDiameter):
    """Keeps each message of the gateway as the bytes it came as."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[bytes] = []

    def _handle(self, connection: object, message: Message) -> None:
        header, avps = message
        kinds = ((codes.Kind(avp.code, avp.vendor, avp.is_mandatory), avp.data) for avp in avps)
        self.frames.append(build_message(header, b"".join(build_octets(kind, data) for kind, data in kinds)))
        super()._handle(connection, message)  # type: ignore[arg-type]


async def test_every_message_of_ours_is_read(tmp_path: Path) -> None:
    scene = DiameterScene()
    recorder = Recorder()
    scene.peers = [recorder]
    async with scene:
        way = TspWay(scene.node, lambda *_: None, mtc_iwf_host="m.example.net", scs_identity="gw")
        way.start()
        await ShHome(scene.node, "hss.example.net").find(IMPU)
        await S6mRegister(scene.node, "hss.example.net", "gw").find(EXTERNAL_ID)
        await S6cRegister(scene.node, "hss.example.net", "4917000000").look_up(Numbers(MSISDN, ""))
        ann = Subscriber(b"h" * 16, [NetworkId(NetworkIdKind.MSISDN, f"+{MSISDN}")], OpaqueKind.O_TMSN, "")
        await way.send(ann, DeviceTrigger(7, b"\x01wake", 16_002, 300, True))
        await recorder.report(7, 0)
    read = dissect(recorder.frames, tmp_path)
    names = [
        "Capabilities-Exchange",
        "User-Data",
        "Subscriber-Information",
        "Send-Routing-Info-for-SM",
        "Device-Action",
        "Device-Notification",
    ]
    assert len(read) == len(names) + 1  # the goodbye
    for name, words in zip([*names, "Disconnect-Peer"], read, strict=True):
        assert name in words, (name, words)
        assert "alformed" not in words, words
        assert not re.search(r"\[Expert Info \((Error|Warning)", words), words
    for words, expected in zip(read, SAID, strict=True):
        said = re.findall(r"AVP: (\S+)\(\d+\) l=\d+ f=\S+(?: vnd=\w+)?(?: val=(.*))?", words)
        assert len(said) == words.count("AVP: ")  # each is known by name
        assert expected <= set(said), words
