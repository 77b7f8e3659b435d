"""What we write is what Wireshark reads: SMPP PDUs, user data headers and packed septets, field by field (C8)."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from needs import needs

from gateway.paging.segments import segment_binary, segment_text
from gateway.paging.sms.pdu import (
    ESM_UDHI,
    Address,
    Bind,
    Command,
    ShortMessage,
    Tag,
    build_bind,
    build_message,
    build_pdu,
    build_validity,
)
from gateway.paging.udh import Ports

pytestmark = [pytest.mark.slow, needs({"tshark": "tshark"})]


def dissect(pdus: list[bytes], folder: Path) -> list[dict[str, Any]]:
    """Each as a TCP segment to port 2775 in a capture of raw IPv4 (link type 101)."""
    file = folder / "smpp.pcap"
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 101)
    sequence = 1
    for pdu in pdus:
        tcp = struct.pack(">HHIIBBHHH", 40_000, 2_775, sequence, 1, 0x50, 0x18, 8_192, 0, 0) + pdu
        sequence += len(pdu)
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0, b"\x7f\0\0\1", b"\x7f\0\0\1") + tcp
        out += struct.pack("<IIII", 0, 0, len(ip), len(ip)) + ip
    file.write_bytes(out)
    done = subprocess.run(
        ["tshark", "-r", str(file), "-d", "tcp.port==2775,smpp", "-T", "json"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return [packet["_source"]["layers"] for packet in json.loads(done.stdout)]


def flat(tree: Any) -> dict[str, str]:
    """Every field of a dissection, first of its name."""
    found: dict[str, str] = {}
    if isinstance(tree, dict):
        for name, value in tree.items():
            if isinstance(value, str):
                found.setdefault(name, value)
            else:
                for inner, text in flat(value).items():
                    found.setdefault(inner, text)
    elif isinstance(tree, list):
        for item in tree:
            for inner, text in flat(item).items():
                found.setdefault(inner, text)
    return found


def test_pdus_and_user_data_headers(tmp_path: Path) -> None:
    where = {"source": Address(5, 0, "PUSHGW"), "destination": Address(1, 1, "491701234567")}
    binary = segment_binary(bytes(200), Ports(16_002, 16_001), reference=0xAB)[1]
    text = segment_text("ab€" * 80, reference=7)[0]
    pdus = [
        build_pdu(Command.BIND_TRANSCEIVER, 1, build_bind(Bind("pushgw", "secret"))),
        build_pdu(
            Command.SUBMIT_SM,
            2,
            build_message(
                ShortMessage(
                    **where,
                    message=binary.user_data,
                    esm_class=ESM_UDHI,
                    data_coding=binary.coding,
                    validity=build_validity(300),
                    registered_delivery=1,
                    tlvs={Tag.USER_MESSAGE_REFERENCE: b"\x12\x34"},
                )
            ),
        ),
        build_pdu(
            Command.SUBMIT_SM,
            3,
            build_message(ShortMessage(**where, message=text.user_data, esm_class=ESM_UDHI, data_coding=0)),
        ),
    ]
    packets = [flat(layers) for layers in dissect(pdus, tmp_path)]
    assert len(packets) == 3
    bind, submit, second = packets
    assert bind["smpp.system_id"] == "pushgw"
    assert bind["smpp.interface_version"] in ("3.4", "0x34", "52")
    assert submit["smpp.destination_addr"] == "491701234567"
    assert int(submit["smpp.esm.submit.features"], 0) == 1
    assert int(submit["smpp.data_coding"], 0) == 4
    assert int(submit["smpp.user_message_reference"], 0) == 0x1234
    assert int(submit["gsm_sms.destination_port"], 0) == 16_002
    assert int(submit["gsm_sms.originator_port"], 0) == 16_001
    assert [int(submit[f"gsm_sms.udh.mm.msg_{name}"], 0) for name in ("id", "parts", "part")] == [0xAB, 2, 2]
    assert [int(second[f"gsm_sms.udh.mm.msg_{name}"], 0) for name in ("id", "parts", "part")] == [7, 3, 1]
    for packet in packets:
        assert not any("malformed" in name for name in packet)
