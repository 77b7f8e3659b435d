"""What went between cards, terminals and the gateway, as a capture file, and what Wireshark says of it; must never call
something good that it did not read.

Datagrams are raw IPv4 (link type 101). APDUs are GSMTAP datagrams: each whole, with its data and status word.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

CARD_UDP, SERVER_UDP, GSMTAP_UDP = 40_000, 10_500, 4_729
#: version 2, four words, SIM
_GSMTAP_HEAD = bytes((2, 4, 4, 0)) + bytes(12)
_PATIENCE_S = 60
#: of `cattp.checksum.status`
_GOOD = "1"


class Reading(NamedTuple):
    """What Wireshark made of a capture."""

    #: CAT_TP PDUs with a good checksum, and those with another
    pdus: int
    bad_sums: int
    apdus: int
    #: type of command → how often (ETSI TS 102 223 §9.4)
    commands: Counter[int]
    malformed: int


class Capture:
    """In order, as it was seen at the card's side."""

    def __init__(self) -> None:
        self.datagrams: list[tuple[int, int, bytes]] = []
        self.pdus = self.apdus = 0

    def add_apdu(self, apdu: bytes) -> None:
        self.apdus += 1
        self.datagrams.append((50_000, GSMTAP_UDP, _GSMTAP_HEAD + apdu))

    def add_pdu(self, pdu: bytes, is_from_card: bool) -> None:
        self.pdus += 1
        source, destination = (CARD_UDP, SERVER_UDP) if is_from_card else (SERVER_UDP, CARD_UDP)
        self.datagrams.append((source, destination, pdu))

    def write(self, file: Path) -> None:
        write_capture(self.datagrams, file)


def write_capture(datagrams: Sequence[tuple[int, int, bytes]], file: Path) -> None:
    """(source port, destination port, bytes). OSError."""
    out = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 101)]
    for source, destination, data in datagrams:
        udp = struct.pack(">HHHH", source, destination, 8 + len(data), 0) + data
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, b"\x7f\0\0\1", b"\x7f\0\0\1") + udp
        out.append(struct.pack("<IIII", 0, 0, len(ip), len(ip)) + ip)
    file.write_bytes(b"".join(out))


def has_tshark() -> bool:
    return shutil.which("tshark") is not None


def run_tshark(file: Path, *arguments: str) -> list[list[str]]:
    """Its lines, cut at tabs. OSError, CalledProcessError, TimeoutExpired."""
    done = subprocess.run(  # noqa: S603 - its name and our file
        ["tshark", "-n", "-r", str(file), "-d", f"udp.port=={SERVER_UDP},cattp", *arguments],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
    )
    return [line.split("\t") for line in done.stdout.splitlines()]


def read_capture(file: Path) -> Reading:
    """OSError, CalledProcessError, TimeoutExpired."""
    names = ("cattp.checksum.status", "gsm_sim.apdu.ins", "etsi_cat.comp_tlv.cmd_type")
    rows = run_tshark(file, "-T", "fields", *(part for name in names for part in ("-e", name)))
    sums = Counter(row[0] for row in rows if row[0])
    # a command type stands in FETCH, and again in the answer to it
    commands = Counter(int(row[2].split(",")[0], 0) for row in rows if row[2] and int(row[1] or "0", 0) == 0x12)
    return Reading(
        pdus=sums[_GOOD],
        bad_sums=sum(sums.values()) - sums[_GOOD],
        apdus=sum(bool(row[1]) for row in rows),
        commands=commands,
        malformed=len(run_tshark(file, "-Y", "_ws.malformed")),
    )
