"""A message body is one that every device can decode: else it is never acked and comes again on each new link."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.model.notification import MAX_DATA_DEPTH, pack_data


def nested(levels: int, *, as_map: bool) -> Any:
    value: Any = 7
    for _ in range(levels):
        value = {"a": value, "b": "x"} if as_map else [value, "x"]
    return value


@pytest.mark.parametrize("as_map", [False, True], ids=["arrays", "maps"])
def test_nesting_has_a_bound(as_map: bool) -> None:
    deepest = nested(MAX_DATA_DEPTH, as_map=as_map)
    assert msgspec.msgpack.decode(pack_data(deepest)) == deepest
    with pytest.raises(ValueError, match="64 levels"):
        pack_data(nested(MAX_DATA_DEPTH + 1, as_map=as_map))


@pytest.mark.parametrize("value", [0, "", False, [], {}, 1.5, [None]])
def test_what_is_there_is_packed(value: object) -> None:
    assert msgspec.msgpack.decode(pack_data(value)) == value


def test_nothing_is_nothing() -> None:
    assert pack_data(None) == b""
