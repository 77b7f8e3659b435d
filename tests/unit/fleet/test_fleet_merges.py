"""Answers of several partitions, put together."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.wire import Counts, DeliveryView, PushView, ReceiptView, Statistics, TargetView
from gateway.fleet.feed_routes import _events, _is_last
from gateway.fleet.feeds import Row
from gateway.fleet.merges import cut, merge_statistics, merge_views, next_offset, targeted


def _view(state: str, figures: dict[str, int], **fields: Any) -> PushView:
    view = PushView(
        id="id",
        target=TargetView(alias="ann"),
        state=state,  # type: ignore[arg-type]
        accepted_at_ms=5,
        expires_at=9,
        deliver_at=None,
        over=0,
        urgency="normal",
        collapse_key="",
        body="auto",
        ack_ms=1,
        notifier_ack_ms=1,
        fallback=None,
        deliveries=[],
        figures=figures,
        next_offset=None,
    )
    return msgspec.structs.replace(view, **fields)


def test_a_partition_with_one_delivery_counts_as_those_with_many() -> None:
    many = _view("pending", {"targeted": 3, "pending": 1, "acked": 2})
    merged = merge_views([many, _view("done", {"acked": 1}), _view("pending", {"sent": 1})], [], 0, 100)
    assert merged.figures == {"targeted": 5, "pending": 2, "acked": 3}
    assert merged.state == "pending"


def test_a_push_is_done_when_all_of_its_parts_are() -> None:
    parts = [_view("done", {"targeted": 2, "pending": 0, "acked": 2}), _view("done", {"expired": 1})]
    assert merge_views(parts, [], 0, 100).state == "done"


def test_figures_of_a_broadcast_are_the_sum() -> None:
    parts = [_view("live", {"targeted": 4, "acked": 1}), _view("live", {"targeted": 2, "sent": 2})]
    merged = merge_views(parts, [], 0, 100)
    assert (merged.figures, merged.state) == ({"targeted": 6, "acked": 1, "sent": 2}, "live")
    assert merged.next_offset is None


def test_a_push_that_waits_at_its_home_is_scheduled() -> None:
    assert merge_views([_view("scheduled", {}, deliver_at=7)], [], 0, 100).state == "scheduled"


def test_deliveries_of_a_page_come_partition_after_partition() -> None:
    def delivery(token: str) -> DeliveryView:
        return DeliveryView(token=token, state="acked", at_ms=1, steps=[])

    views = [_view("done", {"targeted": 3, "pending": 0, "acked": 3}), _view("done", {"acked": 1})]
    pages = [_view("done", {}, deliveries=[delivery("a")]), _view("done", {}, deliveries=[delivery("b")])]
    merged = merge_views(views, pages, 2, 1)
    assert [row.token for row in merged.deliveries] == ["a", "b"]
    assert merged.next_offset == 3


@given(
    counts=st.dictionaries(st.integers(0, 7), st.integers(0, 9), max_size=5),
    offset=st.integers(0, 40),
    limit=st.integers(0, 20),
)
def test_a_page_is_a_slice_of_all_rows(counts: dict[int, int], offset: int, limit: int) -> None:
    rows = [(partition, at) for partition, count in sorted(counts.items()) for at in range(count)]
    found = [
        (piece.partition, at)
        for piece in cut(counts, offset, limit)
        for at in range(piece.offset, piece.offset + piece.limit)
    ]
    assert found == rows[offset : offset + limit]
    after = next_offset(len(rows), offset, limit)
    assert after == (offset + limit if offset + limit < len(rows) else None)


def test_statistics_add_up_by_version_too() -> None:
    one = Statistics(targeted=2, acked=1, pending=1, versions={"1.0": Counts(targeted=2, acked=1)}, complete=True)
    other = Statistics(targeted=1, acked=1, versions={"1.0": Counts(targeted=1, acked=1)}, complete=False)
    total = merge_statistics([one, other])
    assert (total.targeted, total.acked, total.pending, total.complete) == (3, 2, 1, False)
    assert total.versions["1.0"].targeted == 3


@given(st.sampled_from(["acked", "expired", "sent", "notified"]))
def test_a_single_delivery_counts_one(state: str) -> None:
    assert targeted(_view("pending" if state in ("sent", "notified") else "done", {state: 1})) == 1


def test_only_the_last_event_with_a_cursor_moves_a_reader_on() -> None:
    rows = [Row(5, b""), Row(5, b""), Row(6, b"")]
    assert [_is_last(rows, at) for at in range(3)] == [False, True, True]
    receipts = [
        ReceiptView(cursor=cursor, push="p", delivery=at, token=None, state="acked", at_ms=1, steps=[])
        for at, cursor in enumerate((5, 5, 6))
    ]
    events = [event.decode() for event in _events(receipts)]
    assert [event.startswith("id: ") for event in events] == [False, True, True]
    assert all("event: receipt\ndata: {" in event for event in events)
