"""Rows of IM: what is sealed opens with its own key, in its own place, and else says so; look-ups read few rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from im_rig import message, outgoing, put_account, put_users, user, user_id
from store_rig import START_MS, open_store

from gateway.model.errors import ConfigError
from gateway.model.im import Conversation, ConversationKind, Envelope, Person
from gateway.model.im_people import Friend, FriendState, Item, ItemKind
from gateway.store import Store
from gateway.store.environment import Environment
from gateway.store.im_rows import ImRows, LineHead, build_line, log_key, parse_line, parse_line_head, task_key, unseal

A, B = user_id(1), user_id(2)
ROWS, OTHER = ImRows(b"k" * 32), ImRows(b"o" * 32)
CIPHER = AESGCM(bytes(32))
texts = st.text(max_size=30)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_and_told_as_what_they_are(raw: bytes) -> None:
    for open_it in (
        lambda: ROWS.open_user(A, raw),
        lambda: ROWS.open_session(A, raw),
        lambda: ROWS.open_friend(A + B, raw),
        lambda: ROWS.open_group(A, raw),
        lambda: unseal(CIPHER, raw, b""),
        lambda: parse_line(CIPHER, log_key(A, 1), raw),
    ):
        with pytest.raises(ConfigError):
            open_it()


@given(texts, texts, texts, st.integers(0, 9), st.integers(1, 1 << 40), st.binary(max_size=16, min_size=16))
def test_a_line_comes_back_and_only_in_its_place(
    room: str, remote_id: str, text: str, part: int, cursor: int, seen: bytes
) -> None:
    conversation = Conversation(ConversationKind.ROOM, room)
    envelope = Envelope("xmpp", conversation, Person("x"), remote_id, part=part, text=text)
    item = Item(ItemKind.MESSAGE, START_MS, cursor, envelope=envelope)
    key, head = log_key(A, cursor), LineHead(START_MS // 1_000, seen if any(seen) else b"")
    raw = build_line(CIPHER, key, head, item)
    assert parse_line(CIPHER, key, raw) == item
    assert parse_line_head(raw) == head
    for other_key, other in ((log_key(B, cursor), raw), (log_key(A, cursor + 1), raw), (key, b"\xff" + raw[1:])):
        with pytest.raises(ConfigError):
            parse_line(CIPHER, other_key, other)


@given(st.tuples(texts, texts, st.integers(0, 9)), st.tuples(texts, texts, st.integers(0, 9)))
def test_what_came_already_is_known_by_conversation_id_and_part(
    one: tuple[str, str, int], other: tuple[str, str, int]
) -> None:
    def key(of: tuple[str, str, int], account: int = 1, rows: ImRows = ROWS, whose: bytes = A) -> bytes | None:
        conversation = Conversation(ConversationKind.DM, of[0])
        envelope = Envelope("irc", conversation, Person("x"), of[1], part=of[2])
        return rows.seen_key(whose, Item(ItemKind.MESSAGE, 1, envelope=envelope), account)

    assert (key(one) is None) == (not one[1])
    if one[1]:
        assert (key(one) == key(other)) == (one == other)
        assert len({key(one), key(one, account=2), key(one, rows=OTHER), key(one, whose=B)}) == 4


def test_what_is_sealed_with_another_servers_key_does_not_open() -> None:
    raw = ROWS.seal_user(user(1))
    assert ROWS.open_user(A, raw) == user(1)
    assert raw != ROWS.seal_user(user(1))
    with pytest.raises(ConfigError, match=r"keys\.json"):
        OTHER.open_user(A, raw)
    with pytest.raises(ConfigError):
        ROWS.open_user(B, raw)
    assert ROWS.address_key("+49171") != OTHER.address_key("+49171")
    assert ROWS.address_key("x") != ROWS.mailbox_key("x")


def test_tasks_are_in_the_order_of_their_time() -> None:
    times = [0, 1, 255, 256, 1 << 31, (1 << 32) - 1, 1 << 40]
    keys = [task_key(b"l", at_s, A) for at_s in times]
    assert keys == sorted(keys)


class Reads:
    """Counts what is read from LMDB."""

    def __init__(self, environment: Environment) -> None:
        self.count = 0
        for name in ("get", "scan"):
            setattr(environment, name, self._counting(getattr(environment, name)))

    def _counting(self, read: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return read(*args, **kwargs)

        return counting

    def of(self, call: Callable[[], Any]) -> int:
        before = self.count
        call()
        return self.count - before


async def test_look_ups_read_few_rows_and_users_who_sit_there_are_not_in_ram(tmp_path: Path) -> None:
    store: Store = await open_store(tmp_path)
    await put_users(store, *range(1, 301))
    account = await put_account(store, A)
    await store.im_users.put_session(b"k", A, START_MS + 1_000)
    await store.im_users.sign_in(b"t" * 16, A)
    await store.im_users.put_friends([Friend(A, user_id(n), FriendState.FRIENDS, START_MS) for n in range(2, 300)])
    await store.im_log.append(A, [message(n) for n in range(300)]).done
    await store.im_log.put_outgoing([outgoing(store, account) for _ in range(50)])
    await store.close()
    store = await open_store(tmp_path)
    assert (len(store._im._unwritten), len(store._im._user_keys._ready)) == (0, 0)
    reads = Reads(store._environment)
    for most, call in (
        (2, lambda: store.im_users.session(b"k")),
        (2, lambda: store.im_users.signed_in(b"t" * 16)),
        (1, lambda: store.im_users.user(A)),
        (1, lambda: store.im_users.find_user(user(1).addresses[0])),
        (3, lambda: store.im_users.friend(A, B)),
        (2, lambda: store.im_users.friends(A)),
        (2, lambda: store.im_users.devices(A)),
        (2, lambda: store.im_accounts.account(account.number)),
        (3, lambda: store.im_accounts.cursor(account.number)),
        (2, lambda: store.im_log.after(A, 100, 100)),
        (2, lambda: store.im_log.last(A)),
        (3, lambda: store.im_log.outgoing(account.number)),
    ):
        assert reads.of(call) <= most
    assert len(store._im._user_keys._ready) <= 1
    await store.close()
