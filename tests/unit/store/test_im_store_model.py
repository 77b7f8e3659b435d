"""IM in the store beside plain dicts: whatever is done in whatever order, also with failing commits and restarts, both
say the same.
"""

from __future__ import annotations

import asyncio
import copy
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from im_rig import message, outgoing, put_account, result, user, user_id
from msgspec.structs import replace
from store_rig import START_MS, Clock, Disk, disk_of, fail_commit, open_store

from gateway.config.im_section import Im
from gateway.model.errors import QueueFull
from gateway.model.im_people import Account, Friend, FriendState, Group, Item, Outgoing
from gateway.model.im_ports import AddressTaken
from gateway.store import Store
from gateway.store.im_rows import parse_count, parse_log_head
from gateway.store.records import Db

SETTINGS = Im(history_days=1, history_items=6, outgoing_per_account=3)
JUMP_MS = 43_200_000
#: jumps of the clock after which a line is too old; a part of a log may be a little older than a day
OLD = 3
PICK = st.integers(0, 1_000)


class Plain:
    """What should be there."""

    def __init__(self) -> None:
        self.users: dict[bytes, Any] = {}
        self.sessions: dict[bytes, tuple[bytes, int]] = {}
        self.devices: dict[bytes, bytes] = {}
        self.friends: dict[tuple[bytes, bytes], Friend] = {}
        self.groups: dict[bytes, Group] = {}
        self.accounts: dict[int, Any] = {}
        self.cursors: dict[int, bytes] = {}
        self.logs: dict[bytes, list[tuple[int, Item]]] = {}
        self.seen: dict[bytes, dict[tuple[Any, ...], int]] = {}
        self.waiting: dict[int, dict[int, Outgoing]] = {}

    def address(self, text: str) -> bytes | None:
        return next((which for which, each in self.users.items() if text in each.addresses), None)

    @staticmethod
    def key(item: Item) -> tuple[Any, ...]:
        return (item.account, *item.envelope.key) if item.envelope is not None else (item.outgoing,)

    def append(self, whose: bytes, items: list[Item], now_ms: int) -> int:
        """How many are new."""
        new = 0
        for item in items:
            key = self.key(item)
            if key not in self.seen.setdefault(whose, {}):
                self.seen[whose][key] = now_ms
                new += 1
        return new

    def sweep(self, now_ms: int) -> None:
        for whose, log in self.logs.items():
            young = [line for line in log if line[0] > now_ms - OLD * JUMP_MS]
            self.logs[whose] = young[-SETTINGS.history_items :]
        for whose, seen in self.seen.items():
            kept = {self.key(item) for _, item in self.logs.get(whose, [])}
            self.seen[whose] = {key: at for key, at in seen.items() if key in kept}

    def remove(self, whose: bytes) -> None:
        del self.users[whose]
        self.sessions = {key: value for key, value in self.sessions.items() if value[0] != whose}
        self.devices = {key: value for key, value in self.devices.items() if value != whose}
        self.friends = {key: value for key, value in self.friends.items() if whose not in key}
        for group in list(self.groups.values()):
            if whose in group.members:
                members = tuple(member for member in group.members if member != whose)
                owner = members[0] if members and group.owner == whose else group.owner
                self.groups[group.group] = replace(group, members=members, owner=owner)
                if not members:
                    del self.groups[group.group]
        for account in [each for each in self.accounts.values() if each.user == whose]:
            self.unbind(account.number)
        self.logs.pop(whose, None)
        self.seen.pop(whose, None)

    def unbind(self, number: int) -> None:
        del self.accounts[number]
        self.cursors.pop(number, None)
        self.waiting.pop(number, None)


class StoreBesidePlain(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.plain = Plain()
        self.next_user = 1
        self.fresh = 1_000
        #: highest cursor that was ever seen of each log
        self.given: dict[bytes, int] = {}

    @initialize()
    def start(self) -> None:
        self.store: Store = self.runner.run(open_store(self.folder, self.clock, sync=False))
        self.store.configure_im(SETTINGS)
        self.disk: Disk = disk_of(self.store)
        self.durable = copy.deepcopy(self.plain)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.runner.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def whose(self, pick: int) -> bytes:
        users = sorted(self.plain.users)
        return users[pick % len(users)]

    # --- what is done ---------------------------------------------------------------------------------------

    @rule(taken=st.booleans(), pick=PICK)
    def add_user(self, taken: bool, pick: int) -> None:
        made = user(self.next_user)
        others = [address for each in self.plain.users.values() for address in each.addresses]
        if taken and others:
            with pytest.raises(AddressTaken):
                self.store.im_users.put_user(replace(made, addresses=(others[pick % len(others)],)))
            return
        self.next_user += 1
        self.store.im_users.put_user(made)
        self.plain.users[made.user] = made

    @precondition(lambda self: self.plain.users)
    @rule(pick=PICK, keep=st.integers(0, 2))
    def change_user(self, pick: int, keep: int) -> None:
        before = self.plain.users[self.whose(pick)]
        changed = replace(before, addresses=before.addresses[:keep], name=f"name {pick}")
        self.store.im_users.put_user(changed)
        self.plain.users[before.user] = changed

    @precondition(lambda self: len(self.plain.users) > 2)
    @rule(pick=PICK)
    def remove_user(self, pick: int) -> None:
        whose = self.whose(pick)
        self.store.im_users.remove_user(whose)
        self.plain.remove(whose)

    @precondition(lambda self: self.plain.users)
    @rule(pick=PICK, key=st.integers(0, 3), jumps=st.integers(0, 3), is_removed=st.booleans())
    def session(self, pick: int, key: int, jumps: int, is_removed: bool) -> None:
        key_hash = bytes([key]) * 32
        if is_removed:
            self.store.im_users.remove_session(key_hash)
            self.plain.sessions.pop(key_hash, None)
        else:
            until_ms = self.clock() + jumps * JUMP_MS
            self.store.im_users.put_session(key_hash, self.whose(pick), until_ms)
            self.plain.sessions[key_hash] = (self.whose(pick), until_ms)

    @precondition(lambda self: self.plain.users)
    @rule(pick=PICK, token=st.integers(0, 3), is_out=st.booleans())
    def device(self, pick: int, token: int, is_out: bool) -> None:
        raw = bytes([token]) * 16
        if is_out:
            self.store.im_users.sign_out(raw)
            self.plain.devices.pop(raw, None)
        else:
            self.store.im_users.sign_in(raw, self.whose(pick))
            self.plain.devices[raw] = self.whose(pick)

    @precondition(lambda self: len(self.plain.users) > 1)
    @rule(pick=PICK, other=PICK, state=st.none() | st.sampled_from(FriendState))
    def friend(self, pick: int, other: int, state: FriendState | None) -> None:
        pair = (self.whose(pick), self.whose(other))
        if state is None:
            self.store.im_users.remove_friends([pair])
            self.plain.friends.pop(pair, None)
        else:
            friend = Friend(*pair, state, START_MS)
            self.store.im_users.put_friends([friend])
            self.plain.friends[pair] = friend

    @precondition(lambda self: self.plain.users)
    @rule(which=st.integers(0, 2), picks=st.sets(PICK, max_size=3))
    def group(self, which: int, picks: set[int]) -> None:
        members = tuple(sorted({self.whose(pick) for pick in picks}))
        group = Group(bytes([which]) * 16, "garden", members[0] if members else b"", members, START_MS)
        self.store.im_users.put_group(group)
        self.plain.groups[group.group] = group
        if not members:
            del self.plain.groups[group.group]

    @precondition(lambda self: self.plain.users)
    @rule(pick=PICK)
    def bind(self, pick: int) -> None:
        name = f"name {pick % 3}"
        whose = self.whose(pick)
        is_taken = any(each.name == name for each in self.plain.accounts.values() if each.user == whose)
        account = self.runner.run(self._bind(whose, name))
        assert (account is None) == is_taken
        if account is not None:
            self.plain.accounts[account.number] = account
        self.durable = copy.deepcopy(self.plain)

    async def _bind(self, whose: bytes, name: str) -> Account | None:
        account: Account | None = None
        with suppress(AddressTaken):
            account = await put_account(self.store, whose, name)
        await self.store.committer.flush()
        return account

    @precondition(lambda self: self.plain.accounts)
    @rule(pick=PICK)
    def unbind(self, pick: int) -> None:
        number = sorted(self.plain.accounts)[pick % len(self.plain.accounts)]
        self.store.im_accounts.remove_account(number)
        self.plain.unbind(number)

    def account_of(self, pick: int) -> Any:
        numbers = sorted(self.plain.accounts)
        return self.plain.accounts[numbers[pick % len(numbers)]] if numbers else None

    def appended(self, whose: bytes, got: list[Item], expected: int) -> None:
        assert len(got) == expected
        for item in got:
            assert item.cursor > self.given.get(whose, 0)
            self.given[whose] = item.cursor
            self.plain.logs.setdefault(whose, []).append((self.clock(), item))

    @precondition(lambda self: self.plain.users)
    @rule(pick=PICK, what=st.lists(st.integers(0, 20), max_size=4), is_bound=st.booleans())
    def append(self, pick: int, what: list[int], is_bound: bool) -> None:
        account = self.account_of(pick) if is_bound else None
        number, whose = (account.number, account.user) if account is not None else (0, self.whose(pick))
        items = [message(n, number) for n in what]
        expected = self.plain.append(whose, items, self.clock())
        cursor = b"c%d" % pick
        got = self.store.im_log.append(whose, items, account=number, cursor=cursor)
        self.appended(whose, got.items, expected)
        if account is not None:
            self.plain.cursors[number] = cursor

    @precondition(lambda self: self.plain.accounts)
    @rule(pick=PICK, count=st.integers(1, 2))
    def send(self, pick: int, count: int) -> None:
        account = self.account_of(pick)
        some = [outgoing(self.store, account) for _ in range(count)]
        queue = self.plain.waiting.setdefault(account.number, {})
        try:
            self.store.im_log.put_outgoing(some)
        except QueueFull:
            assert len(queue) + count > SETTINGS.outgoing_per_account
            return
        assert len(queue) + count <= SETTINGS.outgoing_per_account
        queue.update({each.number: each for each in some})

    @precondition(lambda self: any(self.plain.waiting.values()))
    @rule(pick=PICK, again=st.booleans())
    def settle(self, pick: int, again: bool) -> None:
        some = [each for queue in self.plain.waiting.values() for each in queue.values()]
        one = some[pick % len(some)]
        if again:
            one = replace(one, tries=one.tries + 1, is_in_doubt=True)
            self.store.im_log.put_outgoing([one])
            self.plain.waiting[one.account][one.number] = one
            return
        item = result(one)
        expected = self.plain.append(one.user, [item], self.clock())
        self.appended(one.user, self.store.im_log.settle(one, item).items, expected)
        del self.plain.waiting[one.account][one.number]
        assert self.store.im_log.settle(one, item).items == []
        self.store.im_log.put_outgoing([replace(one, tries=9)])

    # --- what happens ---------------------------------------------------------------------------------------

    @rule()
    def flush(self) -> None:
        self.runner.run(self.store.committer.flush())
        assert len(self.store._im._unwritten) == 0
        self.durable = copy.deepcopy(self.plain)

    @rule()
    def fail(self) -> None:
        self.runner.run(self._fail())
        self.plain = copy.deepcopy(self.durable)

    async def _fail(self) -> None:
        await fail_commit(self.store, self.disk)
        assert len(self.store._im._unwritten) == 0
        self.disk.error = None
        assert await self.store.committer.probe()

    @rule()
    def restart(self) -> None:
        self.runner.run(self.store.close())
        self.start()

    @rule(jumps=st.integers(1, 2))
    def later(self, jumps: int) -> None:
        self.clock.now_ms += jumps * JUMP_MS

    @rule(pick=PICK, is_busy=st.booleans())
    def sweep(self, pick: int, is_busy: bool) -> None:
        if is_busy and self.plain.users:  # a line comes while a slice is on its way to the disk
            self.store._im.sweep()
            self.fresh += 1
            whose, item = self.whose(pick), message(self.fresh)
            self.appended(
                whose, self.store.im_log.append(whose, [item]).items, self.plain.append(whose, [item], self.clock())
            )
        self.runner.run(self._sweep())
        self.plain.sweep(self.clock())
        self.durable = copy.deepcopy(self.plain)

    async def _sweep(self) -> None:
        await self.store.committer.flush()
        while self.store._im.sweep():
            await self.store.committer.flush()
        await self.store.committer.flush()
        self.counts_are_right()

    def counts_are_right(self) -> None:
        environment = self.store._environment
        for whose, raw in list(environment.scan(Db.IM_LOGS)):
            assert parse_log_head(raw).lines == sum(key.startswith(whose) for key, _ in environment.scan(Db.IM_LOG))
        for account, raw in list(environment.scan(Db.IM_QUEUES)):
            rows = sum(key.startswith(account) for key, _ in environment.scan(Db.IM_OUTGOING))
            assert parse_count(raw) == rows > 0
        assert environment.entries(Db.IM_OUTGOING) == sum(len(queue) for queue in self.plain.waiting.values())

    # --- what is said ---------------------------------------------------------------------------------------

    @invariant()
    def both_say_the_same(self) -> None:
        if not hasattr(self, "store"):
            return
        plain, users, log = self.plain, self.store.im_users, self.store.im_log
        for n in range(1, self.next_user):
            whose = user_id(n)
            assert users.user(whose) == plain.users.get(whose)
            for address in user(n).addresses:
                assert users.find_user(address) == plain.address(address)
            assert set(users.devices(whose)) == {key for key, each in plain.devices.items() if each == whose}
            friends = sorted((each for pair, each in plain.friends.items() if pair[0] == whose), key=lambda f: f.other)
            assert sorted(users.friends(whose), key=lambda f: f.other) == friends
            groups = [group for group in plain.groups.values() if whose in group.members]
            assert sorted(users.groups(whose), key=lambda g: g.group) == sorted(groups, key=lambda g: g.group)
            accounts = [each for each in plain.accounts.values() if each.user == whose]
            assert self.store.im_accounts.accounts(whose) == sorted(accounts, key=lambda a: a.number)
            lines = [item for _, item in plain.logs.get(whose, [])]
            assert log.after(whose, 0, 1_000) == lines
            assert log.after(whose, self.given.get(whose, 0), 1_000) == []
            assert log.first(whose) == (lines[0].cursor if lines else 0)
            assert (log.last(whose) >= lines[-1].cursor) if lines else True
        for key in range(4):
            whose, until_ms = plain.sessions.get(bytes([key]) * 32, (None, 0))
            assert users.session(bytes([key]) * 32) == (whose if until_ms > self.clock() else None)
            assert users.signed_in(bytes([key]) * 16) == plain.devices.get(bytes([key]) * 16)
        for number, account in plain.accounts.items():
            assert self.store.im_accounts.cursor(number) == plain.cursors.get(number)
            assert self.store.im_accounts.unseal(account) == {"password": "open sesame"}
            assert log.outgoing(number) == list(plain.waiting.get(number, {}).values())
        assert log.waiting_accounts() == sorted(number for number, queue in plain.waiting.items() if queue)


TestStoreBesidePlain = StoreBesidePlain.TestCase
TestStoreBesidePlain.settings = settings(
    max_examples=20,
    stateful_step_count=40,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each try opens stores: to shrink a failure takes minutes
)
