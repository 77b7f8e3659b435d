"""A fleet whose import is not finished has no nodes; what it says of tokens is read whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_shared_keys import config_of

from gateway.cluster.fleet_records import KEYS, BadRecord
from gateway.cluster.import_record import IMPORT, Import, build_import, finished_import, parse_import
from gateway.cluster.leases import Bucket, LocalLeases
from gateway.cluster.shared_keys import share_keys
from gateway.cluster.stray_tokens import CHUNK, build_chunks, parse_chunk
from gateway.model.errors import ConfigError


async def test_no_node_gets_or_makes_keys_while_an_import_is_not_finished(tmp_path: Path) -> None:
    bucket = Bucket()
    leases = LocalLeases(bucket)
    revision = await leases.create(IMPORT, build_import(Import("store", "life")))
    with pytest.raises(ConfigError, match="heliograph cluster import") as caught:
        await share_keys(config_of(tmp_path, "a"), leases)
    assert caught.value.field == "cluster.name"
    assert KEYS not in bucket.entries
    assert not (tmp_path / "a" / "keys.json").exists()
    done = Import("store", "life", done=True, stray_chunks=2)
    await leases.update(IMPORT, build_import(done), revision)
    await share_keys(config_of(tmp_path, "a"), leases)
    assert await finished_import(leases) == done


async def test_a_fleet_that_began_empty_has_no_import() -> None:
    assert await finished_import(LocalLeases(Bucket())) is None


@given(st.binary(max_size=100))
def test_garbage_is_no_record_of_an_import(raw: bytes) -> None:
    try:
        parse_import(raw)
    except BadRecord:
        return
    assert raw


@given(st.dictionaries(st.binary(min_size=16, max_size=16), st.integers(0, 1_023), max_size=50))
def test_stray_tokens_come_back_as_they_were(strays: dict[bytes, int]) -> None:
    found: dict[bytes, int] = {}
    for chunk in build_chunks(strays):
        found |= parse_chunk(chunk)
    assert found == strays


def test_many_stray_tokens_take_several_messages() -> None:
    strays = {at.to_bytes(16, "big"): at % 1_024 for at in range(CHUNK + 1)}
    assert [len(parse_chunk(chunk)) for chunk in build_chunks(strays)] == [CHUNK, 1]


@pytest.mark.parametrize("raw", [b"x", b"t" * 16 + b"\xff\xff"])
def test_half_a_row_or_a_slot_that_is_none_is_an_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match="stray token"):
        parse_chunk(raw)
