"""The key file: made once, never silently again, and never readable by others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from store_rig import open_store, register, with_app

from gateway.model.errors import ConfigError
from gateway.store.keys import KEY_FILE, KEY_IDS, ServerKeys


def test_keys_are_made_once_and_kept(tmp_path: Path) -> None:
    keys = ServerKeys.load(tmp_path, may_create=True)
    again = ServerKeys.load(tmp_path, may_create=True)
    for name in ("token_key", "push_id_key", "hash_key", "device_keys", "device_key_id"):
        assert getattr(again, name) == getattr(keys, name)
    assert len({keys.token_key, keys.push_id_key, keys.hash_key, *keys.device_keys.values()}) == 4
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


def test_old_device_keys_stay_until_dropped(tmp_path: Path) -> None:
    keys = ServerKeys.load(tmp_path, may_create=True)
    first = keys.device_keys[keys.device_key_id]
    second = keys.rotate_device_key()
    again = ServerKeys.load(tmp_path, may_create=False)
    assert again.device_key_id == second == keys.device_key_id
    assert again.device_keys[1] == first
    with pytest.raises(ConfigError):
        keys.drop_device_key(second)
    with pytest.raises(ConfigError):
        keys.drop_device_key(99)
    keys.drop_device_key(1)
    assert list(ServerKeys.load(tmp_path, may_create=False).device_keys) == [second]


def test_device_key_ids_fit_a_byte_for_ever(tmp_path: Path) -> None:
    keys = ServerKeys.load(tmp_path, may_create=True)
    for _ in range(KEY_IDS + 5):
        old = keys.device_key_id
        assert 0 <= keys.rotate_device_key() < KEY_IDS
        keys.drop_device_key(old)
    keys.device_keys = {key_id: bytes(32) for key_id in range(KEY_IDS)}
    with pytest.raises(ConfigError):
        keys.rotate_device_key()


def test_a_file_others_can_read_is_refused(tmp_path: Path) -> None:
    ServerKeys.load(tmp_path, may_create=True)
    for mode in (0o644, 0o640, 0o602):
        (tmp_path / KEY_FILE).chmod(mode)
        with pytest.raises(ConfigError, match="chmod 600"):
            ServerKeys.load(tmp_path, may_create=True)


def damage(record: dict[str, object], **changes: object) -> bytes:
    return json.dumps({**record, **changes}).encode()


def test_a_damaged_file_is_refused_without_a_word_of_its_content(tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE
    ServerKeys.load(tmp_path, may_create=True)
    record = json.loads(path.read_bytes())
    secret = record["token_key"]
    for raw in (
        b"",
        b"[]",
        path.read_bytes()[:-20],
        damage(record, token_key="short"),
        damage(record, token_key=5),
        damage(record, device_keys={}),
        damage(record, device_keys={"x": secret}),
        damage(record, device_key_id=7),
        damage(record, device_key_id=None),
        damage(record, format=None),
    ):
        path.write_bytes(raw)
        with pytest.raises(ConfigError) as caught:
            ServerKeys.load(tmp_path, may_create=True)
        assert secret[:8] not in str(caught.value)
        assert caught.value.field == "store.path"
        assert path.read_bytes() == raw


async def test_a_store_with_registrations_does_not_start_without_its_keys(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    register(store, "phone")
    await store.close()
    os.rename(tmp_path / KEY_FILE, tmp_path / "aside")
    with pytest.raises(ConfigError, match="missing"):
        await open_store(tmp_path)
    assert not (tmp_path / KEY_FILE).exists()
    os.rename(tmp_path / "aside", tmp_path / KEY_FILE)
    await (await open_store(tmp_path)).close()


def test_keys_of_im_are_made_for_a_file_from_before(tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE
    keys = ServerKeys.load(tmp_path, may_create=True)
    assert list(keys.im_keys) == [keys.im_key_id] == [1]
    record = json.loads(path.read_bytes())
    before = {name: value for name, value in record.items() if not name.startswith("im_")} | {"format": 1}
    path.write_text(json.dumps(before))
    older = ServerKeys.load(tmp_path, may_create=False)
    assert (older.im_keys, older.im_key_id, older.token_key) == ({}, 0, keys.token_key)
    older.make_first_im_key()
    again = ServerKeys.load(tmp_path, may_create=False)
    assert (again.im_keys, again.im_key_id) == (older.im_keys, 1)
    for changes in ({"im_key_id": 9}, {"im_key_id": None}, {"im_keys": {"1": "short"}}):
        path.write_bytes(damage(record, **changes))
        with pytest.raises(ConfigError):
            ServerKeys.load(tmp_path, may_create=False)


def test_im_key_ids_are_from_1_to_255(tmp_path: Path) -> None:
    keys = ServerKeys.load(tmp_path, may_create=True)
    for _ in range(KEY_IDS + 5):
        old = keys.im_key_id
        assert 1 <= keys.rotate_im_key() < KEY_IDS
        keys.drop_im_key(old)
    keys.im_keys = {key_id: bytes(32) for key_id in range(1, KEY_IDS)}
    with pytest.raises(ConfigError):
        keys.rotate_im_key()
    for key_id in (keys.im_key_id, 300):
        with pytest.raises(ConfigError):
            keys.drop_im_key(key_id)


def test_a_key_that_waits_is_kept_in_the_file_and_ends_with_the_next_rotation(tmp_path: Path) -> None:
    keys = ServerKeys.load(tmp_path, may_create=True)
    keys.take(keys.ring.with_next())
    keys.path.write_bytes(keys.build())
    again = ServerKeys.load(tmp_path, may_create=False)
    assert (again.device_key_id, again.device_key_next) == (1, 2)
    assert again.device_keys == keys.device_keys
    again.drop_device_key(2)
    assert ServerKeys.load(tmp_path, may_create=False).device_key_next == -1
    again.rotate_device_key()
    assert ServerKeys.load(tmp_path, may_create=False).ring == (again.device_keys, 2, -1)


def test_a_key_that_waits_has_to_be_there(tmp_path: Path) -> None:
    keys = ServerKeys.load(tmp_path, may_create=True)
    record = json.loads(keys.build())
    for wrong in (7, "2", None, {}):
        with pytest.raises(ConfigError, match="damaged"):
            ServerKeys.parse(keys.path, json.dumps({**record, "device_key_next": wrong}).encode())
