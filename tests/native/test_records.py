"""Records of TLS 1.3: against the trace of RFC 8448, against another implementation, against any bytes."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from gateway._native.records import SUITES, Records

DATA = 23
SIZES = {0x1301: 32, 0x1302: 48, 0x1303: 32}


def test_the_keys_and_the_record_of_the_published_trace() -> None:
    """RFC 8448 section 3: what the client sends after its handshake."""
    secret = bytes.fromhex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5")
    records = Records(0x1301, secret)
    assert records.key.hex() == "17422dda596ed5d9acd890e3c63f5051"
    assert records.iv.hex() == "5b78923dee08579033e523d9"
    content = bytes(range(0x32))
    wire = bytes.fromhex(
        "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292a2"
        "977014bd1e3deae63aeebb21694915e4"
    )
    assert Records(0x1301, secret).open(wire) == (DATA, content)
    assert Records(0x1301, secret).seal(DATA, content) == wire


def other(suite: int, key: bytes) -> AESGCM | ChaCha20Poly1305:
    return ChaCha20Poly1305(key) if suite == 0x1303 else AESGCM(key)


def nonce(iv: bytes, sequence: int) -> bytes:
    return bytes(a ^ b for a, b in zip(iv, sequence.to_bytes(12, "big"), strict=True))


@given(
    suite=st.sampled_from(SUITES),
    content=st.binary(max_size=400),
    kind=st.integers(1, 255),
    padding=st.integers(0, 200),
    sequence=st.integers(0, 2**64 - 2),
)
def test_another_implementation_agrees(suite: int, content: bytes, kind: int, padding: int, sequence: int) -> None:
    secret = os.urandom(SIZES[suite])
    ours = Records(suite, secret, sequence)
    theirs = other(suite, ours.key)
    for i in range(2):
        wire = ours.seal(kind, content)
        assert wire[:5] == b"\x17\x03\x03" + (len(content) + 17).to_bytes(2, "big")
        assert theirs.decrypt(nonce(ours.iv, (sequence + i) % 2**64), wire[5:], wire[:5]) == content + bytes((kind,))
    inner = content + bytes((kind,)) + b"\0" * padding
    head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
    wire = head + theirs.encrypt(nonce(ours.iv, sequence), inner, head)
    assert Records(suite, secret, sequence).open(wire) == (kind, content)


@pytest.mark.parametrize("suite", SUITES)
def test_the_largest_record_and_the_empty_one(suite: int) -> None:
    secret = os.urandom(SIZES[suite])
    into, out = Records(suite, secret), Records(suite, secret)
    for content in (b"", os.urandom(16_384)):
        assert into.open(out.seal(DATA, content)) == (DATA, content)
    with pytest.raises(ValueError, match="too much"):
        out.seal(DATA, b"x" * 16_385)
    theirs = other(suite, into.key)
    inner = b"x" * 16_385 + b"\x17"
    head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
    with pytest.raises(ValueError, match="22"):  # record_overflow
        into.open(head + theirs.encrypt(nonce(into.iv, 2), inner, head))


@pytest.mark.parametrize("suite", SUITES)
def test_updated_keys_are_others_and_both_sides_find_them(suite: int) -> None:
    secret = os.urandom(SIZES[suite])
    into, out = Records(suite, secret), Records(suite, secret)
    before = out.seal(DATA, b"before")
    out.update()
    after = out.seal(DATA, b"after")
    assert into.open(before) == (DATA, b"before")
    with pytest.raises(ValueError, match="20"):
        into.open(after)
    into.update()
    assert into.open(after) == (DATA, b"after")


def test_only_zeros_inside_are_no_record() -> None:
    into = Records(0x1301, b"s" * 32)
    head = b"\x17\x03\x03\x00\x20"
    with pytest.raises(ValueError, match="10"):  # unexpected_message
        into.open(head + AESGCM(into.key).encrypt(into.iv, b"\0" * 16, head))


@given(suite=st.sampled_from(SUITES), data=st.binary(max_size=100), at=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_changed_record_is_never_opened(suite: int, data: bytes, at: int, flip: int) -> None:
    secret = b"k" * SIZES[suite]
    wire = bytearray(Records(suite, secret).seal(DATA, data))
    wire[at % len(wire)] ^= flip
    with pytest.raises(ValueError, match=r"^(10|20|22|not one whole record)$"):
        Records(suite, secret).open(bytes(wire))


@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(10|20|22|not one whole record)$"):
        Records(0x1301, b"s" * 32).open(data)


def test_what_is_no_suite_and_no_secret() -> None:
    for suite, secret in ((0x1300, b"s" * 32), (0x1304, b"s" * 32), (0x1302, b"s" * 32), (0x1301, b"")):
        with pytest.raises(ValueError, match="no suite"):
            Records(suite, secret)
