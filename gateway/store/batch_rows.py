"""Layouts of a batch's rows: in the journal, of what became of its deliveries, and of a batch that is over; pure bytes
in, values out. `ext/include/gw_batch.h` has the same layouts for the data plane.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from gateway.model.notification import Content, Notification, Target
from gateway.model.registration import build_token
from gateway.store.records import pack_u32, unpack_u32

_HEAD = struct.Struct("<BBHIIQIII")  # kind, version, spare, app number, count, accepted_ms, ack_ms, notifier_ack_ms, …
_ITEM = struct.Struct("<16sIIIIIIB3x")  # token, registration, expires_s, where its content begins, three sizes, urgency
_RECORD = struct.Struct("<QIBBH")  # Unix ms of its end, ms from send to ack, state, flags
RECORD_BYTES = _RECORD.size
#: flags of a record
SHOWN, APART, UNDONE = 1, 2, 4


class BatchHead(NamedTuple):
    app_number: int
    pushes: int
    accepted_ms: int
    ack_ms: int
    notifier_ack_ms: int


class BatchItem(NamedTuple):
    token: bytes
    registration: int
    expires_s: int
    at: int
    title_bytes: int
    text_bytes: int
    data_bytes: int
    urgency: int


class Record(NamedTuple):
    """What became of one delivery; state 0: it is pending."""

    at_ms: int
    took_ms: int
    state: int
    flags: int


def parse_batch_head(raw: bytes | memoryview) -> BatchHead:
    _, _, _, app_number, count, accepted_ms, ack_ms, notifier_ack_ms, _ = _HEAD.unpack_from(raw)
    return BatchHead(app_number, count, accepted_ms, ack_ms, notifier_ack_ms)


def parse_batch_item(raw: bytes | memoryview, index: int) -> BatchItem:
    return BatchItem(*_ITEM.unpack_from(raw, _HEAD.size + index * _ITEM.size))


def head_of_batch(raw: bytes) -> bytes:
    """The row without titles, texts and data."""
    return raw[: _HEAD.size + parse_batch_head(raw).pushes * _ITEM.size]


def parse_batched(raw: bytes | memoryview, index: int, first: int, app: str) -> Notification:
    """The notification of one delivery; its content is empty where the row is only a head."""
    head, item = parse_batch_head(raw), parse_batch_item(raw, index)
    title = _HEAD.size + head.pushes * _ITEM.size + item.at
    text = title + item.title_bytes
    data = text + item.text_bytes
    return Notification(
        seq=first + index,
        app=app,
        target=Target(token=build_token(item.token)),
        content=Content(
            title=str(raw[title:text], "utf-8"),
            text=str(raw[text:data], "utf-8"),
            data=bytes(raw[data : data + item.data_bytes]),
        ),
        accepted_ms=head.accepted_ms,
        expires_s=item.expires_s,
        urgency=item.urgency,
        ack_ms=head.ack_ms,
        notifier_ack_ms=head.notifier_ack_ms,
    )


def parse_record(records: bytes, index: int) -> Record:
    at_ms, took_ms, state, flags, _ = _RECORD.unpack_from(records, index * _RECORD.size)
    return Record(at_ms, took_ms, state, flags)


def is_all_undone(records: bytes) -> bool:
    """Its commit failed before any device acked: it never was."""
    return all(flags & UNDONE for _, _, _, flags, _ in _RECORD.iter_unpack(records))


def build_ended_batch(at_s: int, head: bytes, records: bytes) -> bytes:
    return pack_u32(at_s) + head + records


def ended_at_s(raw: bytes) -> int:
    return unpack_u32(raw)


def parse_ended_batch(raw: bytes) -> tuple[bytes, bytes]:
    """(the head, the records)"""
    head = head_of_batch(raw[4:])
    return head, raw[4 + len(head) :]
