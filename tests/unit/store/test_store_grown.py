"""Single deliveries that grew out of a broadcast: its provider hears of them under the broadcast's id, and its figures
say what became of them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from store_rig import APP, START_MS, broadcast, notification, open_store, register, with_app

from gateway.model.outcome import Outcome, State, Step
from gateway.store import Store


async def grow(store: Store, seq: int, number: int, push: int = 0) -> int:
    """As delivery does it."""
    own = store.journal.reserve(1)
    single = msgspec.structs.replace(notification(own), broadcast=seq, push=push or seq)
    commit = store.journal.append(single, [number])
    store.broadcasts.adopted(seq, number)
    await commit
    store.broadcasts.acked(seq, [number], START_MS)
    return own


def settle(store: Store, seq: int, number: int, state: State, *steps: Step) -> None:
    store.journal.settle([Outcome(seq, seq, number, APP, state, START_MS, list(steps))])


def shown(store: Store, seq: int) -> dict[str, int]:
    return {name: n for name, n in store.broadcasts.figures(seq).items() if "@" not in name}


async def test_figures_count_what_became_of_single_deliveries(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    numbers = [register(store, f"d{n}") for n in range(5)]
    seq, commit = broadcast(store)
    await commit
    store.broadcasts.count(seq, "targeted", numbers)
    told, failed, late, waits = [await grow(store, seq, number) for number in numbers[:4]]
    for _ in range(2):
        store.journal.step(told, Step(START_MS, "notified", "webhook"))
    assert shown(store, seq) == {"targeted": 5, "notified": 1}
    settle(store, told, numbers[0], State.ACKED, Step(START_MS, "sent", "edge"), Step(START_MS, "acked", "edge"))
    settle(store, failed, numbers[1], State.EXPIRED, Step(START_MS - 9, "sent", "edge"), Step(START_MS, "expired"))
    await store.close()
    store = await open_store(tmp_path)
    settle(store, late, numbers[2], State.ACKED, Step(START_MS, "acked"), Step(START_MS, "shown"))
    for _ in range(2):
        store.journal.amend(told, Step(START_MS, "shown", "edge"), numbers[0])
    store.broadcasts.count_expired(seq)  # one never got one of its own, and one is pending
    store.broadcasts.end(seq, State.EXPIRED, START_MS)
    figures = {"targeted": 5, "sent": 1, "acked": 2, "shown": 2, "notified": 1, "expired": 2}
    assert shown(store, seq) == figures
    settle(store, waits, numbers[3], State.EXPIRED, Step(START_MS, "expired"))
    assert shown(store, seq) == {**figures, "expired": 3}
    await store.committer.flush()
    await store.close()
    store = await open_store(tmp_path)
    assert shown(store, seq) == {**figures, "expired": 3}
    await store.close()


@pytest.mark.parametrize("was_kept", [False, True])
async def test_receipts_name_the_broadcast(tmp_path: Path, *, was_kept: bool) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(store, "d1")
    seq, commit = broadcast(store)
    await commit
    known = store.journal.reserve(1) if was_kept else seq
    own = await grow(store, seq, number, known)
    settle(store, own, number, State.ACKED, Step(START_MS, "acked", "edge"))
    await store.committer.flush()
    for _ in range(2):
        (receipt,) = store.receipts.after(APP, 0, 10)
        assert (receipt.push, receipt.outcome.seq) == (known, own)
        await store.close()
        store = await open_store(tmp_path)
    await store.close()


async def test_a_recall_is_known_after_a_restart(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    recalled, expired, live = [broadcast(store)[0] for _ in range(3)]
    await store.journal.committed()
    store.broadcasts.end(recalled, State.RECALLED, START_MS)
    store.broadcasts.end(expired, State.EXPIRED, START_MS)
    for _ in range(2):
        assert [store.broadcasts.is_recalled(seq) for seq in (recalled, expired, live, 99)] == [
            True,
            False,
            False,
            False,
        ]
        await store.close()
        store = await open_store(tmp_path)
    await store.close()
