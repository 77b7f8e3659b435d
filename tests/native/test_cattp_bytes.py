"""CAT_TP PDUs as the compiled server reads and writes them (ext/include/gw_cattp.h) are those of
`gateway.ota.cattp_pdu`: any bytes are taken by both or by neither, and both say the same of them."""

from __future__ import annotations

import random

import pytest
from cattp_rig import CARD_PORT, PORT, Stepped
from hypothesis import given
from hypothesis import strategies as st

from gateway.ota.cattp_pdu import (
    ACK,
    EACK,
    MOST_PDU_BYTES,
    NUL,
    RST,
    SEG,
    SYN,
    Opening,
    Pdu,
    Reason,
    build_checksum,
    build_pdu,
    build_refusal,
    parse_pdu,
)
from gateway.ota.malformed import Malformed

number = st.integers(0, 0xFFFF)
RST_BYTES = 19


@st.composite
def pdus(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from((0, SYN, RST, NUL, EACK, SEG)))
    data = draw(st.binary(min_size=1, max_size=60)) if kind in (0, SEG) else b""
    return build_pdu(
        Pdu(
            kind | draw(st.sampled_from((0, ACK))),
            draw(number),
            draw(st.sampled_from((PORT, CARD_PORT))),
            draw(number),
            draw(number),
            draw(number),
            data,
            Opening(draw(number), draw(number), draw(st.binary(max_size=40))) if kind == SYN else None,
            tuple(draw(st.lists(number, min_size=1, max_size=20))) if kind == EACK else (),
            draw(st.integers(0, 255)) if kind == RST else 0,
            draw(st.sampled_from((0, 0, 0, 1, 2, 3))),
        )
    )


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A PDU with some bytes changed, cut or added, and a checksum that is right again or not."""
    data = bytearray(draw(pdus()))
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    data = data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data + draw(st.binary(max_size=3))
    if len(data) >= 18 and draw(st.booleans()):
        data[16:18] = b"\0\0"
        data[16:18] = build_checksum(bytes(data)).to_bytes(2, "big")
    return bytes(data)


def expected_of(data: bytes) -> tuple[str, bytes | None]:
    """What a server whom nobody may call makes of it: (counter, answer)."""
    try:
        pdu = parse_pdu(data)
    except Malformed:
        return "malformed", None
    if pdu.destination != PORT:
        return "foreign", build_refusal(pdu, Reason.PORT)
    if pdu.version:
        return "version", build_refusal(pdu, Reason.VERSION)
    if pdu.opening is None or pdu.flags & ACK:
        return "stray", build_refusal(pdu, Reason.UNEXPECTED_PDU)
    return "not_admitted", None


def check(server: Stepped, data: bytes) -> None:
    name, answer = expected_of(data)
    before = server.server.counters()
    out = server.step(data)
    after = server.server.counters()
    assert out == ([answer] if answer is not None and len(data) >= RST_BYTES else [])
    assert after[name] == before[name] + 1
    assert after["bytes_in"] == before["bytes_in"] + len(data)


@pytest.fixture(scope="module")
def server() -> Stepped:
    return Stepped(refusals_per_s=1 << 24)


@given(st.binary(max_size=200) | pdus() | mutants())
def test_any_bytes_are_read_as_the_model_reads_them(server: Stepped, data: bytes) -> None:
    check(server, data)


def test_checksums_of_every_length_are_right(server: Stepped) -> None:
    rng = random.Random(3)
    for size in [*range(1, 140), 1_383, 5_001, MOST_PDU_BYTES - 18]:
        data = build_pdu(
            Pdu(ACK, CARD_PORT, PORT, 1, 2, 3, rng.choice((rng.randbytes(size), b"\xff" * size, bytes(size))))
        )
        assert expected_of(data)[0] == "stray"
        check(server, data)
        broken = bytearray(data)
        broken[rng.randrange(18, len(data))] ^= 1 << rng.randrange(8)
        check(server, bytes(broken))
    check(server, data + b"\0")  # no datagram is as long
