"""Token index beside a dict of 16-byte keys: look-ups of random tokens, in a batch."""

from __future__ import annotations

from typing import Any

from bench.units.pairs import PEER, UNIT, take
from gateway._native.token_index import TokenIndex

PAIR = "index: look-ups in a batch"


def test_index(benchmark: Any, tokens: list[bytes], wanted: list[bytes]) -> None:
    index = TokenIndex()
    for number, token in enumerate(tokens):
        index.put(token, number)
    packed = b"".join(wanted)
    take(benchmark, PAIR, UNIT, lambda: index.find_many(packed))


def test_dict(benchmark: Any, tokens: list[bytes], wanted: list[bytes]) -> None:
    numbers = {token: number for number, token in enumerate(tokens)}
    packed = b"".join(wanted)
    # from the same packed tokens, as they come from the wire: a key that was looked up before would know its hash
    take(benchmark, PAIR, PEER, lambda: [numbers.get(packed[at : at + 16], -1) for at in range(0, len(packed), 16)])
