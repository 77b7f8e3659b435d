"""Headers, parts, manifests, chunks and reply subjects: what was built comes back, and foreign bytes raise nothing but
the declared error."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.cluster.jetstream import parse_headers
from gateway.cluster.journal_reader import sequence_of
from gateway.cluster.journal_records import (
    EPOCH,
    ID,
    PART,
    Assembler,
    MalformedJournal,
    Record,
    build_headers,
    parse_record,
)
from gateway.cluster.snapshots import (
    CHUNK_BYTES,
    FORMAT,
    MalformedSnapshot,
    Manifest,
    build_manifest,
    pack_chunk,
    parse_manifest,
    unpack_chunk,
)

idents = st.from_regex(r"[0-9a-f]{16}-[0-9]{1,9}", fullmatch=True)
epochs = st.integers(0, (1 << 63) - 1)


@given(idents, epochs, st.integers(0, 1 << 20), st.integers(0, 1 << 20))
def test_records_come_back(ident: str, epoch: int, one: int, two: int) -> None:
    part, parts = sorted((one, two)) if one and two else (0, 0)
    record = Record(f"{ident}.{part}", epoch, part, parts)
    assert parse_record(build_headers(record, 7)) == record


@given(st.dictionaries(st.sampled_from([ID, EPOCH, PART, "Other"]), st.text(max_size=30)))
def test_foreign_headers_raise_nothing_but_the_declared_error(headers: dict[str, str]) -> None:
    with contextlib.suppress(MalformedJournal):
        record = parse_record(headers)
        assert 0 <= record.part <= record.parts
    with pytest.raises(MalformedJournal):
        parse_record(None)


@given(st.binary(max_size=300))
def test_raw_headers_are_read_or_left_out(raw: bytes) -> None:
    parse_headers(raw)
    assert parse_headers(b"NATS/1.0\r\nA: b\r\nC:d\r\n\r\n") == {"A": "b", "C": "d"}


@given(st.text(max_size=60))
def test_reply_subjects_have_a_sequence_or_none(reply: str) -> None:
    assert sequence_of(reply) >= 0
    assert sequence_of("$JS.ACK.F_J_3.abc.1.77.5.1700000000.0") == 77
    assert sequence_of("$JS.ACK.domain.account.F_J_3.abc.1.77.5.1700000000.0.token") == 77
    assert sequence_of("$JS.ACK.F_J_3.abc.1.x.5.1700000000.0") == 0


#: what owners wrote: (parts it has, parts of them that were written); 0: an epoch record
histories = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), max_size=20)


@given(histories, st.data())
def test_whole_commits_come_out_and_nothing_else(history: list[tuple[int, int]], data: st.DataObject) -> None:
    seq, epoch, wanted = 0, 1, []
    messages = []
    for n, (parts, written) in enumerate(history):
        if parts == 0:
            epoch += 1
            seq += 1
            messages.append((seq, Record(f"x-{n}.0", epoch, 0, 0), b""))
            wanted.append((seq, b""))
            continue
        bodies = [b"%d/%d " % (n, part) for part in range(1, parts + 1)]
        for part in range(1, min(parts, written) + 1):
            seq += 1
            messages.append((seq, Record(f"x-{n}.{part}", epoch, part, parts), bodies[part - 1]))
        if written >= parts:
            wanted.append((seq, b"".join(bodies)))
    assembler = Assembler()
    found = []
    for number, record, body in messages:
        commit = assembler.take(number, build_headers(record, number - 1), body)
        if commit is not None:
            found.append(tuple(commit))
    assert found == wanted
    # it may begin behind any whole commit
    if wanted:
        start = data.draw(st.sampled_from(wanted))[0]
        late = Assembler(start)
        rest = [late.take(n, build_headers(record, n - 1), body) for n, record, body in messages if n > start]
        assert [tuple(commit) for commit in rest if commit is not None] == [each for each in wanted if each[0] > start]


def test_gaps_and_older_owners_and_torn_parts_are_refused() -> None:
    def headers(part: int, parts: int, epoch: int = 2, commit: str = "x-1") -> dict[str, str]:
        return build_headers(Record(f"{commit}.{part}", epoch, part, parts), 0)

    def begun() -> Assembler:
        assembler = Assembler()
        assembler.take(1, headers(0, 0), b"")
        return assembler

    with pytest.raises(MalformedJournal):
        begun().take(3, headers(1, 1), b"")
    with pytest.raises(MalformedJournal):
        begun().take(2, headers(1, 1, epoch=1), b"")
    with pytest.raises(MalformedJournal):
        begun().take(2, headers(2, 2), b"")
    torn = begun()
    torn.take(2, headers(1, 3), b"")
    with pytest.raises(MalformedJournal):
        torn.take(3, headers(2, 3, commit="x-2"), b"")


@given(st.integers(0, 10 * CHUNK_BYTES), st.integers(0, 1 << 62), st.integers(0, 1 << 62))
def test_manifests_come_back(size: int, place: int, epoch: int) -> None:
    digests = [bytes(32)] * -(-size // CHUNK_BYTES)
    manifest = Manifest(FORMAT, 3, "2026-01-01T00:00:00Z", place, epoch, "1-ab-2", size, digests)
    assert parse_manifest(build_manifest(manifest)) == manifest
    with pytest.raises(MalformedSnapshot):
        parse_manifest(build_manifest(Manifest(FORMAT, 3, "", place, epoch, "1-ab-2", size, [*digests, bytes(32)])))
    with pytest.raises(MalformedSnapshot):
        parse_manifest(build_manifest(Manifest(FORMAT + 1, 3, "", place, epoch, "1-ab-2", size, digests)))


@given(st.binary(max_size=200))
@example(b"\x98\x00\x00\xa4\x00\x00\x00\x80")  # a text that is no UTF-8
def test_foreign_bytes_are_no_manifest_and_no_chunk(raw: bytes) -> None:
    with contextlib.suppress(MalformedSnapshot):
        parse_manifest(raw)
    with pytest.raises(MalformedSnapshot):
        unpack_chunk(raw, bytes(32))


@given(st.binary(max_size=5_000))
def test_chunks_come_back_and_damaged_ones_do_not(raw: bytes) -> None:
    digest = hashlib.sha256(raw).digest()
    packed = pack_chunk(raw)
    assert unpack_chunk(packed, digest) == raw
    with pytest.raises(MalformedSnapshot):
        unpack_chunk(packed[:-5], digest + b"x")
    with pytest.raises(MalformedSnapshot):  # it is not unpacked past its size
        unpack_chunk(pack_chunk(bytes(CHUNK_BYTES + 1)), hashlib.sha256(bytes(CHUNK_BYTES + 1)).digest())
