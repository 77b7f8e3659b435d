"""P8: token look-ups a second, random, and the bytes of an entry; beside a dict and LMDB with the same tokens."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import lmdb

from bench.system.figures import Measured, Run

FULL, QUICK = 10_000_000, 1_000_000
LOOKUPS = 4_000_000
BATCH = 256
#: of the peers, which are slower and larger
DICT_ENTRIES, DICT_LOOKUPS = 2_000_000, 1_000_000
LMDB_ENTRIES, LMDB_LOOKUPS = 1_000_000, 200_000
ROUNDS = 3


def best_rate(count: int, work: Callable[[], int], rounds: int = ROUNDS) -> float:
    """Times a second of the quickest of some rounds; each must find all of them."""
    best = 0.0
    for _ in range(rounds):
        began = time.perf_counter()
        found = work()
        took = time.perf_counter() - began
        if found != count:
            raise AssertionError(f"{found} of {count} tokens were found")
        best = max(best, count / took)
    return best


async def take(run: Run) -> Measured:
    n = run.size(FULL, QUICK)
    run.say(f"an index of {n:,} tokens")
    batched, single, each = _native_rates(n)
    run.say("the same from Python, with a dict and with LMDB")
    from_python, dict_rate, lmdb_rate = _peer_rates()
    return Measured(
        value=batched,
        unit="look-ups/s",
        n=n,
        peer=dict_rate,
        ratio=batched / dict_rate,
        note=f"batches of {BATCH}; peer: a dict of {DICT_ENTRIES // 1_000_000} M; LMDB get {lmdb_rate:,.0f}/s; "
        f"one by one {single / 1e6:.1f} M/s; from Python {from_python / 1e6:.1f} M/s; {each:.1f} bytes an entry",
        more={"bytes_an_entry": each, "one_by_one": single, "from_python": from_python, "lmdb": lmdb_rate},
    )


def _native_rates(n: int) -> tuple[float, float, float]:
    """Batched, one by one, and the bytes of an entry."""
    from gateway._load.core_loops import Tokens

    tokens = Tokens(n)
    wanted = tokens.random_tokens(LOOKUPS, 7)
    batched = best_rate(LOOKUPS, lambda: tokens.find_batched(wanted, BATCH))
    single = best_rate(LOOKUPS, lambda: tokens.find_each(wanted))
    return batched, single, tokens.memory_bytes / n


def _peer_rates() -> tuple[float, float, float]:
    """Our index asked from Python, a dict, and LMDB."""
    from gateway._load.core_loops import Tokens

    from gateway._native.token_index import TokenIndex

    tokens = Tokens(DICT_ENTRIES)
    packed = tokens.random_tokens(DICT_LOOKUPS, 11)
    asked = [packed[at : at + 16] for at in range(0, len(packed), 16)]
    numbers = {tokens.token(number): number for number in range(DICT_ENTRIES)}
    index = TokenIndex()
    for key, number in numbers.items():
        index.put(key, number)
    from_python = best_rate(DICT_LOOKUPS, lambda: len(index.find_many(packed)))
    dict_rate = best_rate(DICT_LOOKUPS, lambda: _count_in(numbers, asked))
    return from_python, dict_rate, _lmdb_rate(tokens)


def _count_in(numbers: dict[bytes, int], asked: list[bytes]) -> int:
    return sum(1 for key in asked if key in numbers)


def _lmdb_rate(tokens: Any) -> float:
    with tempfile.TemporaryDirectory(prefix="heliograph-bench-") as folder:
        environment = lmdb.open(folder, map_size=1 << 30, sync=False, meminit=False)
        with environment.begin(write=True) as txn:
            for number in range(LMDB_ENTRIES):
                txn.put(tokens.token(number), number.to_bytes(4, "big"))
        asked = [tokens.token(number * 7 % LMDB_ENTRIES) for number in range(LMDB_LOOKUPS)]

        def work() -> int:
            found = 0
            for key in asked:
                # a transaction each, as one who asks for one token does
                with environment.begin() as txn:
                    found += txn.get(key) is not None
            return found

        rate = best_rate(LMDB_LOOKUPS, work, rounds=1)
        environment.close()
    return rate
