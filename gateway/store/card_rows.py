"""Rows of cards and of what is brought to them: keyed hashes as keys, AES-256-GCM as values; must never put an ICCID, a
number, a key or a payload on the disk in the clear, nor in a form that can be tried out.

Every use has a key of its own, derived from the server's. A row's database and key are its associated data, so that no
row can be put in another's place (as subscriber_rows.py).
"""

from __future__ import annotations

import hmac
import os
import struct
from hashlib import blake2b

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.model.cards import HANDLE_BYTES, Campaign, Capability, CardRecord, Download, DownloadState, Payload
from gateway.model.errors import ConfigError
from gateway.store.records import Db, pack_u32, unpack_u32

_NONCE_BYTES = 12
_DIGEST_BYTES = 32
#: a record's size says nothing of what is in it, within these steps
_PAD_BYTES = 128
#: kinds of numbers that lead to a card
MSISDN, IMSI = b"m", b"i"
#: state, campaign: what is asked of many rows at once stands before the msgpack part
_DOWNLOAD = struct.Struct(">BQ")

_encode = msgspec.msgpack.Encoder().encode
_decode_card = msgspec.msgpack.Decoder(CardRecord).decode
_decode_capability = msgspec.msgpack.Decoder(Capability).decode
_decode_payload = msgspec.msgpack.Decoder(Payload).decode
_decode_download = msgspec.msgpack.Decoder(Download).decode
_decode_campaign = msgspec.msgpack.Decoder(Campaign).decode


class CardRows:
    """`key`: a server key of at least 16 bytes."""

    def __init__(self, key: bytes) -> None:
        def derive(use: bytes) -> bytes:
            return hmac.digest(key, b"heliograph cards: " + use, "sha256")

        self._handle_key = derive(b"handles")
        self._number_key = derive(b"look-up by number")
        self._digest_key = derive(b"digests of payloads")
        self._ciphers = {
            Db.CARDS: AESGCM(derive(b"records")),
            Db.CARD_NUMBERS: AESGCM(derive(b"numbers")),
            Db.CARD_CAPABILITY: AESGCM(derive(b"capability")),
            Db.PAYLOADS: AESGCM(derive(b"payloads")),
        }

    # --- keys -----------------------------------------------------------------------------------------------

    def handle(self, iccid: str) -> bytes:
        return blake2b(iccid.encode(), digest_size=HANDLE_BYTES, key=self._handle_key).digest()

    def number_key(self, kind: bytes, number: str) -> bytes:
        name = kind + number.removeprefix("+").encode()
        return blake2b(name, digest_size=HANDLE_BYTES, key=self._number_key).digest()

    # --- values ---------------------------------------------------------------------------------------------

    def _seal(self, db: Db, key: bytes, plain: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._ciphers[db].encrypt(nonce, plain, bytes((db,)) + key)

    def _open(self, db: Db, key: bytes, raw: bytes) -> bytes:
        try:
            return self._ciphers[db].decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], bytes((db,)) + key)
        except (InvalidTag, ValueError):
            raise ConfigError(
                "the record of a card can not be opened: keys.json belongs to another store, or the store is damaged;"
                " put the right one back, or restore a backup",
                field="store.path",
            ) from None

    def seal_card(self, handle: bytes, record: CardRecord) -> bytes:
        return self._seal(Db.CARDS, handle, _pad(_encode(record)))

    def open_card(self, handle: bytes, raw: bytes) -> CardRecord:
        return _decode_card(_unpad(self._open(Db.CARDS, handle, raw)))

    def seal_handle(self, key: bytes, handle: bytes) -> bytes:
        return self._seal(Db.CARD_NUMBERS, key, handle)

    def open_handle(self, key: bytes, raw: bytes) -> bytes:
        return self._open(Db.CARD_NUMBERS, key, raw)

    def seal_capability(self, handle: bytes, capability: Capability) -> bytes:
        return self._seal(Db.CARD_CAPABILITY, handle, _pad(_encode(capability)))

    def open_capability(self, handle: bytes, raw: bytes) -> Capability:
        return _decode_capability(_unpad(self._open(Db.CARD_CAPABILITY, handle, raw)))

    def pack_payload(self, payload: Payload) -> tuple[bytes, bytes]:
        """(digest, plain): equal payloads have equal digests, and who guesses one can not prove it without the key."""
        plain = _encode(payload)
        return blake2b(plain, digest_size=_DIGEST_BYTES, key=self._digest_key).digest(), plain

    def seal_payload(self, digest: bytes, plain: bytes) -> bytes:
        return self._seal(Db.PAYLOADS, digest, plain)

    def open_payload(self, digest: bytes, raw: bytes) -> Payload:
        return _decode_payload(self._open(Db.PAYLOADS, digest, raw))


def _pad(plain: bytes) -> bytes:
    plain = pack_u32(len(plain)) + plain
    return plain + bytes(-len(plain) % _PAD_BYTES)


def _unpad(plain: bytes) -> bytes:
    return plain[4 : 4 + unpack_u32(plain)]


def counter_key(handle: bytes, key_set: int) -> bytes:
    return handle + bytes((key_set,))


def build_download(download: Download) -> bytes:
    return _DOWNLOAD.pack(download.state, download.campaign) + bytes(_encode(download))


def parse_download(raw: bytes) -> Download:
    return _decode_download(raw[_DOWNLOAD.size :])


def parse_download_head(raw: bytes) -> tuple[DownloadState, int]:
    """(state, campaign)"""
    state, campaign = _DOWNLOAD.unpack_from(raw)
    return DownloadState(state), campaign


def build_campaign(campaign: Campaign) -> bytes:
    return bytes(_encode(campaign))


def parse_campaign(raw: bytes) -> Campaign:
    return _decode_campaign(raw)
