"""Rows of subscribers: keyed hashes as keys, AES-256-GCM as values; must never put a network id on the disk in the
clear, nor in a form that can be tried out (10¹⁰ numbers are soon hashed, but not without the key).

Every use has a key of its own, derived from the server's. A row's database and key are its associated data, so that no
row can be put in another's place.
"""

from __future__ import annotations

import hmac
import secrets
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.model.errors import ConfigError
from gateway.model.subscriber import NetworkId, SubscriberRecord
from gateway.model.subscriber_records import News
from gateway.store.records import Db, pack_u32, pack_u64, unpack_u32

HANDLE_BYTES = 16
_HASH_BYTES = 16
_NONCE_BYTES = 12
#: a record's size says nothing of how many ids are in it, within these steps
_PAD_BYTES = 512
#: kinds of ends: of an opaque id itself, and of what it stood for
ID_END, HISTORY_END = b"i", b"h"


class HistoryLine(NamedTuple):
    """`network` empty: the end of the id."""

    network: tuple[tuple[int, str], ...]
    at_ms: int
    until_ms: int  # planned; 0 = permanent
    why: str


_encode = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(SubscriberRecord).decode
_decode_news = msgspec.msgpack.Decoder(News).decode
_decode_line = msgspec.msgpack.Decoder(HistoryLine).decode


class SubscriberRows:
    """`key`: a server key of at least 16 bytes."""

    def __init__(self, key: bytes) -> None:
        def derive(use: bytes) -> bytes:
            return hmac.digest(key, b"heliograph subscribers: " + use, "sha256")

        self._network_key = derive(b"look-up by network id")
        self._opaque_key = derive(b"look-up by opaque id")
        self._ciphers = {
            Db.SUBSCRIBERS: AESGCM(derive(b"records")),
            Db.NETWORK_IDS: AESGCM(derive(b"network ids")),
            Db.OPAQUE_IDS: AESGCM(derive(b"opaque ids")),
            Db.OPAQUE_HISTORY: AESGCM(derive(b"history")),
            Db.OPAQUE_NEWS: AESGCM(derive(b"news")),
        }

    # --- keys -----------------------------------------------------------------------------------------------

    def network_key(self, network_id: NetworkId) -> bytes:
        return hmac.digest(self._network_key, bytes([network_id.kind]) + network_id.value.encode(), "sha256")[
            :_HASH_BYTES
        ]

    def opaque_key(self, local: str) -> bytes:
        return hmac.digest(self._opaque_key, local.encode(), "sha256")[:_HASH_BYTES]

    # --- values ---------------------------------------------------------------------------------------------

    def _seal(self, db: Db, key: bytes, plain: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._ciphers[db].encrypt(nonce, plain, bytes([db]) + key)

    def _open(self, db: Db, key: bytes, raw: bytes) -> bytes:
        try:
            return self._ciphers[db].decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], bytes([db]) + key)
        except (InvalidTag, ValueError):
            raise ConfigError(
                "the record of a subscriber can not be opened: keys.json belongs to another store, or the store is"
                " damaged; put the right one back, or restore a backup",
                field="store.path",
            ) from None

    def seal_handle(self, db: Db, key: bytes, handle: bytes) -> bytes:
        return self._seal(db, key, handle)

    def open_handle(self, db: Db, key: bytes, raw: bytes) -> bytes:
        return self._open(db, key, raw)

    def seal_record(self, handle: bytes, record: SubscriberRecord) -> bytes:
        plain = _encode(record)
        plain = pack_u32(len(plain)) + plain
        return self._seal(Db.SUBSCRIBERS, handle, plain + bytes(-len(plain) % _PAD_BYTES))

    def open_record(self, handle: bytes, raw: bytes) -> SubscriberRecord:
        plain = self._open(Db.SUBSCRIBERS, handle, raw)
        return _decode_record(plain[4 : 4 + unpack_u32(plain)])

    def seal_news(self, key: bytes, news: News) -> bytes:
        return self._seal(Db.OPAQUE_NEWS, key, _encode(news))

    def open_news(self, key: bytes, raw: bytes) -> News:
        return _decode_news(self._open(Db.OPAQUE_NEWS, key, raw))

    def seal_line(self, key: bytes, line: HistoryLine) -> bytes:
        return self._seal(Db.OPAQUE_HISTORY, key, _encode(line))

    def open_line(self, key: bytes, raw: bytes) -> HistoryLine:
        return _decode_line(self._open(Db.OPAQUE_HISTORY, key, raw))


def history_key(opaque_key: bytes, at_us: int) -> bytes:
    return opaque_key + pack_u64(at_us)


def end_key(kind: bytes, at_s: int, opaque_key: bytes) -> bytes:
    return kind + pack_u32(at_s) + opaque_key


def parse_end_key(key: bytes) -> tuple[bytes, int, bytes]:
    """(kind, Unix seconds, keyed hash of the opaque id)"""
    return key[:1], unpack_u32(key[1:5]), key[5:]
