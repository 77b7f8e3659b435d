"""Rows of IM: users, who is signed in, friends, groups, accounts, logs and what waits to be sent; must never put an
address, a name, a text or a conversation on the disk in the clear, nor in a form that can be tried out.

Look-ups go by keyed hashes. What belongs to one user alone is sealed under the user's own key (im_keys.py), so that it
is gone when that is; what others may have to read too (who it is, friends, groups) is sealed under keys derived from
the server's, one for each database. A row's database and key are its associated data.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.model.errors import ConfigError
from gateway.model.im_people import USER_BYTES, Account, Friend, Group, Item, ItemKind, Outgoing, User
from gateway.store.records import U32, U64, Db, pack_u32, pack_u64, unpack_u64

_HASH_BYTES = 16
_NONCE_BYTES = 12
#: kinds of what a user has, behind the user in OWNED
SESSION, DEVICE, GROUP, ACCOUNT = b"s", b"d", b"g", b"a"
#: somebody who has a Friend row about the user
ADMIRER = b"f"
#: kinds of TASKS. Ends of: a part of a log, a dedupe hash whose line has gone before it, a session
OLD_LINES, OLD_SESSION = b"l", b"s"
#: a log is too long; an account's queue and a user are gone, and what was theirs is still to be removed
LONG_LOG, GONE_ACCOUNT, GONE_USER = b"t", b"a", b"u"

_SESSION = struct.Struct(f">Q{USER_BYTES}s")
_HEAD = struct.Struct(">QQIQ")
_LINE = struct.Struct(f">I{_HASH_BYTES}s")
_NO_HASH = bytes(_HASH_BYTES)

_encode = msgspec.msgpack.Encoder().encode
_decode_user = msgspec.msgpack.Decoder(User).decode
_decode_friend = msgspec.msgpack.Decoder(Friend).decode
_decode_group = msgspec.msgpack.Decoder(Group).decode
_decode_account = msgspec.msgpack.Decoder(Account).decode
_decode_item = msgspec.msgpack.Decoder(Item).decode
_decode_outgoing = msgspec.msgpack.Decoder(Outgoing).decode


def seal(cipher: AESGCM, plain: bytes, about: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, plain, about)


def unseal(cipher: AESGCM, raw: bytes, about: bytes) -> bytes:
    """ConfigError where it was sealed with another key, or is another row's."""
    try:
        return cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], about)
    except (InvalidTag, ValueError):
        raise ConfigError(
            "a record of IM can not be opened: keys.json belongs to another store, or the store is damaged; put the"
            " right one back, or restore a backup",
            field="store.path",
        ) from None


class ImRows:
    """What is sealed and hashed with the server's keys. `key`: of at least 16 bytes."""

    def __init__(self, key: bytes) -> None:
        def derive(use: str) -> bytes:
            return hmac.digest(key, b"heliograph im: " + use.encode(), "sha256")

        self._hash_key = derive("look-up")
        sealed = (Db.IM_USERS, Db.IM_ADDRESSES, Db.IM_SESSIONS, Db.IM_DEVICES, Db.IM_FRIENDS, Db.IM_GROUPS)
        self._ciphers = {db: AESGCM(derive(db.name.lower())) for db in (*sealed, Db.IM_OWNED)}

    # --- keys -----------------------------------------------------------------------------------------------

    def _hash(self, use: bytes, *parts: bytes) -> bytes:
        text = use + b"".join(pack_u32(len(part)) + part for part in parts)
        return hmac.digest(self._hash_key, text, "sha256")[:_HASH_BYTES]

    def address_key(self, address: str) -> bytes:
        return self._hash(b"address", address.encode("utf-8", "surrogatepass"))

    def mailbox_key(self, local_part: str) -> bytes:
        return self._hash(b"mailbox", local_part.encode("utf-8", "surrogatepass"))

    def session_key(self, key_hash: bytes) -> bytes:
        return self._hash(b"session", key_hash)

    def friend_key(self, user: bytes, other: bytes) -> bytes:
        return user + self._hash(b"friend", user, other)

    def admirer_key(self, user: bytes, other: bytes) -> bytes:
        """At `other`: that `user` has a Friend row about them."""
        return owned_key(other, ADMIRER, self._hash(b"admirer", other, user))

    def membership_key(self, user: bytes, group: bytes) -> bytes:
        return owned_key(user, GROUP, self._hash(b"group", user, group))

    def seen_key(self, user: bytes, item: Item, account: int) -> bytes | None:
        """Of what may be in a log only once; None: as often as it is said."""
        envelope = item.envelope
        if item.kind is ItemKind.MESSAGE and envelope is not None and envelope.remote_id:
            conversation, remote_id, part = envelope.key
            texts = (conversation.encode("utf-8", "surrogatepass"), remote_id.encode("utf-8", "surrogatepass"))
            return user + self._hash(b"seen", pack_u64(account), *texts, part.to_bytes(8, "big", signed=True))
        if item.kind is ItemKind.RESULT and item.outgoing:
            return self.result_key(user, item.outgoing)
        return None

    def result_key(self, user: bytes, outgoing: int) -> bytes:
        return user + self._hash(b"result", pack_u64(outgoing))

    # --- values ---------------------------------------------------------------------------------------------

    def _seal(self, db: Db, key: bytes, plain: bytes) -> bytes:
        return seal(self._ciphers[db], plain, bytes([db]) + key)

    def _open(self, db: Db, key: bytes, raw: bytes) -> bytes:
        return unseal(self._ciphers[db], raw, bytes([db]) + key)

    def seal_id(self, db: Db, key: bytes, which: bytes) -> bytes:
        """The user or the group that a row leads to."""
        return self._seal(db, key, which)

    def open_id(self, db: Db, key: bytes, raw: bytes) -> bytes:
        return self._open(db, key, raw)

    def seal_user(self, user: User) -> bytes:
        return self._seal(Db.IM_USERS, user.user, _encode(user))

    def open_user(self, user: bytes, raw: bytes) -> User:
        return _decode_user(self._open(Db.IM_USERS, user, raw))

    def seal_session(self, key: bytes, until_ms: int, user: bytes) -> bytes:
        return self._seal(Db.IM_SESSIONS, key, _SESSION.pack(until_ms, user))

    def open_session(self, key: bytes, raw: bytes) -> tuple[int, bytes]:
        """(Unix ms of its end, user)"""
        until_ms, user = _SESSION.unpack(self._open(Db.IM_SESSIONS, key, raw))
        return until_ms, user

    def seal_friend(self, key: bytes, friend: Friend) -> bytes:
        return self._seal(Db.IM_FRIENDS, key, _encode(friend))

    def open_friend(self, key: bytes, raw: bytes) -> Friend:
        return _decode_friend(self._open(Db.IM_FRIENDS, key, raw))

    def seal_group(self, group: Group) -> bytes:
        return self._seal(Db.IM_GROUPS, group.group, _encode(group))

    def open_group(self, group: bytes, raw: bytes) -> Group:
        return _decode_group(self._open(Db.IM_GROUPS, group, raw))


# --- what is sealed under a user's own key ------------------------------------------------------------------------


def owner_of(raw: bytes) -> bytes:
    """The user whose key opens an account or an outgoing."""
    return raw[:USER_BYTES]


def build_account(cipher: AESGCM, account: Account) -> bytes:
    about = bytes([Db.IM_ACCOUNTS]) + pack_u64(account.number) + account.user
    return account.user + seal(cipher, _encode(account), about)


def parse_account(cipher: AESGCM, number: int, raw: bytes) -> Account:
    about = bytes([Db.IM_ACCOUNTS]) + pack_u64(number) + owner_of(raw)
    return _decode_account(unseal(cipher, raw[USER_BYTES:], about))


def build_cursor(cipher: AESGCM, account: int, cursor: bytes) -> bytes:
    return seal(cipher, cursor, bytes([Db.IM_CURSORS]) + pack_u64(account))


def parse_cursor(cipher: AESGCM, account: int, raw: bytes) -> bytes:
    return unseal(cipher, raw, bytes([Db.IM_CURSORS]) + pack_u64(account))


def build_outgoing(cipher: AESGCM, outgoing: Outgoing) -> bytes:
    about = bytes([Db.IM_OUTGOING]) + outgoing_key(outgoing.account, outgoing.number) + outgoing.user
    return outgoing.user + seal(cipher, _encode(outgoing), about)


def parse_outgoing(cipher: AESGCM, key: bytes, raw: bytes) -> Outgoing:
    about = bytes([Db.IM_OUTGOING]) + key + owner_of(raw)
    return _decode_outgoing(unseal(cipher, raw[USER_BYTES:], about))


class LineHead(NamedTuple):
    """What the sweep needs of a line."""

    at_s: int
    #: dedupe hash; empty: none
    seen: bytes


def build_line(cipher: AESGCM, key: bytes, head: LineHead, item: Item) -> bytes:
    raw = _LINE.pack(head.at_s, head.seen or _NO_HASH)
    return raw + seal(cipher, _encode(item), bytes([Db.IM_LOG]) + key + raw)


def parse_line_head(raw: bytes) -> LineHead:
    at_s, seen = _LINE.unpack_from(raw)
    return LineHead(at_s, b"" if seen == _NO_HASH else seen)


def parse_line(cipher: AESGCM, key: bytes, raw: bytes) -> Item:
    about = bytes([Db.IM_LOG]) + key + raw[: _LINE.size]
    return _decode_item(unseal(cipher, raw[_LINE.size :], about))


# --- plain rows ---------------------------------------------------------------------------------------------------


def owned_key(user: bytes, kind: bytes, place: bytes = b"") -> bytes:
    return user + kind + place


def parse_owned_key(key: bytes) -> tuple[bytes, bytes]:
    """(kind, place)"""
    return key[USER_BYTES : USER_BYTES + 1], key[USER_BYTES + 1 :]


def log_key(user: bytes, cursor: int) -> bytes:
    return user + pack_u64(cursor)


def parse_log_key(key: bytes) -> tuple[bytes, int]:
    """(user, cursor)"""
    return key[:USER_BYTES], unpack_u64(key[USER_BYTES:])


def outgoing_key(account: int, number: int) -> bytes:
    return pack_u64(account) + pack_u64(number)


class LogHead(NamedTuple):
    """Of a user's whole log."""

    lines: int = 0
    #: the highest that was ever given and is durable
    last: int = 0
    #: when the newest part of the log begins that has a task of its own, Unix seconds
    part_s: int = 0
    #: of its lines, with their keys, bytes
    size: int = 0


def build_log_head(head: LogHead) -> bytes:
    return _HEAD.pack(*head)


def parse_log_head(raw: bytes) -> LogHead:
    return LogHead(*_HEAD.unpack(raw))


def task_key(kind: bytes, at_s: int, place: bytes) -> bytes:
    return kind + pack_u32(min(at_s, (1 << 32) - 1)) + place


def parse_task_key(key: bytes) -> tuple[int, bytes]:
    """(Unix seconds, place)"""
    return U32.unpack_from(key, 1)[0], key[1 + U32.size :]


def parse_count(raw: bytes | None) -> int:
    return 0 if raw is None else int(U32.unpack(raw)[0])


def parse_number(raw: bytes) -> int:
    return int(U64.unpack(raw)[0])
