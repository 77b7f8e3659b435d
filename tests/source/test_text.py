"""Rules that hold for every file of the tree, each with a proof that it can be broken."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: about 500 and 800 are the rule of thumb; here a file must be split
MAX_LINES = {".py": 600, ".pyx": 800}
TEXT = {".py", ".pyx", ".pxd", ".pyi", ".h", ".md", ".toml", ".supp", ".html", ".in", ""}
# written apart, so that this file passes its own check
UNFINISHED = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")))
HOME = re.compile(r"(?<![\w.])/(?:work|home/\w+|root|Users/\w+|tmp/\w{6,})(?:/|\b)")
VAGUE = {"manager", "util", "utils", "helper", "helpers", "common", "misc"}


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:  # an unpacked sdist
        skip = {".venv", "build", "dist", ".git"}
        paths = [path for path in ROOT.rglob("*") if not skip & set(path.relative_to(ROOT).parts)]
    return [path for path in paths if path.is_file() and path.suffix in TEXT and path.name != "LICENSE"]


FILES = tracked()


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code(*folders: str) -> list[Path]:
    return [path for path in FILES if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders]


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 50


def test_files_are_short_enough_to_be_about_one_thing() -> None:
    counts = {
        ids(p): len(p.read_text().splitlines()) for p in FILES if p.suffix in MAX_LINES and "tests" not in p.parts
    }
    assert {name: n for name, n in counts.items() if n > MAX_LINES[Path(name).suffix]} == {}


def test_nothing_is_left_unfinished() -> None:
    found = [
        f"{ids(p)}:{n}"
        for p in FILES
        for n, line in enumerate(p.read_text().splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert found == []


def test_the_gateway_has_no_stubs() -> None:
    found = [ids(p) for p in code("gateway") if "NotImplementedError" in p.read_text()]
    assert found == []


def test_no_path_of_a_certain_machine() -> None:
    found = [
        f"{ids(p)}:{n}" for p in FILES for n, line in enumerate(p.read_text().splitlines(), 1) if HOME.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("line", ["# " + "TO" + "DO later", "x = '/home" + "/bob/x'", "see /wo" + "rk/main"])
def test_the_checks_of_text_can_fail(line: str) -> None:
    assert UNFINISHED.search(line) or HOME.search(line)


def test_every_module_says_what_it_is_for() -> None:
    missing = [
        ids(p) for p in code("gateway", "bench", "load", "tests") if not ast.get_docstring(ast.parse(p.read_text()))
    ]
    # an empty __init__ has nothing to say
    assert [name for name in missing if (ROOT / name).stat().st_size] == []


def test_every_module_of_the_core_has_a_docstring_of_its_own() -> None:
    missing = [p.name for p in (ROOT / "ext").glob("*.pyx") if not p.read_text().lstrip().startswith(('"""', "#", "'"))]
    assert missing == []


def test_no_vague_names() -> None:
    found = [ids(p) for p in FILES if VAGUE & set(re.split(r"[_\W]+", p.stem.lower()))]
    assert found == []


def test_test_files_have_names_of_their_own() -> None:
    # without packages two files of one name hide each other
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name not in ("conftest.py", "__init__.py")]
    assert sorted(names) == sorted(set(names))


def test_tests_do_not_sleep() -> None:
    sleeping = re.compile(r"\btime\.sleep\(|from time import .*\bsleep\b")
    own = Path(__file__).name
    found = [ids(p) for p in code("tests") if p.name != own and sleeping.search(p.read_text())]
    assert found == []


def test_no_test_is_skipped_or_expected_to_fail() -> None:
    skipping = re.compile(r"pytest\.(mark\.)?(skip|skipif|xfail)\b|unittest\.skip")
    own = Path(__file__).name
    # but for a server of others that is not installed: then the reason names its package
    allowed = re.compile(r"pytest\.mark\.skipif\([^\n]* reason=f?\"[^\n]*apt install")
    found = [
        ids(p)
        for p in code("tests")
        if p.name != own and len(skipping.findall(text := p.read_text())) > len(allowed.findall(text))
    ]
    assert found == []
