"""Registrations, tokens, aliases and tags, against dictionaries (A1, A5)."""

from __future__ import annotations

import asyncio
import tempfile
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from store_rig import APP, disk_of, fail_commit, open_store, push, register, with_app

from gateway.model.errors import InvalidField, StoreUnavailable, UnknownApp, UnknownToken
from gateway.model.registration import ApiKey, App, build_token
from gateway.store import Store

DEVICES = ["phone", "tablet"]
ACCOUNTS = ["", "alice", "bob"]
APPS = [APP, "other"]
ALIASES = [None, "", "alias", "a" * 100, "é" * 128]
TAGS = [None, [], ["red"], ["red", "blue"], ["blue", "blue", "ß" * 64]]


class DirectoryMachine(RuleBasedStateMachine):
    """Devices register, change labels and are revoked; commits fail; the store restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.tokens: dict[tuple[str, str, str], bytes] = {}
        self.numbers: dict[bytes, int] = {}
        self.labels: dict[bytes, tuple[str, list[str]]] = {}
        self.versions: dict[bytes, str] = {}
        self.dead: dict[bytes, str] = {}
        self.used: set[int] = set()

    @initialize()
    def start(self) -> None:
        async def go() -> Store:
            store = await self.open()
            for app in APPS:
                await with_app(store, app)
            return store

        self.store = self.runner.run(go())

    async def open(self) -> Store:
        store = await open_store(Path(self.folder.name), max_bytes=1 << 26, sync=False)
        self.disk = disk_of(store)
        return store

    @rule(
        device=st.sampled_from(DEVICES),
        app=st.sampled_from(APPS),
        account=st.sampled_from(ACCOUNTS),
        version=st.sampled_from(["1.0", "2.0"]),
        alias=st.sampled_from(ALIASES),
        tags=st.sampled_from(TAGS),
        wait=st.booleans(),
    )
    def register(
        self, device: str, app: str, account: str, version: str, alias: str | None, tags: list[str] | None, wait: bool
    ) -> None:
        async def go() -> None:
            registration, created, written = self.store.directory.register(
                device, app, version, account, alias=alias, tags=tags
            )
            if wait and written is not None:
                await written
            token = registration.token
            triple = (device, app, account)
            assert created == (triple not in self.tokens)
            assert token not in self.dead
            if not created:
                assert (token, registration.number) == (self.tokens[triple], self.numbers[token])
            else:
                assert token not in self.tokens.values()
                assert registration.number not in self.used, "a number was given out twice"
                self.used.add(registration.number)
            self.tokens[triple] = token
            self.numbers[token] = registration.number
            old = self.labels.get(token, ("", []))
            self.labels[token] = (
                old[0] if alias is None else alias,
                old[1] if tags is None else list(dict.fromkeys(tags)),
            )
            self.versions[token] = version

        self.runner.run(go())

    @rule(device=st.sampled_from(DEVICES), account=st.sampled_from(ACCOUNTS), alias=st.sampled_from(ALIASES))
    def register_fails(self, device: str, account: str, alias: str | None) -> None:
        async def go() -> None:
            await self.store.committer.flush()
            self.disk.error = OSError(28, "No space left on device")
            registration, created, written = self.store.directory.register(device, APP, "9.9", account, alias=alias)
            assert written is not None
            with pytest.raises(StoreUnavailable):
                await written
            if created:
                self.used.add(registration.number)
            self.disk.error = None
            assert await self.store.committer.probe()

        self.runner.run(go())

    @rule(data=st.data(), fails=st.booleans())
    def revoke(self, data: st.DataObject, fails: bool) -> None:
        if not self.tokens:
            return
        triple = data.draw(st.sampled_from(sorted(self.tokens)))
        token = self.tokens[triple]

        async def go() -> None:
            await self.store.committer.flush()
            self.disk.error = OSError(28, "No space left on device") if fails else None
            revoked = self.store.directory.revoke(self.numbers[token])
            assert self.store.directory.find(build_token(token), triple[1]) == -1
            if fails:
                with pytest.raises(StoreUnavailable):
                    await revoked
                self.disk.error = None
                assert await self.store.committer.probe()
            else:
                await revoked

        self.runner.run(go())
        if not fails:
            self.dead[token] = triple[1]
            for table in (self.numbers, self.labels, self.versions):
                del table[token]
            del self.tokens[triple]

    @rule()
    def restart(self) -> None:
        async def go() -> Store:
            await self.store.close()
            return await self.open()

        self.store = self.runner.run(go())

    @invariant()
    def directory_is_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        directory = self.store.directory
        for (device, app, account), token in self.tokens.items():
            number = self.numbers[token]
            assert directory.find(build_token(token), app) == number
            assert directory.find(build_token(token), APPS[1 - APPS.index(app)]) == -1
            found = directory.registration(number)
            assert found is not None
            assert (found.device, found.app, found.account) == (device, app, account)
            assert (found.alias, found.tags) == self.labels[token]
            assert found.version == self.versions[token]
            assert number in chain.from_iterable(directory.by_versions(app, f"=={self.versions[token]}"))
        for token, app in self.dead.items():
            assert directory.find(build_token(token), app) == -1
        for app in APPS:
            mine = {token: self.labels[token] for (_, of, _), token in self.tokens.items() if of == app}
            for alias in ALIASES:
                wanted = sorted(self.numbers[t] for t, label in mine.items() if alias and label[0] == alias)
                assert directory.by_alias(app, alias or "") == wanted
            for tag in ("red", "blue", "ß" * 64, "none"):
                wanted = sorted(self.numbers[t] for t, label in mine.items() if tag in label[1])
                assert list(directory.by_tag(app, tag)) == wanted
            assert list(chain.from_iterable(directory.by_versions(app, ""))) == sorted(self.numbers[t] for t in mine)
        for device in DEVICES:
            wanted = sorted(self.numbers[t] for (of, _, _), t in self.tokens.items() if of == device)
            assert directory.device_registrations(device) == wanted

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.runner.run(self.store.close())
        self.runner.close()
        self.folder.cleanup()


DirectoryMachine.TestCase.settings = settings(
    max_examples=30, stateful_step_count=25, suppress_health_check=list(HealthCheck)
)
TestDirectoryLikeDictionaries = DirectoryMachine.TestCase


async def test_a_returning_device_costs_no_read_and_no_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await with_app(await open_store(tmp_path))
    first, created, written = store.directory.register("phone", APP, "1.0", "alice", alias="a")
    assert created
    assert written is not None
    await written

    def no_read(*_: object, **__: object) -> None:
        raise AssertionError("the store was read")

    monkeypatch.setattr(store._environment, "get", no_read)
    monkeypatch.setattr(store._environment, "begin", no_read)
    again, created, written = store.directory.register("phone", APP, "1.0", "alice")
    assert (again.token, again.number, created, written) == (first.token, first.number, False, None)
    monkeypatch.undo()
    await store.close()


async def test_a_token_is_not_answered_before_it_is_durable(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    await store.committer.flush()
    disk = disk_of(store)
    disk.error = OSError(28, "No space left on device")
    first, _, written = store.directory.register("phone", APP, "1.0", "")
    again, created, waited = store.directory.register("phone", APP, "1.0", "")
    assert not created
    assert again.token == first.token
    assert written is not None
    assert waited is not None
    written.cancel()  # whoever gives up does not make it look done
    assert store.directory.register("phone", APP, "1.0", "")[2] is not None
    with pytest.raises(StoreUnavailable):
        await waited
    assert store.directory.find(build_token(first.token), APP) == -1
    await store.close()


async def test_a_triple_cannot_be_spelled_two_ways(tmp_path: Path) -> None:
    store = await with_app(await with_app(await open_store(tmp_path), "a"), "ab")
    tokens = {
        store.directory.register(device, app, "1", account)[0].token
        for device, app, account in [("x", "a", "bc"), ("x", "ab", "c"), ("xa", "a", "bc"), ("x", "a", "b")]
    }
    assert len(tokens) == 4
    await store.close()


async def test_apps_are_kept_and_replaced_whole(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    first = await store.directory.put_app(App(name="shop", ack_ms=5))
    second = await store.directory.put_app(App(name="news"))
    assert first.number != second.number
    changed = await store.directory.put_app(
        App(name="shop", ack_ms=7, keys=[ApiKey(id="k", hash=b"h", created_at=1)], notifiers={"webhook": {"url": "u"}})
    )
    assert changed.number == first.number
    await store.close()
    store = await open_store(tmp_path)
    assert store.directory.app_names() == ["news", "shop"]
    assert store.directory.app("shop") == changed
    assert store.directory.app("none") is None
    disk = disk_of(store)
    disk.error = OSError(28, "No space left on device")
    third, again = store.directory.put_app(App(name="third")), store.directory.put_app(App(name="shop", ack_ms=9))
    assert store.directory.app("shop").ack_ms == 9  # type: ignore[union-attr]
    for commit in (third, again):
        with pytest.raises(StoreUnavailable):
            await commit
    assert store.directory.app_names() == ["news", "shop"]
    assert store.directory.app("shop") == changed
    await store.close()


async def test_update_changes_only_what_is_given(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(
        store, "phone", alias="a", tags=["t"], addresses={"webhook": "https://example.org"}, fallback=["webhook"]
    )
    changed = await store.directory.update(number, tags=["u"])
    assert (changed.alias, changed.tags, changed.fallback) == ("a", ["u"], ["webhook"])
    assert changed.addresses == {"webhook": "https://example.org"}
    assert await store.directory.update(number) == changed
    with pytest.raises(UnknownToken):
        await store.directory.update(number + 1, alias="x")
    await store.close()
    store = await open_store(tmp_path)
    assert store.directory.registration(number) == changed
    await store.close()


BAD = [
    ({"device": ""}, "device"),
    ({"device": "d" * 129}, "device"),
    ({"device": "\ud800"}, "device"),
    ({"app": "no spaces"}, "app"),
    ({"app": "a" * 65}, "app"),
    ({"version": "1" * 65}, "version"),
    ({"account": "a" * 129}, "account"),
    ({"alias": "a" * 129}, "alias"),
    ({"tags": ["t"] * 101}, "tags"),
    ({"tags": ["t" * 65]}, "tags"),
    ({"tags": [""]}, "tags"),
    ({"addresses": {str(i): "x" for i in range(9)}}, "addresses"),
    ({"addresses": {"webhook": "x" * 2_049}}, "addresses"),
    ({"addresses": {"": "x"}}, "addresses"),
    ({"fallback": ["x"] * 9}, "fallback"),
    ({"fallback": ["x" * 33]}, "fallback"),
]


@pytest.mark.parametrize(("given", "field"), BAD, ids=[f"{field}-{i}" for i, (_, field) in enumerate(BAD)])
async def test_what_is_too_long_or_wrong_names_its_field_and_not_its_value(
    tmp_path: Path, given: dict[str, object], field: str
) -> None:
    store = await with_app(await open_store(tmp_path))
    wanted = {"device": "phone", "app": APP, "version": "1.0", "account": "", **given}
    with pytest.raises(InvalidField) as caught:
        store.directory.register(**wanted)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert "dddd" not in str(caught.value)
    assert len(store.directory.registry) == 0
    await store.close()


async def test_an_unknown_app_is_refused(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    with pytest.raises(UnknownApp):
        store.directory.register("phone", "nobody", "1.0", "")
    await store.close()


async def test_large_tag_audiences_come_whole_and_sorted(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    numbers = [register(store, f"d{i}", tags=["all", "even"] if i % 2 == 0 else ["all"]) for i in range(3_000)]
    assert list(store.directory.by_tag(APP, "even")) == numbers[::2]
    await store.committer.flush()
    assert list(store.directory.by_tag(APP, "all")) == numbers
    assert list(store.directory.by_tag(APP, "even")) == numbers[::2]
    await store.close()


async def test_a_revoked_registration_leaves_its_pending_to_be_settled(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(store, "phone")
    seq, _ = push(store, number)
    await store.directory.revoke(number)
    await store.directory.revoke(number)  # again is no error
    assert store.journal.pending_of(number) == [seq]
    assert store.directory.registration(number) is None
    await store.close()


async def test_device_hashes_are_keyed(tmp_path: Path) -> None:
    one, two = await open_store(tmp_path / "1"), await open_store(tmp_path / "2")
    assert one.directory.device_key("phone") == one.directory.device_key("phone")
    assert one.directory.device_key("phone") != two.directory.device_key("phone")
    assert 0 < one.directory.device_key("phone") < 1 << 64
    await one.close()
    await two.close()


async def test_nothing_is_created_while_the_store_is_not_writable(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    await fail_commit(store, disk_of(store))
    with pytest.raises(StoreUnavailable):
        register(store, "phone", alias="a", tags=["t"])
    assert store.directory.by_alias(APP, "a") == []
    assert list(store.directory.by_tag(APP, "t")) == []
    assert store.directory.device_registrations("phone") == []
    await store.close()


async def test_a_pass_over_a_small_app_comes_in_parts_however_many_others_there_are(tmp_path: Path) -> None:
    """Else a broadcast to five devices among millions of another app's holds the loop until it has looked at all."""
    store = await with_app(await with_app(await open_store(tmp_path)), "small")
    directory = store.directory
    numbers = [directory.register("first", "small", "1.0", "")[0].number]
    for i in range(5_000):
        directory.register(f"d{i}", APP, "1.0", "")
    numbers.append(directory.register("last", "small", "1.0", "")[0].number)
    parts = list(directory.by_versions("small", ""))
    assert [part for part in parts if part] == [[number] for number in numbers]
    assert len(parts) == 3
    assert max(map(len, directory.everybody())) <= 2_048
    assert len(list(chain.from_iterable(directory.everybody()))) == 5_002
    await store.close()
