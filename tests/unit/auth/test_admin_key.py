"""The admin key's file: made once, private, and refused where it is not."""

from __future__ import annotations

import os
import stat

import pytest

from gateway.auth.admin_key import load_or_create
from gateway.auth.api_keys import ApiKeys, Operator
from gateway.model.errors import ConfigError


class NoApps:
    def app(self, name):
        return None

    def app_names(self):
        return []


def test_made_at_first_start_private_and_the_same_afterwards(tmp_path):
    path = tmp_path / "store" / "admin.key"
    old = os.umask(0)
    try:
        first = load_or_create(path)
    finally:
        os.umask(old)
    assert first.created
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["admin.key"]
    second = load_or_create(path)
    assert not second.created
    assert (second.text, second.hash) == (first.text, first.hash)
    assert isinstance(ApiKeys(NoApps(), first.hash).authenticate(f"Bearer {first.text}"), Operator)


def test_not_in_its_repr(tmp_path):
    key = load_or_create(tmp_path / "admin.key")
    assert key.text not in repr(key)
    assert key.text.split("_", 2)[2] not in repr(key)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_readable_by_others_is_refused_with_the_fix(tmp_path, mode):
    path = tmp_path / "admin.key"
    key = load_or_create(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600") as caught:
        load_or_create(path)
    assert key.text not in str(caught.value)


@pytest.mark.parametrize("text", ["", "hello", "hk_aaaaaaaa_" + "x" * 43])
def test_a_file_with_something_else_is_refused_and_kept(tmp_path, text):
    path = tmp_path / "admin.key"
    path.touch(mode=0o600)
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_or_create(path)
    assert path.read_text() == text
    assert not text or text not in str(caught.value).removeprefix(str(path))
