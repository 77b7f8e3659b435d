"""What `heliograph apps show` says of an app, for people and for programs."""

from __future__ import annotations

import json

import pytest
from command_api import Api
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli import run
from gateway.cli.app_fields import build_fields, describe_limits, describe_value
from gateway.notifiers.local_tls import Authority

AUTHORITY = Authority("Example authority")
ISSUED = AUTHORITY.issue("push.example.com", name="of the push")


def test_a_certificate_is_told_by_its_name_and_end() -> None:
    assert describe_value(ISSUED.certificate).startswith("certificate (of the push, ends 20")
    both = describe_value(ISSUED.certificate + AUTHORITY.pem)
    assert both.startswith("2 certificates, the first (of the push, ends 20")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "PEM"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "PEM"),
        ("***", "***"),
        ("", ""),
        ("com.example.shop", "com.example.shop"),
        ("Hello\nyou", "Hello …"),
    ],
)
def test_any_value_is_in_one_line(text: str, shown: str) -> None:
    assert describe_value(text) == shown


@given(st.text())
def test_no_text_is_more_than_a_line(text: str) -> None:
    assert len(describe_value(text).splitlines()) <= 1


def test_limits_are_those_that_there_are() -> None:
    assert describe_limits({"per_s": 5, "burst": 0, "per_day": 100}) == "per_s=5, per_day=100"
    assert describe_limits({}) == "none"


def test_doors_and_notifiers_of_one_name_are_told_apart() -> None:
    app = {
        "name": "shop",
        "notifiers": {"webpush": {"subject": "mailto:a@b.example", "vapid_key": "***"}, "stub": {}},
        "webpush": "vapid",
        "apns_keys": [{"key_id": "KEY", "team_id": "TEAM", "public_key": "-----BEGIN PUBLIC KEY-----"}],
        "keys": 1,
        "created_at": 1,
    }
    assert dict(build_fields(app)) == {
        "name": "shop",
        "notifier webpush": {"subject": "mailto:a@b.example", "vapid_key": "***"},
        "notifier stub": "set",
        "door webpush": "vapid",
        "door apns keys": ["KEY of team TEAM"],
        "created (UTC)": "1970-01-01 00:00:01",
    }


def test_lines_are_as_long_as_what_is_in_them_and_json_has_all(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    found = {"name": "shop", "notifiers": {"apns": {"ca": AUTHORITY.pem, "key": "***", "topic": "com.example"}}}
    api.on("GET /v1/apps/shop", found)
    api.on("GET /v1/apps/shop/keys", {"keys": []})
    assert run(["apps", "show", "shop", "--key", "k"]) == 0
    out = capsys.readouterr().out
    assert "ca=certificate (Example authority, ends 20" in out
    assert "key=***, topic=com.example" in out
    assert "BEGIN" not in out
    assert run(["apps", "show", "shop", "--key", "k", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**found, "keys": []}
