"""Bound accounts and where their networks go on; must never show what a person typed into a form, but for `unseal`.

Everything of an account is sealed under its user's key. Numbers are the gateway's sequence numbers: never given twice.
"""

from __future__ import annotations

import asyncio

import msgspec

from gateway.model.errors import ConfigError, NotFound
from gateway.model.im_people import Account
from gateway.model.im_ports import AddressTaken
from gateway.store.environment import Environment
from gateway.store.im_keys import UserCipher, UserKeys
from gateway.store.im_rows import (
    ACCOUNT,
    GONE_ACCOUNT,
    build_account,
    owned_key,
    owner_of,
    parse_account,
    parse_cursor,
    parse_number,
    parse_owned_key,
    seal,
    unseal,
)
from gateway.store.im_unwritten import Unwritten, Values
from gateway.store.records import Db, pack_u32, pack_u64, unpack_u32
from gateway.store.sequences import Sequences

#: messages of an account that is removed which go at once; the rest go with the sweep
REMOVED_AT_ONCE = 1_000
_MAX_NUMBER = 1 << 63

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, str]).decode


class AccountStore:
    """Control thread only; model.im_ports.AccountRecords."""

    def __init__(self, environment: Environment, unwritten: Unwritten, keys: UserKeys, sequences: Sequences) -> None:
        self._environment = environment
        self._unwritten = unwritten
        self._keys = keys
        self._sequences = sequences

    def reserve(self) -> int:
        return self._sequences.reserve(1)

    # --- credentials ----------------------------------------------------------------------------------------

    def seal(self, user: bytes, number: int, network: str, values: dict[str, str]) -> bytes:
        cipher = self._keys.cipher(user)
        if cipher is None:
            raise NotFound("no such user")
        about = _about(user, number, network, cipher.version)
        return pack_u32(cipher.version) + seal(cipher.aead, _encode(values), about)

    def unseal(self, account: Account) -> dict[str, str]:
        cipher = self._keys.cipher(account.user)
        if cipher is None:
            raise NotFound("no such user")
        if len(account.sealed) < 4 or unpack_u32(account.sealed) != cipher.version:
            raise ConfigError("the credentials of an account were sealed with another key", field="store.path")
        about = _about(account.user, account.number, account.network, cipher.version)
        return _decode(unseal(cipher.aead, account.sealed[4:], about))

    # --- accounts -------------------------------------------------------------------------------------------

    def put_account(self, account: Account) -> asyncio.Future[None]:
        cipher = self._keys.cipher(account.user)
        if cipher is None:
            raise NotFound("no such user")
        before = self.account(account.number)
        if before is not None and before.user != account.user:
            raise ValueError("an account stays its user's")
        if before is None or before.name != account.name:
            others = self.accounts(account.user)
            if any(other.name == account.name and other.number != account.number for other in others):
                raise AddressTaken("the user has another account with this name")
        values: Values = {(Db.IM_ACCOUNTS, pack_u64(account.number)): build_account(cipher.aead, account)}
        if before is None:
            values[Db.IM_OWNED, owned_key(account.user, ACCOUNT, pack_u64(account.number))] = b""
        return self._unwritten.write(values)

    def account(self, number: int) -> Account | None:
        found = self._row(number)
        return None if found is None else parse_account(found[1].aead, number, found[0])

    def _row(self, number: int) -> tuple[bytes, UserCipher] | None:
        raw = self._unwritten.get(Db.IM_ACCOUNTS, pack_u64(number)) if 0 < number < _MAX_NUMBER else None
        cipher = None if raw is None else self._keys.cipher(owner_of(raw))
        return None if raw is None or cipher is None else (raw, cipher)

    def owner(self, number: int) -> bytes | None:
        """Its user, without opening it."""
        found = self._row(number)
        return None if found is None else owner_of(found[0])

    def accounts(self, user: bytes) -> list[Account]:
        rows = self._unwritten.range(Db.IM_OWNED, owned_key(user, ACCOUNT))
        found = (self.account(parse_number(parse_owned_key(key)[1])) for key, _ in rows)
        return [account for account in found if account is not None]

    def remove_account(self, number: int) -> asyncio.Future[None]:
        values: Values = {}
        raw = self._unwritten.get(Db.IM_ACCOUNTS, pack_u64(number)) if 0 < number < _MAX_NUMBER else None
        if raw is not None:
            self.removal(owner_of(raw), number, values, REMOVED_AT_ONCE)
        return self._unwritten.write(values)

    def removal(self, user: bytes, number: int, values: Values, limit: int) -> None:
        """What removes an account, with so many of its messages; a task removes the others."""
        key = pack_u64(number)
        values[Db.IM_ACCOUNTS, key] = None
        values[Db.IM_OWNED, owned_key(user, ACCOUNT, key)] = None
        values[Db.IM_CURSORS, key] = None
        values[Db.IM_QUEUES, key] = None
        rows = self._unwritten.range(Db.IM_OUTGOING, key, limit=limit + 1)
        for outgoing, _ in rows[:limit]:
            values[Db.IM_OUTGOING, outgoing] = None
        if len(rows) > limit:
            values[Db.IM_TASKS, GONE_ACCOUNT + key] = b""

    def cursor(self, account: int) -> bytes | None:
        found = self._row(account)
        raw = None if found is None else self._unwritten.get(Db.IM_CURSORS, pack_u64(account))
        return None if found is None or raw is None else parse_cursor(found[1].aead, account, raw)

    def count(self) -> int:
        """Those that are durable."""
        return self._environment.entries(Db.IM_ACCOUNTS)


def _about(user: bytes, number: int, network: str, version: int) -> bytes:
    """Associated data of credentials: user | account | network | version of the user's key."""
    return user + pack_u64(number) + pack_u32(len(network.encode())) + network.encode() + pack_u32(version)
