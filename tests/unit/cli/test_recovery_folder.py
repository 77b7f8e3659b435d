"""The folder of a recovery has a whole partition in it: a command that was killed does not leave it for ever, and one
that runs keeps it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli import recovery_folder as module
from gateway.cli import run
from gateway.cli.recovery_folder import LOCK_FILE, PREFIX, recovery_folder
from gateway.cluster import recovery
from gateway.model.errors import ConfigError

pytestmark = pytest.mark.usefixtures("own_logging")

#: enters the folder, says where it is, and works until it is killed
_WORKS = """
import sys
from gateway.cli.recovery_folder import recovery_folder
with recovery_folder(lambda _: None) as folder:
    (folder / "data.mdb").write_bytes(b"all of it")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def test_what_a_killed_recovery_left_goes_with_the_next_and_what_one_works_in_stays(below: Path) -> None:
    said: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", _WORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().strip())
        with recovery_folder(said.append) as mine:
            assert (left / "data.mdb").exists()
            assert mine != left
            assert mine.stat().st_mode & 0o077 == 0
        assert said == []
        other.kill()
    assert (left / "data.mdb").exists()
    with recovery_folder(said.append) as mine:
        assert list(below.iterdir()) == [mine]
    assert len(said) == 1
    assert str(left) in said[0]
    assert list(below.iterdir()) == []


def test_it_goes_where_the_work_fails_too(below: Path) -> None:
    with pytest.raises(KeyError), recovery_folder(lambda _: None):
        raise KeyError
    assert list(below.iterdir()) == []


def test_what_may_be_in_use_unseen_is_told_of_and_stays(below: Path) -> None:
    """An older program locks nothing; others' folders and links are not looked into."""
    older, elsewhere = below / f"{PREFIX}abc", below / "elsewhere"
    for folder in (older, elsewhere):
        folder.mkdir()
    (elsewhere / LOCK_FILE).touch()
    (below / f"{PREFIX}link").symlink_to(elsewhere)
    (below / f"{PREFIX}file").touch()
    said: list[str] = []
    with recovery_folder(said.append):
        pass
    assert older.is_dir()
    assert (elsewhere / LOCK_FILE).exists()
    assert len(said) == 1
    assert older.name in said[0]


def test_one_that_another_removed_before_it_was_locked_is_made_anew(
    below: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, tries = module._take, 0

    def is_too_late(lock: int) -> bool:
        nonlocal tries
        tries += 1
        if tries == 1:  # the other one has it for as long as it removes it
            module.shutil.rmtree(next(below.iterdir()))
        return take(lock)

    monkeypatch.setattr(module, "_take", is_too_late)
    with recovery_folder(lambda _: None) as folder:
        assert (folder / LOCK_FILE).exists()
    assert tries == 2


def test_where_there_is_no_room_the_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(ConfigError, match="No space left") as caught, recovery_folder(lambda _: None):
        pass
    assert caught.value.field == "TMPDIR"


def test_the_command_works_in_such_a_folder(
    below: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "PATIENCE_S", 0.1)
    left = below / f"{PREFIX}left"
    left.mkdir()
    (left / LOCK_FILE).touch()
    secret = below / "secret"
    secret.write_text("s" * 40)
    secret.chmod(0o600)
    settings = ("url=nats://127.0.0.1:1", "allow_unsynced=1", f"secret_file={secret}")
    assert run(["cluster", "recover", "0", *(f"--set=cluster.{each}" for each in settings)]) == 1  # nothing was changed
    said = capsys.readouterr().err
    assert str(left) in said
    assert "no NATS server" in said
    assert list(below.iterdir()) == [secret]
