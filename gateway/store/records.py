"""Key and value layouts of every row in the store; pure bytes in, values out, and must never touch LMDB, a clock or a
key file.

Numbers in keys are big-endian, so that LMDB's byte order is their order. What recovery needs of a row stands in a
fixed header before the msgpack part, so that a start decodes no record whole.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

import msgspec

from gateway.model.cohort import build_cohort
from gateway.model.notification import Content, Notification
from gateway.model.outcome import Outcome, Step
from gateway.model.registration import App, Registration

#: version of everything in this module and of the list of databases; raise it with any change that an older program
#: would misread
SCHEMA = 5


class Db(IntEnum):
    """The databases of the environment; the number is only an index in RAM, the name is what is stored."""

    META = 0  # name → value: schema, sequence mark, …
    APPS = 1  # app number u32 → App
    REGISTRATIONS = 2  # number u32 → header + Registration
    TOMBSTONES = 3  # first token of a triple → how many of its tokens were revoked, u32
    ALIASES = 4  # app number + alias → numbers (dupsort)
    TAGS = 5  # app number + tag → numbers (dupsort)
    DEVICES = 6  # device hash → numbers (dupsort)
    JOURNAL = 7  # seq u64 → notification or delivery
    BROADCASTS = 8  # seq u64 → notification
    CURSORS = 9  # number >> 6 → 64 broadcast cursors
    DONE = 10  # number u32 → packed seqs acked above the cursor
    STEPS = 11  # delivery seq u64 + flush time u64 → history lines of a pending delivery
    OUTCOMES = 12  # delivery seq u64 → metadata of its notification (single deliveries) + Outcome
    PUSHES = 13  # notification seq u64 → metadata of a settled multi-target push or an ended broadcast
    FIGURES = 14  # notification seq u64 → counts of a multi-target push or a broadcast
    RECEIPTS = 15  # app number + first cursor u64 → time + delivery seqs
    IDEMPOTENCY = 16  # app number + SHA-256 of the key → seq, expiry, body hash
    LAPSES = 17  # expiry u32 + idempotency key → nothing; the order in which they lapse
    POSITIONS = 18  # name → cursor u64 (how far a webhook has come)
    SETTLED = 19  # seq u64 → what became of it and the 63 deliveries of its batch behind it (batch_rows.py)
    BATCHES = 20  # first seq of a batch that is over u64 → its end, items without content, what became of them
    SCHEDULED = 21  # seq u64 of a push that waits for its time → that time and the push
    RELEASED = 22  # seq u64 of such a push ↔ seq u64 of the notification it became, both ways
    SEEN = 23  # number >> 10 → hours in which 1024 registrations were connected last
    DEATHS = 24  # app number + cursor u64 → token, Unix ms, why: the feed of dead tokens and addresses
    QUOTAS = 25  # app number + key id → day and pushes in it
    # "t" + token → who it was and when it was revoked; "o" + time u32 + token → nothing: the order of the sweep
    DEAD = 26
    SUBSCRIBERS = 27  # handle of a subscriber → its record, sealed (subscriber_rows.py)
    NETWORK_IDS = 28  # keyed hash of a network id → handle, sealed
    OPAQUE_IDS = 29  # keyed hash of an opaque id → handle, sealed
    OPAQUE_HISTORY = 30  # keyed hash of an opaque id + Unix ms + line → what it stood for, sealed
    OPAQUE_ENDS = 31  # what ends + Unix seconds + keyed hash → nothing: the order of the sweep
    OPAQUE_NEWS = 32  # app number + cursor u64 → a new opaque id and those it replaces, sealed
    SHORT_MESSAGES = 33  # keyed hash of a destination + low byte of a reference → a part whose receipt is waited for
    CARDS = 34  # handle of a card → its record, sealed (card_rows.py)
    CARD_NUMBERS = 35  # keyed hash of a card's MSISDN or IMSI → handle, sealed
    CARD_CAPABILITY = 36  # handle → what is known of its terminal, sealed
    CARD_COUNTERS = 37  # handle + key set → the first counter that was certainly never given out, u64
    PAYLOADS = 38  # keyed digest → what is brought to cards, sealed
    DOWNLOADS = 39  # number u64 → state, campaign, digest, Download
    OPEN_DOWNLOADS = 40  # number u64 of one that waits or is under way → digest of its payload
    CAMPAIGNS = 41  # number u64 → Campaign
    # IM (im_rows.py); 60 and above are media's
    IM_USERS = 42  # user → its record, sealed
    IM_USER_KEYS = 43  # user → its data key, wrapped (im_keys.py)
    IM_ADDRESSES = 44  # keyed hash of an address or a mailbox → user, sealed
    IM_SESSIONS = 45  # keyed hash of a REST key's hash → Unix ms of its end and user, sealed
    IM_DEVICES = 46  # token of a registration → user, sealed
    IM_OWNED = 47  # user + kind + place: what a user has, and what leads to them
    IM_FRIENDS = 48  # user + keyed hash of the other → Friend, sealed
    IM_GROUPS = 49  # group → Group, sealed
    IM_ACCOUNTS = 50  # number u64 → user + Account, sealed under the user's key
    IM_CURSORS = 51  # account u64 → where its network goes on, sealed under the user's key
    IM_LOGS = 52  # user → lines of its log, the last cursor ever given
    IM_LOG = 53  # user + cursor u64 → when, dedupe hash + Item, sealed under the user's key
    IM_SEEN = 54  # user + dedupe hash → cursor u64
    IM_QUEUES = 55  # account u64 → how many wait, u32
    IM_OUTGOING = 56  # account u64 + number u64 → user + Outgoing, sealed under the user's key
    IM_TASKS = 57  # kind + …: what is to be removed, and when
    MEDIA = 60  # ref → holders u32 + StoredMedia (im_media.py)
    MEDIA_FILES = 61  # SHA-256 → media of this file u32, bytes u64
    MEDIA_HOLDERS = 62  # user + ref → last use in Unix seconds u32, bytes u64
    MEDIA_ORDER = 63  # "a" + last use u32 + user + ref, "u" + user + last use u32 + ref → nothing: what goes first
    MEDIA_BYTES = 64  # user → bytes u64
    UPLOADS = 65  # id → StoredUpload


DUPSORT = frozenset({Db.ALIASES, Db.TAGS, Db.DEVICES})
#: since schemas 2, 3, 4 and 5
NEWER = frozenset(db for db in Db if db >= Db.SETTLED)

PUT, DELETE, DELETE_DUP = 0, 1, 2
#: (operation, database, key, value); value is empty for DELETE
Row = tuple[int, int, bytes, bytes]

U32 = struct.Struct(">I")
U64 = struct.Struct(">Q")
U64_PAIR = struct.Struct(">QQ")

_encode = msgspec.msgpack.Encoder().encode
_decode_notification = msgspec.msgpack.Decoder(Notification).decode
_decode_content = msgspec.msgpack.Decoder(Content).decode
_decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
_decode_steps = msgspec.msgpack.Decoder(tuple[int, list[Step]]).decode
_decode_app = msgspec.msgpack.Decoder(App).decode
_decode_registration = msgspec.msgpack.Decoder(Registration).decode
_decode_figures = msgspec.msgpack.Decoder(dict[str, int]).decode

pack_u32 = U32.pack
pack_u64 = U64.pack


def unpack_u32(raw: bytes) -> int:
    return int.from_bytes(raw[:4], "big")


def unpack_u64(raw: bytes) -> int:
    return int.from_bytes(raw[:8], "big")


# --- apps and registrations ---------------------------------------------------------------------------------

_REGISTRATION = struct.Struct(">16sIBB")  # token, app number, flags, length of the cohort that follows
#: flags of a registration; rows of older versions have only the first
_SIGNED_OUT, _PLAIN, _QUIET = 1, 2, 4


def build_app(app: App) -> bytes:
    return _encode(app)


def parse_app(raw: bytes) -> App:
    return _decode_app(raw)


def build_registration(registration: Registration, app_number: int) -> bytes:
    cohort = build_cohort(registration.cohort).encode()
    flags = _SIGNED_OUT * registration.signed_out | _PLAIN * (registration.fallback is None)
    flags |= _QUIET * bool(registration.quiet)
    head = _REGISTRATION.pack(registration.token, app_number, flags, len(cohort))
    return head + cohort + bytes(_encode(registration))


def parse_registration(raw: bytes) -> Registration:
    return _decode_registration(raw[_REGISTRATION.size + raw[_REGISTRATION.size - 1] :])


#: LMDB takes keys up to 511 bytes; longer names are kept by their digest, marked by a byte that UTF-8 never has
_PLAIN_NAME_BYTES = 256


def name_key(app_number: int, name: str) -> bytes:
    """Key of an alias or tag."""
    raw = name.encode()
    if len(raw) > _PLAIN_NAME_BYTES:
        raw = b"\xff" + hashlib.blake2b(raw, digest_size=32).digest()
    return pack_u32(app_number) + raw


# --- revoked tokens -----------------------------------------------------------------------------------------

_DEAD = struct.Struct(">IQB")  # app number, Unix ms, reason


def dead_key(token: bytes) -> bytes:
    return b"t" + token


def dead_order_key(at_s: int, token: bytes) -> bytes:
    return b"o" + pack_u32(at_s) + token


def parse_dead_order_key(key: bytes) -> tuple[int, bytes] | None:
    """(Unix seconds, token); None past the last row of the order."""
    return (unpack_u32(key[1:5]), key[5:]) if key[:1] == b"o" else None


def build_dead(app_number: int, at_ms: int, reason: int) -> bytes:
    return _DEAD.pack(app_number, at_ms, reason)


def parse_dead(raw: bytes) -> tuple[int, int, int]:
    """(app number, Unix ms, reason)"""
    return _DEAD.unpack(raw)


# --- journal and broadcasts ---------------------------------------------------------------------------------

NOTIFICATION, DELIVERY, BATCH = 1, 2, 3  # a batch's row has a layout of its own: batch_rows.py
_HEAD = struct.Struct(">BIIIII")  # kind, registration, expires_s, collapse hash, count, bytes of metadata
_DELIVERY = struct.Struct(">BII")  # kind, registration, distance to the notification's seq
_NO_CONTENT = Content()


class Grown(msgspec.Struct, omit_defaults=True):
    """What is wanted of a single delivery that grew out of a broadcast; fields of a Notification."""

    accepted_ms: int
    broadcast: int = 0
    push: int = 0


#: the name of its field, as it stands in the metadata of one that did, and of nearly nothing else
_BROADCAST = _encode("broadcast")
_decode_grown = msgspec.msgpack.Decoder(Grown).decode


def collapse_hash(key: str) -> int:
    """32 bits, 0 only for no key; equal keys have equal hashes, so a look-up by it must compare the key itself."""
    return zlib.crc32(key.encode()) or 1 if key else 0


def build_metadata(notification: Notification) -> bytes:
    """The notification without its content: what stays for look-up when it is settled."""
    content = notification.content
    notification.content = _NO_CONTENT
    try:
        return _encode(notification)
    finally:
        notification.content = content


def build_notification(notification: Notification, registration: int = 0) -> bytes:
    """Row of a notification; `registration` where it is its own single delivery."""
    metadata = build_metadata(notification)
    head = _HEAD.pack(
        NOTIFICATION,
        registration,
        notification.expires_s,
        collapse_hash(notification.collapse_key),
        notification.count,
        len(metadata),
    )
    return head + metadata + bytes(_encode(notification.content))


def parse_notification(raw: bytes) -> Notification:
    size = unpack_u32(raw[_HEAD.size - 4 : _HEAD.size])
    notification = _decode_notification(raw[_HEAD.size : _HEAD.size + size])
    notification.content = _decode_content(raw[_HEAD.size + size :])
    return notification


def parse_metadata(raw: bytes) -> Notification:
    return _decode_notification(raw)


def parse_grown(metadata: bytes) -> Grown | None:
    """None where it grew out of no broadcast, as nearly all: that takes no decoding."""
    grown = _decode_grown(metadata) if _BROADCAST in metadata else None
    return grown if grown is not None and grown.broadcast else None


def metadata_of(raw: bytes) -> bytes:
    """The metadata part of a notification's row, still packed."""
    size = unpack_u32(raw[_HEAD.size - 4 : _HEAD.size])
    return raw[_HEAD.size : _HEAD.size + size]


def build_delivery(registration: int, distance: int) -> bytes:
    return _DELIVERY.pack(DELIVERY, registration, distance)


class JournalHead(NamedTuple):
    registration: int
    expires_s: int
    collapse: int
    targets: int


def parse_journal_head(raw: bytes) -> JournalHead:
    _, registration, expires_s, collapse, count, _ = _HEAD.unpack_from(raw)
    return JournalHead(registration, expires_s, collapse, count)


def parse_delivery(raw: bytes) -> tuple[int, int]:
    """(registration, distance to its notification)"""
    _, registration, distance = _DELIVERY.unpack_from(raw)
    return registration, distance


# --- broadcast cursors --------------------------------------------------------------------------------------

CURSORS_SHIFT = 6
CURSORS_A_PAGE = 1 << CURSORS_SHIFT
CURSOR_PAGE = struct.Struct(f">{CURSORS_A_PAGE}Q")


def build_seqs(seqs: list[int]) -> bytes:
    return struct.pack(f">{len(seqs)}Q", *seqs)


def parse_seqs(raw: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(raw) // 8}Q", raw)


# --- history ------------------------------------------------------------------------------------------------


def build_steps(hop: int, steps: list[Step]) -> bytes:
    return _encode((hop, steps))


def parse_steps(raw: bytes) -> tuple[int, list[Step]]:
    return _decode_steps(raw)


def build_outcome(outcome: Outcome, metadata: bytes = b"") -> bytes:
    """`metadata` of the notification where this is its only delivery."""
    return pack_u32(len(metadata)) + metadata + bytes(_encode(outcome))


def parse_outcome(raw: bytes) -> Outcome:
    return _decode_outcome(raw[4 + unpack_u32(raw) :])


def metadata_of_outcome(raw: bytes) -> bytes:
    return raw[4 : 4 + unpack_u32(raw)]


_PUSH = struct.Struct(">IB")  # Unix seconds of its end, state (a broadcast's) or NO_STATE
NO_STATE = 255


class PushEnd(NamedTuple):
    """What stays of a settled multi-target push or an ended broadcast."""

    at_s: int
    state: int  # NO_STATE for a multi-target push
    metadata: bytes


def build_push(end: PushEnd) -> bytes:
    return _PUSH.pack(end.at_s, end.state) + end.metadata


def parse_push(raw: bytes) -> PushEnd:
    at_s, state = _PUSH.unpack_from(raw)
    return PushEnd(at_s, state, bytes(raw[_PUSH.size :]))


def build_figures(figures: dict[str, int]) -> bytes:
    return _encode(figures)


def parse_figures(raw: bytes) -> dict[str, int]:
    return _decode_figures(raw)


def receipts_key(app_number: int, cursor: int) -> bytes:
    return pack_u32(app_number) + pack_u64(cursor)


def build_receipts(at_s: int, seqs: list[int]) -> bytes:
    return pack_u32(at_s) + build_seqs(seqs)


def parse_receipts(raw: bytes) -> tuple[int, tuple[int, ...]]:
    """(Unix seconds, delivery seqs in cursor order)"""
    return unpack_u32(raw), parse_seqs(raw[4:])


# --- idempotency --------------------------------------------------------------------------------------------

_IDEMPOTENCY = struct.Struct(">QI")


def idempotency_key(app_number: int, key: str) -> bytes:
    return pack_u32(app_number) + hashlib.sha256(key.encode()).digest()


def build_idempotency(seq: int, expires_s: int, body_hash: bytes) -> bytes:
    return _IDEMPOTENCY.pack(seq, expires_s) + body_hash


def parse_idempotency(raw: bytes) -> tuple[int, int, bytes]:
    """(seq, expires_s, body hash)"""
    seq, expires_s = _IDEMPOTENCY.unpack_from(raw)
    return seq, expires_s, bytes(raw[_IDEMPOTENCY.size :])
