"""The section `trigger`: what is wrong is named with its fix, a secret never is (C10)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.check import advice, conflicts
from gateway.config.sections import Config
from gateway.config.trigger import parse_url, read_secret
from gateway.model.errors import ConfigError
from gateway.notifiers.local_tls import Authority
from gateway.paging.trigger.settings import build_access, build_callback_context


def build(**trigger: Any) -> Config:
    config = Config()
    for name, value in {"t8": "https://scef.example.net", "scs_as_id": "gw", **trigger}.items():
        setattr(config.trigger, name, value)
    return config


def wrong(**trigger: Any) -> list[str]:
    return [field for field, _ in conflicts(build(**trigger)) if field.startswith("trigger.")]


@pytest.fixture
def secret(tmp_path: Path) -> str:
    file = tmp_path / "secret"
    file.write_text("s3cret\n")
    file.chmod(0o600)
    return str(file)


def test_nothing_is_asked_of_who_does_not_use_it() -> None:
    assert wrong(t8="", scs_as_id="", auth="oauth2") == []
    assert wrong(way="tsp", scs_as_id="") == ["trigger.way"]  # for there is no peer
    assert [field for field, _ in advice(Config()) if field.startswith("trigger.")] == []


def test_settings_that_are_right(secret: str, tmp_path: Path) -> None:
    authority = Authority()
    ours = authority.issue(name="gw").write(tmp_path, "ours")
    door = authority.issue("localhost").write(tmp_path, "door")
    trigger = {
        "auth": "oauth2",
        "token_url": "https://auth.example.net/token",
        "client_id": "gw",
        "client_secret_file": secret,
        "ca": str(authority.write(tmp_path)),
        "certificate": str(ours.cert),
        "certificate_key": str(ours.key),
        "callback_url": "https://push.example.net:8443/reports/",
        "callback_certificate": str(door.cert),
        "callback_certificate_key": str(door.key),
    }
    assert wrong(**trigger) == []
    config = build(**trigger)
    access = build_access(config.trigger)
    assert access.client_secret == "s3cret"
    assert "s3cret" not in repr(access)
    assert build_callback_context(config.trigger) is not None
    assert build_callback_context(build().trigger) is None


@pytest.mark.parametrize(
    ("trigger", "fields"),
    [
        ({"t8": "scef.example.net"}, ["trigger.t8"]),
        ({"t8": "http://[::1"}, ["trigger.t8"]),
        ({"t8": "https://u:p@scef.example.net"}, ["trigger.t8"]),
        ({"t8": "https://scef.example.net?x=1"}, ["trigger.t8"]),
        ({"t8": "https://scef.example.net/3gpp-device-triggering/v1"}, ["trigger.t8"]),
        ({"t8": "https://3gpp-scef.example.net/exposure/"}, []),
        ({"scs_as_id": ""}, ["trigger.scs_as_id"]),
        ({"scs_as_id": "a/b"}, ["trigger.scs_as_id"]),
        ({"auth": "bearer"}, ["trigger.token_file"]),
        ({"auth": "bearer", "token_file": "/nowhere"}, ["trigger.token_file"]),
        ({"auth": "oauth2"}, ["trigger.token_url", "trigger.client_secret_file", "trigger.client_id"]),
        ({"ca": "/nowhere"}, ["trigger.ca"]),
        ({"certificate": "/nowhere"}, ["trigger.certificate"]),
        ({"callback_certificate_key": "/nowhere"}, ["trigger.callback_certificate"]),
        ({"callback_url": "push.example.net"}, ["trigger.callback_url"]),
        ({"callback_host": " "}, ["trigger.callback_host"]),
        ({"callback_port": 8080}, []),
        ({"validity_min_s": 100, "validity_max_s": 99}, ["trigger.validity_min_s"]),
        ({"callback_retry_s": 31.0}, ["trigger.callback_retry_s"]),
        ({"way": "tsp", "t8": ""}, ["trigger.way"]),
    ],
)
def test_what_is_wrong_is_named(trigger: dict[str, Any], fields: list[str]) -> None:
    assert wrong(**trigger) == fields


def test_a_port_of_another_door_is_not_taken() -> None:
    assert wrong(callback_port=Config().api.port) == ["trigger.callback_port"]


def test_a_token_does_not_travel_in_the_open(secret: str) -> None:
    token = {"auth": "bearer", "token_file": secret}
    assert wrong(t8="http://scef.example.net", **token) == ["trigger.t8"]
    assert wrong(t8="http://127.0.0.1:1", **token) == []
    client = {"auth": "oauth2", "client_id": "gw", "client_secret_file": secret}
    assert wrong(token_url="http://auth.example.net/token", **client) == ["trigger.token_url"]
    assert wrong(token_url="http://[::1]:8/token", **client) == []
    assert wrong(t8="http://[::1", **token) == ["trigger.t8"]


def test_what_to_think_about(secret: str) -> None:
    Path(secret).chmod(0o644)
    config = build(t8="http://10.0.0.1", token_file=secret)
    found = {field: words for field, words in advice(config) if field.startswith("trigger.")}
    assert set(found) == {"trigger.t8", "trigger.callback_url", "trigger.token_file"}
    assert "s3cret" not in str(found)


def test_what_is_set_and_not_used_is_worth_a_word() -> None:
    def words(**trigger: Any) -> str:
        return " ".join(text for field, text in advice(build(**trigger)) if field == "trigger.t8")

    assert "trigger.scs_as_id, trigger.auth" in words(t8="", auth="oauth2")
    assert words(t8="", scs_as_id="") == ""
    assert "trigger.way is tsp" in words(way="tsp")
    assert words() == ""


@pytest.mark.parametrize("data", [b"", b"\n", b"two words", b"x" * 5_000, "ä".encode(), b"a\nb", b"\xff"])
def test_a_file_without_a_secret_is_refused_and_not_repeated(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_secret(str(file), "trigger.token_file")
    assert caught.value.field == "trigger.token_file"
    assert "two words" not in caught.value.message


@given(st.text(max_size=80) | st.text(max_size=40).map(lambda t: f"https://{t}"))
def test_any_text_is_a_url_or_is_refused(text: str) -> None:
    try:
        assert parse_url(text, "x", example="e").startswith(("http://", "https://"))
    except ConfigError as error:
        assert error.field == "x"  # noqa: PT017 - both are right
