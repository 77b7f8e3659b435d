"""The floors: imports go down only, in gateway/ (import-linter) and inside ext/ (cimports)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXT = ROOT / "ext"

#: compiled modules by floor; one may cimport only from floors below its own
FLOORS = [
    # know nothing of each other
    {
        "frame",
        "wheel",
        "group",
        "token_index",
        "mailbox",
        "outbox",
        "proxy",
        "records",
        "far_records",
        "push_reader",
        "push_results",
        "nats_reader",
    },
    {"batch_parts", "farewell", "link", "registry", "pending", "tls_state", "cattp_plane"},
    {"batches", "tls_light", "tls_context", "cattp_links"},
    {"tls", "cattp_sending"},
    {"plane", "cattp_traffic"},
    {"secure", "cattp"},
    {"traffic"},
    {"fanout", "door"},
    {"reactor"},
    {"intake", "far_traffic"},
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
CIMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+cimport|cimport\s+([\w.]+))", re.MULTILINE)
SOURCES = sorted([*EXT.glob("*.pyx"), *EXT.glob("*.pxd")])


def cimports(text: str) -> set[str]:
    found = {first or second for first, second in CIMPORT.findall(text)}
    return {name.removeprefix("gateway._native.") for name in found if name.startswith(("gateway", "."))}


def upward(name: str, text: str) -> set[str]:
    """What this module cimports though it is not below it."""
    return {used for used in cimports(text) if used != name and FLOOR_OF.get(used, 99) >= FLOOR_OF[name]}


def test_imports_in_gateway_go_down_only() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_compiled_module_has_a_floor() -> None:
    assert {path.stem for path in SOURCES} == set(FLOOR_OF)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_cimports_in_ext_go_down_only(path: Path) -> None:
    assert upward(path.stem, path.read_text()) == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_native_code_imports_nothing_of_python_gateway(path: Path) -> None:
    lines = re.findall(r"^\s*(?:from|import)\s+gateway[\w.]*.*$", path.read_text(), re.MULTILINE)
    assert [line for line in lines if " cimport " not in line] == []


def test_the_check_finds_an_upward_cimport() -> None:
    assert upward("wheel", "from gateway._native.reactor cimport reactor_t\n") == {"reactor"}
    assert upward("link", "    cimport gateway._native.pending\n") == {"pending"}
    assert upward("link", "from gateway._native.wheel cimport wheel_t\n") == set()
    assert upward("link", "from libc.stdint cimport uint8_t\n") == set()
