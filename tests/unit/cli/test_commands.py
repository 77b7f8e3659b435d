"""Commands as a person or a script uses them: exit code, stdout for programs, stderr for people."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli import COMMANDS, run

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HELIOGRAPH_CONFIG", "HELIOGRAPH_KEY", "HELIOGRAPH_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f" {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_says_something(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"heliograph {name}" in out
    assert "completion" not in out
    assert len(out.splitlines()[3].strip()) > 20


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from gateway.cli import run; run(['--help']);"
        "print(sorted(set(sys.modules) & {'httpx', 'lmdb', 'uvloop', 'starlette', 'uvicorn', 'cryptography',"
        " 'prometheus_client', 'structlog', 'gateway.store', 'gateway.app', 'gateway.config.load'}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr.strip() == "[]"


def test_no_command_shows_help_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "Usage" in "".join(capsys.readouterr())


def test_a_mistyped_command_is_a_usage_error_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sned"]) == 2
    assert "'send'" in capsys.readouterr().err


def test_the_default_file_passes_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["default-config"]) == 0
    path = tmp_path / "h.toml"
    path.write_text(capsys.readouterr().out)
    assert run(["check-config", str(path)]) == 0
    assert run(["check-config", "--config", str(path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    assert answer["settings"]["edge.port"] == 7400


def test_a_bad_file_is_exit_code_2_with_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "h.toml"
    path.write_text("[edge]\nport = 70000\nprot = 1\n")
    assert run(["check-config", str(path)]) == 2
    err = capsys.readouterr().err
    assert "edge.port" in err
    assert "line 3" in err
    assert run(["check-config", str(path), "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert [problem["field"] for problem in answer["problems"]] == ["edge.port", "edge.prot"]


def test_a_shown_configuration_can_be_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check-config", "--set", "edge.port=1", "--show"]) == 0
    path = tmp_path / "h.toml"
    path.write_text(capsys.readouterr().out)
    assert run(["check-config", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["edge.port"] == 1


def test_advice_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check-config", "--set", "store.sync=false"]) == 0
    assert "store.sync" in capsys.readouterr().err


def test_serve_refuses_a_bad_setting_before_it_starts_anything(tmp_path: Path, capsys) -> None:
    assert run(["serve", "--port", "99999", "--store", str(tmp_path / "s")]) == 2
    assert "edge.port" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


@pytest.mark.usefixtures("own_logging")
def test_serve_alone_does_not_begin_an_empty_store_in_the_folder_of_a_node(tmp_path: Path, capsys) -> None:
    (tmp_path / "partitions").mkdir()
    assert run(["serve", "--port", "0", "--api-port", "0", "--store", str(tmp_path)]) == 2
    assert "store.path: is of a node of a fleet" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["partitions"]


def test_errors_by_number_by_name_and_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["errors", "32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "unknown_token"
    assert run(["errors", "takeover", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["code"] == 23
    assert run(["errors", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) > 20
    assert run(["errors"]) == 0
    out = capsys.readouterr().out
    assert "unknown_token" in out
    assert "\x1b" not in out
    assert run(["errors", "nonsense"]) == 2


def test_version_three_ways(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert run(["version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert run(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["protocol"] == 1


def test_docs_are_written_once_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["docs", "d", "--check"]) == 1
    assert not (tmp_path / "d").exists()
    assert run(["docs", "d"]) == 0
    assert run(["docs", "d", "--check"]) == 0
    (tmp_path / "d" / "config.md").write_text("old")
    capsys.readouterr()
    assert run(["docs", "d", "--check"]) == 1
    assert "config.md" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["backup", "x"], ["keys", "list"], ["inspect", "device", "d"], ["apps", "list"]])
def test_a_missing_store_is_said_and_none_is_made(command: list[str], tmp_path: Path, capsys) -> None:
    assert run([*command, "--store", "none"]) == 2
    assert "there is no store at none" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def _default_config_into(stdout: int) -> tuple[int, str]:
    code = "import sys; from gateway.cli import main; sys.argv = ['heliograph', 'default-config']; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_reader_that_went_away_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code, err = _default_config_into(writer)
    os.close(writer)
    assert (code, err) == (1, "")


def test_a_full_disk_is_one_line() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    code, err = _default_config_into(full)
    os.close(full)
    assert (code, err) == (1, "heliograph: No space left on device\n")


def test_the_tour_names_the_rows_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    from gateway.tour.walk import CLAUSES

    assert run(["tour", "Z9"]) == 2
    error = capsys.readouterr().err
    assert run(["tour", "--help"]) == 0
    out = capsys.readouterr().out
    for clause in [*CLAUSES, "C2", "C3", "C4", "C6"]:
        assert clause in error
        assert clause in out


def test_a_clause_without_a_row_is_shown_by_another() -> None:
    from gateway.tour.walk import CLAUSES, SHOWN_BY, select

    assert select(["c2", "C6"]) == ["C1", "C5"]
    assert not set(SHOWN_BY) & set(CLAUSES)
    assert set(SHOWN_BY.values()) <= set(CLAUSES)
