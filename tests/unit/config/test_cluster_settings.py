"""Rules between the settings of `cluster`: each is named with its fix."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from gateway.config.check import advice, conflicts
from gateway.config.cluster import ALONE, read_secret
from gateway.config.cluster import conflicts as conflicts_of_fleet
from gateway.config.sections import Config
from gateway.model.errors import ConfigError


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "fleet.secret"
    file.write_bytes(b"s" * 40 + b"\n")
    file.chmod(0o600)
    return file


def fleet(secret: Path, **changed: Any) -> Config:
    config = Config()
    config.cluster.url = "nats://127.0.0.1:4222,nats://127.0.0.1:4223"
    config.cluster.monitors = "http://127.0.0.1:8222"
    config.cluster.secret_file = str(secret)
    config.cluster.node = "a"
    for name, value in changed.items():
        setattr(config.cluster, name, value)
    return config


def test_alone_and_in_a_fleet_the_defaults_are_right(secret: Path) -> None:
    assert conflicts(Config()) == []
    assert conflicts(fleet(secret)) == []


@pytest.mark.parametrize("advertise", ["push-1.example:7400", "push-1.example:7400,7443", "push-1.example:,7443"])
def test_devices_may_be_sent_to_a_door_inside_tls(secret: Path, advertise: str) -> None:
    assert conflicts(fleet(secret, advertise=advertise)) == []


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"url": "http://127.0.0.1"}, "cluster.url"),
        ({"url": "nats://127.0.0.1:99999"}, "cluster.url"),
        ({"name": "a.b"}, "cluster.name"),
        ({"name": ""}, "cluster.name"),
        ({"node": "a..b"}, "cluster.node"),
        ({"node": "-a"}, "cluster.node"),
        ({"node": "a b"}, "cluster.node"),
        ({"secret_file": ""}, "cluster.secret_file"),
        ({"secret_file": "/does/not/exist"}, "cluster.secret_file"),
        ({"credentials_file": "/does/not/exist"}, "cluster.credentials_file"),
        ({"tls_ca": "/does/not/exist"}, "cluster.tls_ca"),
        ({"advertise": "push-1"}, "cluster.advertise"),
        ({"advertise": "push-1:0"}, "cluster.advertise"),
        ({"monitors": ""}, "cluster.monitors"),
        ({"monitors": "127.0.0.1:8222"}, "cluster.monitors"),
        ({"partitions": 12}, "cluster.partitions"),
        ({"beat_s": 1.1}, "cluster.beat_s"),
        ({"url": " , "}, "cluster.url"),
        ({"message_bytes": 2_000_000, "journal_bytes": 1_048_576, "snapshot_bytes": 65_536}, "cluster.message_bytes"),
    ],
)
def test_what_is_wrong_is_named(secret: Path, changed: dict[str, Any], field: str) -> None:
    assert [name for name, _ in conflicts(fleet(secret, **changed))] == [field]


def other_than(value: object) -> object:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case list():
            return [*value, "x"]
    raise AssertionError(type(value))


@pytest.mark.parametrize(("section", "name"), [("im", "app"), ("ota", "port"), *((section, "") for section in ALONE)])
def test_what_needs_one_machine_is_refused_in_a_fleet_with_the_setting_and_the_way_out(
    secret: Path, section: str, name: str
) -> None:
    for field in [name] if name else [field.name for field in fields(getattr(Config(), section))]:
        config = fleet(secret)
        settings = getattr(config, section)
        setattr(settings, field, other_than(getattr(settings, field)))
        assert [where for where, _ in conflicts_of_fleet(config)] == [f"{section}.{field}"]
        (_, words), *_ = conflicts_of_fleet(config)
        assert "leave it out" in words
        assert "without cluster.url" in words
        config.cluster.url = ""
        assert conflicts_of_fleet(config) == []


def test_a_secret_is_for_its_owner_alone_and_long_enough(secret: Path) -> None:
    assert read_secret(fleet(secret).cluster) == b"s" * 40
    secret.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_secret(fleet(secret).cluster)
    secret.chmod(0o600)
    secret.write_bytes(b"kept-quiet\n")
    with pytest.raises(ConfigError) as caught:
        read_secret(fleet(secret).cluster)
    assert "quiet" not in caught.value.message


def test_an_address_with_a_password_is_not_repeated(secret: Path) -> None:
    config = fleet(secret, url="nats://gw:hunter2@nats.example:4222,oops://gw:hunter2@x")
    assert "hunter2" not in str(conflicts(config))
    assert "hunter2" not in str(advice(fleet(secret, url="nats://gw:hunter2@nats.example:4222")))


def test_what_is_risky_is_worth_a_word(secret: Path) -> None:
    config = fleet(secret, url="nats://nats.example:4222", allow_unsynced=True, replicas=1)
    config.edge.host = "0.0.0.0"
    found = dict(advice(config))
    assert {
        "cluster.url",
        "cluster.credentials_file",
        "cluster.allow_unsynced",
        "cluster.replicas",
        "cluster.advertise",
    } <= set(found)
    alone = Config()
    alone.cluster.partitions = 4
    assert "cluster.url" in dict(advice(alone))


def test_an_address_of_a_monitor_is_not_repeated_for_it_may_hold_a_password(secret: Path) -> None:
    ((field, said),) = conflicts(fleet(secret, monitors="http://ops:hunter2@127.0.0.1:8222"))
    assert field == "cluster.monitors"
    assert "hunter2" not in said
