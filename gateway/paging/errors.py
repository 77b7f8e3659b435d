"""Rows that any pager may lead to; must never say who was paged."""

from __future__ import annotations

from gateway.notifiers.upstream import Fault, Row, Verdict

UNKNOWN_SUBSCRIBER = Row(
    0,
    "unknown_subscriber",
    Verdict.DEAD,
    Fault.ADDRESS,
    "the id stands for nobody (any more), or for somebody who is opted out",
)
NO_NUMBER = Row(
    0, "no_number", Verdict.DEAD, Fault.ADDRESS, "no network id is known of the subscriber that this pager can use"
)
LOOKUP = Row(
    0, "lookup_failed", Verdict.RETRY, Fault.NONE, "whom the id stands for could not be asked now (identity elsewhere)"
)
PACED = Row(
    0,
    "paced",
    Verdict.RETRY,
    Fault.NONE,
    "the subscriber was paged too often, by whatever app: `paging.subscriber_per_hour`",
)
COALESCED = Row(
    0,
    "coalesced",
    Verdict.OK,
    Fault.NONE,
    "a page that wakes this app went out within `paging.coalesce_s` and stands for this one too",
)
#: for the page that the tables are on
ROWS = (UNKNOWN_SUBSCRIBER, NO_NUMBER, LOOKUP, PACED, COALESCED)
