"""`heliograph cluster status` where there is no NATS: one line that says so, and nothing on stdout. And what it says of
keys."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gateway.cli import run
from gateway.cli.cluster import keys_of
from gateway.cluster import fleet_status

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(fleet_status, "_PATIENCE_S", 0.2)
    secret = tmp_path / "fleet.secret"
    secret.write_bytes(b"s" * 40)
    secret.chmod(0o600)
    with socket.socket() as closed:  # a port that nobody listens at
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    pairs = (f"url=nats://127.0.0.1:{port}", "monitors=http://127.0.0.1:1", f"secret_file={secret}")
    return [part for pair in pairs for part in ("--set", f"cluster.{pair}")]


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_without_nats_it_says_so_in_one_line(
    settings: list[str], more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["cluster", "status", *settings, *more]) == 1  # the configuration may be right
    said = capsys.readouterr()
    assert said.out == ""
    assert "no NATS server" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("has", "said"), [(7, "7"), (3, "3, behind"), (0, "of its start, behind"), (9, "9, of other records")]
)
def test_whose_keys_a_node_has(has: int, said: str) -> None:
    assert keys_of(has, 7) == said
