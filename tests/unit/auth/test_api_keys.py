"""API keys: what is kept, what is accepted, and that a wrong one tells nothing."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.api_keys import (
    OPERATOR_ID,
    ApiKeys,
    Operator,
    Provider,
    build_key_text,
    hash_secret,
    issue_key,
    parse_key,
)
from gateway.model.errors import Forbidden, Unauthorized
from gateway.model.registration import App


class Apps:
    def __init__(self, *apps: App) -> None:
        self.apps = {app.name: app for app in apps}
        self.scans = 0

    def app(self, name: str) -> App | None:
        return self.apps.get(name)

    def app_names(self) -> list[str]:
        self.scans += 1
        return list(self.apps)


def operator_key() -> tuple[str, bytes]:
    text = build_key_text(OPERATOR_ID)
    parsed = parse_key(text)
    assert parsed is not None
    return text, hash_secret(parsed.secret)


def test_the_record_holds_the_hash_and_never_the_secret():
    record, text = issue_key("ci", now_s=7)
    prefix, key_id, secret = text.split("_", 2)
    assert (prefix, key_id, record.label, record.created_at) == ("hk", record.id, "ci", 7)
    assert len(key_id) == 8
    assert record.hash == hashlib.sha256(secret.encode()).digest()
    assert secret not in repr(record)
    assert secret not in repr(parse_key(text))


def test_keys_are_not_repeated():
    assert len({issue_key()[1] for _ in range(200)}) == 200


def test_a_key_finds_its_app():
    one, text_one = issue_key()
    two, text_two = issue_key()
    keys = ApiKeys(Apps(App(name="a", keys=[one]), App(name="b", keys=[two])), bytes(32))
    for text, name, key in ((text_one, "a", one), (text_two, "b", two)):
        who = keys.authenticate(f"Bearer {text}")
        assert isinstance(who, Provider)
        assert (who.app.name, who.key_id) == (name, key.id)


def test_the_operator_key_is_no_provider_key_and_the_reverse():
    text, hashed = operator_key()
    record, provider_text = issue_key()
    keys = ApiKeys(Apps(App(name="a", keys=[record])), hashed)
    assert isinstance(keys.operator(f"bearer {text}"), Operator)
    with pytest.raises(Forbidden):
        keys.provider(f"Bearer {text}")
    with pytest.raises(Forbidden) as caught:
        keys.operator(f"Bearer {provider_text}")
    # said of apps, subscribers and cards alike
    assert str(caught.value) == "This takes the operator's key; what was sent is a key of an app."


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic aGk6aGk=", "Bearer hk_x_y", "Bearer hk_" + "a" * 8 + "_" + "é" * 43],
)
def test_no_or_malformed_key_is_unauthorized(header):
    with pytest.raises(Unauthorized):
        ApiKeys(Apps(), bytes(32)).authenticate(header)


def test_wrong_secret_unknown_id_and_wrong_operator_get_the_same_words():
    record, _text = issue_key()
    keys = ApiKeys(Apps(App(name="a", keys=[record])), operator_key()[1])
    other = issue_key()[1].split("_", 2)[2]
    said = set()
    for wrong in (f"hk_{record.id}_{other}", f"hk_aaaaaaaa_{other}", f"hk_{OPERATOR_ID}_{other}"):
        with pytest.raises(Unauthorized) as caught:
            keys.authenticate(f"Bearer {wrong}")
        said.add(str(caught.value))
        assert other not in str(caught.value)
    assert len(said) == 1


def test_a_deleted_key_stops_at_once_and_a_new_one_works_at_once():
    old, old_text = issue_key()
    new, new_text = issue_key()
    apps = Apps(App(name="a", keys=[old]))
    keys = ApiKeys(apps, bytes(32), clock=lambda: 0.0)
    keys.authenticate(f"Bearer {old_text}")
    apps.apps["a"] = App(name="a", keys=[new])
    keys.update(apps.apps["a"])
    assert isinstance(keys.authenticate(f"Bearer {new_text}"), Provider)
    with pytest.raises(Unauthorized):
        keys.authenticate(f"Bearer {old_text}")


def test_unknown_ids_do_not_make_it_scan_the_apps_each_time():
    now = [0.0]
    apps = Apps()
    keys = ApiKeys(apps, bytes(32), clock=lambda: now[0])
    for _ in range(50):
        with pytest.raises(Unauthorized):
            keys.authenticate(f"Bearer {issue_key()[1]}")
    assert apps.scans == 1
    record, text = issue_key()
    apps.apps["late"] = App(name="late", keys=[record])
    now[0] = 2.0
    assert isinstance(keys.authenticate(f"Bearer {text}"), Provider)


@given(st.text(max_size=80))
def test_any_text_is_either_a_key_or_unauthorized(text):
    parsed = parse_key(text)
    assert parsed is None or (len(parsed.id) == 8 and len(parsed.secret) == 43)
    with pytest.raises(Unauthorized):
        ApiKeys(Apps(), bytes(32)).authenticate(f"Bearer {text}")
