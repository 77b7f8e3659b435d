"""Whether a stream that was restored from a backup goes on where a copy of the partition ends; must never let two
journals be put together.

A restored stream counts as made anew, though it has the messages of the one before. What tells it from one that was
really made anew is their time, which a backup keeps: they are older than the stream itself, and no older than the
journal that the partition had. These are times of NATS servers, whose clocks may differ: where they do by so much that
it looks otherwise, the copy is refused and nothing is lost.
"""

from __future__ import annotations

from datetime import datetime

from gateway.cluster.jetstream import JetStream, StreamState
from gateway.cluster.journal_past import Mark
from gateway.cluster.journal_records import MalformedJournal, parse_record


def is_restored(state: StreamState, journal: str) -> bool:
    """Are all its messages of the journal that was made at `journal`?"""
    made, first, last, again = (_time(text) for text in (journal, state.first_at, state.last_at, state.created))
    if made is None or first is None or last is None or again is None or not state.messages:
        return False
    return made <= first <= last < again


async def gap(js: JetStream, stream: str, state: StreamState, journal: str, copy: Mark | None, epoch: int) -> str:
    """Why all that the partition had up to the stream's end can not be had from the copy and the stream; empty: it can.
    `journal`: that which the partition had; `epoch`: of who took the copy. JetStreamError."""
    if state.first <= 1:
        return ""
    begins = f"the stream begins at {state.first}"
    if copy is None:
        return f"{begins}, and there is no snapshot of what came before"
    if copy.created == state.created:
        return "" if copy.place + 1 >= state.first else f"{begins}, and the copy before it ends at {copy.place}"
    if copy.created != journal:
        return f"{begins}, and the copy before it is of another journal than the partition's last one"
    if not state.messages:
        return "the stream is empty, so a copy has as much as it"
    if not is_restored(state, journal):
        return f"{begins}, and is no restored copy of the partition's last journal: its messages are not of that time"
    if copy.place + 1 < state.first:
        return f"{begins}, and the copy before it ends at {copy.place}"
    if copy.place > state.last:
        return f"the stream ends at {state.last}, and a copy has {copy.place}: that one is further"
    if copy.place < state.first:
        return ""
    try:
        found = await js.message(stream, seq=copy.place)
        if found is not None and parse_record(found.headers).epoch <= epoch:
            return ""
    except MalformedJournal:
        pass
    return f"what the stream has at {copy.place} was not written before the copy that ends there"


def _time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
