"""Which receipt is whose: ids, references, bounds, time (C8)."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from gateway.metrics import Metric, Metrics
from gateway.model.short_messages import OpenPart
from gateway.paging.sms.receipt import MessageState, ReceiptOf
from gateway.paging.sms.tracking import SLICE, Entry, Part, Tracking

DONE = MessageState.DELIVERED


class Kept:
    """OpenParts port in RAM."""

    key = b"k" * 32

    def __init__(self) -> None:
        self.rows: dict[tuple[bytes, int], OpenPart] = {}

    def put(self, part: OpenPart) -> None:
        self.rows[part.destination, part.reference & 0xFF] = part

    def remove(self, destination: bytes, reference: int) -> None:
        self.rows.pop((destination, reference & 0xFF), None)

    def all(self) -> Iterator[OpenPart]:
        return iter(list(self.rows.values()))


class Desk:
    """A tracking with a clock that is set by hand."""

    def __init__(self, most: int = 1_000, kept: Kept | None = None) -> None:
        self.now_ms = 1_000
        self.lost: list[Part] = []
        self.metrics = Metrics(process=False)
        self.tracking = Tracking(most, self.metrics, lambda: self.now_ms, self.lost.append, kept)

    def open(self, seq: int, to: str = "49", until_ms: int = 10_000, *, by_imsi: bool = False) -> Entry:
        return self.tracking.open(Part(seq, 1, 1, 1), to, until_ms, by_imsi=by_imsi)

    def find(self, message_id: str, reference: int = -1, to: str = "49", state: MessageState = DONE) -> int:
        part = self.tracking.find("a", ReceiptOf(message_id, reference, state), to)
        return -1 if part is None else part.seq


def test_by_id_and_never_another_smscs() -> None:
    desk = Desk()
    desk.tracking.taken(desk.open(7), "a", "m1")
    desk.tracking.taken(desk.open(8), "b", "m1")
    assert desk.find("m1") == 7
    assert desk.find("m1") == -1
    assert desk.metrics.value(Metric.SMS_RECEIPTS, "repeated") == 1
    assert len(desk.tracking) == 1


def test_by_reference_where_the_id_is_one_for_all() -> None:
    desk = Desk()
    entries = [desk.open(seq) for seq in range(1, 6)]
    for entry in entries:
        desk.tracking.taken(entry, "a", "same")
    for seq in (3, 1, 5, 2, 4):
        assert desk.find("0001", entries[seq - 1].reference & 0xFF) == seq
    assert len(desk.tracking) == 0


def test_an_id_with_another_ones_reference_is_not_believed() -> None:
    desk = Desk()
    first, second = desk.open(1), desk.open(2)
    desk.tracking.taken(first, "a", "same")
    # the second's receipt comes before its answer has said that the id is one for all
    assert desk.find("same", second.reference) == 2
    assert desk.find("same", first.reference) == 1


def test_sent_by_imsi_the_receipt_comes_from_a_number() -> None:
    desk = Desk()
    entry = desk.open(1, "001010000000001", by_imsi=True)
    assert desk.find("", entry.reference, to="491701234567") == 1
    assert desk.find("", entry.reference, to="491701234567") == -1


def test_a_state_on_the_way_ends_nothing() -> None:
    desk = Desk()
    desk.tracking.taken(desk.open(1), "a", "m1")
    assert desk.find("m1", state=MessageState.ENROUTE) == -1
    assert desk.find("m1") == 1


def test_the_low_byte_is_of_one_part_alone_and_past_256_the_oldest_goes() -> None:
    desk = Desk()
    entries = [desk.open(seq) for seq in range(256)]
    assert len({entry.reference & 0xFF for entry in entries}) == 256
    desk.open(256)
    assert len(desk.tracking) == 256


def test_what_is_overdue_is_told_whatever_stands_before_it() -> None:
    desk = Desk()
    desk.open(1, "1", until_ms=90_000)
    for seq in range(2, 302):
        desk.open(seq, str(seq), until_ms=5_000)
    desk.now_ms = 5_000
    for _ in range(300 // SLICE):
        desk.tracking.sweep()
    assert sorted(part.seq for part in desk.lost) == list(range(2, 302))
    assert len(desk.tracking) == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 300)), max_size=200))
def test_no_order_of_events_grows_it_or_tells_a_part_twice(events: list[tuple[int, int, int]]) -> None:
    desk, entries, told = Desk(most=20), [], []
    for seq, (kind, who, number) in enumerate(events):
        if kind == 0:
            entries.append(desk.open(seq, f"4{who}", desk.now_ms + number * 10, by_imsi=who == 0))
        elif kind == 1 and entries:
            desk.tracking.taken(entries[number % len(entries)], "a", f"m{number % 7}")
        elif kind == 2:
            told.append(desk.find(f"m{number % 7}", number if who % 2 else -1, f"4{who}"))
        else:
            desk.now_ms += number
            desk.tracking.sweep()
        assert len(desk.tracking) <= 20
    found = [seq for seq in told if seq >= 0] + [part.seq for part in desk.lost]
    assert len(found) == len(set(found))


# --- over a restart


def test_parts_are_found_after_a_restart_by_id_by_reference_and_by_imsi() -> None:
    kept = Kept()
    before = Desk(kept=kept)
    before.tracking.taken(before.open(1, "49"), "a", "m1")
    by_reference = before.open(2, "48")
    by_imsi = before.open(3, "00101", by_imsi=True)
    before.tracking.refused(before.open(4, "47"))
    over = before.open(5, "46")
    before.tracking.taken(over, "a", "m5")
    assert before.find("m5", to="46") == 5
    after = Desk(kept=kept)
    assert len(after.tracking) == 3
    assert after.find("m5", to="46") == -1
    assert after.find("m1") == 1
    assert after.find("", by_reference.reference & 0xFF, "48") == 2
    assert after.find("", by_imsi.reference & 0xFF, "4477") == 3
    assert kept.rows == {}


def test_what_is_overdue_after_a_restart_is_given_up_and_told() -> None:
    kept = Kept()
    Desk(kept=kept).open(1, until_ms=5_000)
    after = Desk(kept=kept)
    after.now_ms = 5_001
    after.tracking.sweep()
    assert [part.seq for part in after.lost] == [1]
    assert kept.rows == {}


def test_a_start_takes_up_no_more_than_its_bound() -> None:
    kept = Kept()
    before = Desk(kept=kept)
    for seq in range(5):
        before.open(seq)
    after = Desk(most=3, kept=kept)
    assert len(after.tracking) == len(kept.rows) == 3
    assert after.metrics.value(Metric.DELIVERY_MEMORY_EVICTED, "sms_part") == 2


def test_what_is_kept_holds_no_number() -> None:
    kept = Kept()
    Desk(kept=kept).open(1, "491701234567")
    assert "491701234567" not in repr(kept.rows)


def test_a_receipt_that_comes_again_is_not_that_of_another_who_was_sent_to_by_imsi() -> None:
    desk = Desk()
    first = desk.open(1, "491700000001")
    desk.tracking.taken(first, "a", "m1")
    assert desk.find("m1", first.reference, "491700000001") == 1
    while (other := desk.open(2, "001010000000001", by_imsi=True)).reference & 0xFF != first.reference & 0xFF:
        desk.tracking.refused(other)
    desk.tracking.taken(other, "a", "m2")
    assert desk.find("m1", first.reference, "491700000001") == -1
    assert desk.find("m2", -1, "491700000002") == 2


def test_one_id_for_all_tells_by_imsi_what_comes_from_one_number_again_and_again() -> None:
    desk = Desk()
    for seq in range(600):  # the low byte comes round
        part = desk.open(seq, "001010000000001", by_imsi=True)
        desk.tracking.taken(part, "a", "same")
        assert desk.find("same", part.reference & 0xFF, "491700000001") == seq


def test_after_a_restart_the_oldest_still_goes_first() -> None:
    kept = Kept()
    desk = Desk(kept=kept)
    for seq in range(6):
        desk.open(seq, f"49{seq * 7919}", until_ms=20_000 + seq)
    kept.rows = dict(sorted(kept.rows.items()))  # a store's order
    again = Desk(most=4, kept=kept)
    again.open(9, "4999", until_ms=99_999)
    assert sorted(row.seq for row in kept.rows.values()) == [3, 4, 5, 9]
    assert again.metrics.value(Metric.DELIVERY_MEMORY_EVICTED, "sms_part") == 3
