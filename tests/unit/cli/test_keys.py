"""`heliograph keys` on a key file: numbers are shown, keys never."""

import json
from pathlib import Path

import pytest

from gateway.cli import run
from gateway.store.keys import KEY_FILE, ServerKeys


@pytest.fixture
def store(tmp_path: Path) -> Path:
    ServerKeys.load(tmp_path, may_create=True)
    return tmp_path


def listed(store: Path, capsys: pytest.CaptureFixture[str]) -> list[tuple[int, bool]]:
    capsys.readouterr()
    assert run(["keys", "list", "--store", str(store), "--json"]) == 0
    return [(row["id"], row["current"]) for row in json.loads(capsys.readouterr().out)]


def test_rotate_then_drop(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(store, capsys) == [(1, True)]
    assert run(["keys", "rotate", "--store", str(store)]) == 0
    assert listed(store, capsys) == [(1, False), (2, True)]
    assert run(["keys", "drop", "1", "--yes", "--store", str(store)]) == 0
    assert listed(store, capsys) == [(2, True)]


def test_the_key_in_use_and_an_unknown_one_stay(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "drop", "1", "--yes", "--store", str(store)]) == 2
    assert run(["keys", "drop", "9", "--yes", "--store", str(store)]) == 2
    assert listed(store, capsys) == [(1, True)]


def test_drop_asks_first(store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run(["keys", "rotate", "--store", str(store)])
    monkeypatch.setattr("typer.confirm", _decline)
    assert run(["keys", "drop", "1", "--store", str(store)]) == 1
    assert len(listed(store, capsys)) == 2


def test_a_node_of_a_fleet_does_not_change_its_copy_of_the_keys(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (store / "partitions").mkdir()
    assert run(["keys", "rotate", "--store", str(store)]) == 2
    assert "fleet" in capsys.readouterr().err
    assert run(["keys", "drop", "1", "--yes", "--store", str(store)]) == 2
    assert listed(store, capsys) == [(1, True)]


@pytest.mark.parametrize("key_id", ["1", "9"])
def test_what_can_not_be_dropped_is_not_asked_about(store: Path, key_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.confirm", _decline)
    assert run(["keys", "drop", key_id, "--store", str(store)]) == 2


def test_no_key_is_ever_printed(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["keys", "rotate", "--store", str(store)])
    run(["keys", "list", "--store", str(store)])
    shown = "".join(capsys.readouterr())
    record = json.loads((store / KEY_FILE).read_text())
    secrets = [record["token_key"], record["hash_key"], *record["device_keys"].values()]
    assert not [secret for secret in secrets if secret in shown]


def _decline(*_args: object, abort: bool = False, **_kwargs: object) -> bool:
    from typer import Abort

    assert abort
    raise Abort


def test_keys_of_im_are_rotated_by_themselves(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "rotate", "--of", "im", "--store", str(store)]) == 0
    assert listed(store, capsys) == [(1, True)]
    assert run(["keys", "list", "--of", "im", "--store", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"id": 1, "current": False}, {"id": 2, "current": True}]
    assert run(["keys", "drop", "2", "--of", "im", "--store", str(store)]) == 2
    assert run(["keys", "drop", "1", "--of", "im", "--store", str(store)]) == 0
    assert list(ServerKeys.load(store, may_create=False).im_keys) == [2]


@pytest.mark.parametrize(
    "command",
    [
        ["keys", "rotate"],
        ["keys", "drop", "1", "--yes"],
        ["backup", "copy"],
        ["inspect", "device", "d"],
    ],
)
def test_the_folder_of_a_node_is_refused_with_what_to_do(
    store: Path, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (store / "partitions" / "0").mkdir(parents=True)
    before = (store / KEY_FILE).read_bytes()
    monkeypatch.chdir(store.parent)
    assert run([*command, "--store", str(store)]) == 2
    assert "of a node of a fleet" in capsys.readouterr().err
    assert (store / KEY_FILE).read_bytes() == before
    assert listed(store, capsys) == [(1, True)]


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """Configuration of a node; nobody is at the address of its NATS server."""
    secret = tmp_path / "fleet.secret"
    secret.write_text("s" * 40)
    secret.chmod(0o600)
    file = tmp_path / "node.toml"
    file.write_text(
        f'[cluster]\nurl = "nats://127.0.0.1:1"\nallow_unsynced = true\nnode = "a"\nsecret_file = "{secret}"\n'
        f'[store]\npath = "{tmp_path / "node"}"\n'
    )
    return file


@pytest.mark.parametrize("command", [["list"], ["rotate"], ["drop", "1", "--yes"]])
def test_a_fleet_has_no_keys_of_im(fleet: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", *command, "--of", "im", "--config", str(fleet)]) == 2
    assert "im.app" in capsys.readouterr().err


def test_without_nats_the_keys_of_a_fleet_are_not_changed_and_it_is_said(
    fleet: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cli.fleet_keys._PATIENCE_S", 0.1)
    assert run(["keys", "rotate", "--config", str(fleet)]) != 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "NATS" in captured.err
    assert not (fleet.parent / "node").exists()


def test_a_rotation_of_one_machine_has_nothing_to_finish(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "rotate", "--finish", "--store", str(store)]) == 2
    assert "--finish: is for a fleet" in capsys.readouterr().err
    assert listed(store, capsys) == [(1, True)]


COMMANDS = [["list"], ["rotate"], ["drop", "1", "--yes"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_set_is_the_one_that_is_meant(
    store: Path, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of the configuration without it: its keys would be changed unasked."""
    other = store / "other"
    other.mkdir()
    ServerKeys.load(other, may_create=True).rotate_device_key()
    monkeypatch.setenv("HELIOGRAPH_STORE_PATH", str(store))
    assert run(["keys", *command, "--set", f"store.path={other}"]) == 0
    assert listed(store, capsys) == [(1, True)]
    assert len(listed(other, capsys)) == {"list": 2, "rotate": 3, "drop": 1}[command[0]]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_and_a_fleet_are_not_asked_for_at_once(
    store: Path, fleet: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (store / KEY_FILE).read_bytes()
    secret = fleet.parent / "fleet.secret"
    of_a_fleet = [
        ["--config", str(fleet)],
        [
            "--set=cluster.url=nats://127.0.0.1:1",
            "--set=cluster.allow_unsynced=1",
            f"--set=cluster.secret_file={secret}",
        ],
    ]
    for words in of_a_fleet:
        assert run(["keys", *command, "--store", str(store), *words]) == 2
        assert "--store: is the folder of a gateway alone" in capsys.readouterr().err
    assert run(["keys", *command, "--store", str(store), "--set", f"store.path={store}"]) == 2
    assert "--store: and --set store.path" in capsys.readouterr().err
    assert (store / KEY_FILE).read_bytes() == before


def test_a_folder_goes_before_the_configuration_of_the_environment(
    store: Path, fleet: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOGRAPH_CONFIG", str(fleet))
    assert run(["keys", "rotate", "--store", str(store), "--set", "log.level=error"]) == 0
    assert listed(store, capsys) == [(1, False), (2, True)]


def test_the_copy_of_a_node_is_listed_and_called_a_copy(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (store / "partitions").mkdir()
    assert run(["keys", "list", "--store", str(store), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == [{"id": 1, "current": True}]
    assert "is a copy" in said.err


def test_a_folder_that_is_not_there_is_said_to_be_that_of_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["keys", "list", "--store", str(tmp_path / "nothing")]) == 2
    assert "--store: there is no store" in capsys.readouterr().err
