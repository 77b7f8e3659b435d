"""Each module stands alone, and each compiled one is what its stub says."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from import_graph import build_graph, find_modules, find_rings

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gateway"
NATIVE = sorted(path.stem for path in (ROOT / "ext").glob("*.pyx"))

#: imports each module named on stdin with none of gateway/ loaded; prints {module: error}
ALONE = """
import importlib, json, sys
failed = {}
for name in json.load(sys.stdin):
    # a compiled module can be loaded once a process; it imports nothing of gateway, so it may stay
    for loaded in [m for m in sys.modules if m.split(".")[0] == "gateway" and not m.startswith("gateway._native")]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except Exception as exc:
        failed[name] = f"{type(exc).__name__}: {exc}"
print(json.dumps(failed))
"""


def import_alone(names: list[str]) -> dict[str, str]:
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE],
        input=json.dumps(names),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    failed: dict[str, str] = json.loads(process.stdout)
    return failed


def test_every_module_can_be_imported_alone() -> None:
    """What is in no ring can be loaded alone where it can be loaded at all; what is in one is loaded alone."""
    modules = find_modules()
    rings = find_rings(build_graph(modules))
    assert len(rings) < 40, sorted(rings)
    assert import_alone(["gateway.app", *sorted(rings)]) == {}
    together = f"import importlib; [importlib.import_module(name) for name in {sorted(modules)!r}]"
    loaded = subprocess.run(
        [sys.executable, "-W", "error", "-c", together], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert loaded.returncode == 0, loaded.stderr


def test_a_ring_of_imports_is_seen() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}
    assert find_rings(graph) == {"b", "c"}


def stub_of(name: str) -> Path:
    return PACKAGE / "_native" / f"{name}.pyi"


def stub_names(tree: ast.Module | ast.ClassDef) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def runtime_names(name: str) -> set[str]:
    module = importlib.import_module(f"gateway._native.{name}")
    return {
        attribute
        for attribute, value in vars(module).items()
        if not attribute.startswith("_")
        and not inspect.ismodule(value)
        # what a module imports for itself is not its own
        and getattr(value, "__module__", module.__name__) == module.__name__
    }


@pytest.mark.parametrize("name", NATIVE)
def test_a_stub_names_what_is_there(name: str) -> None:
    stub = stub_of(name)
    if not stub.exists():
        assert runtime_names(name) == set(), f"{stub.name} is missing, and the module has public names"
        return
    assert stub_names(ast.parse(stub.read_text())) == runtime_names(name)


@pytest.mark.parametrize("name", [name for name in NATIVE if stub_of(name).exists()])
def test_a_stub_names_every_method(name: str) -> None:
    module = importlib.import_module(f"gateway._native.{name}")
    for node in ast.parse(stub_of(name).read_text()).body:
        if isinstance(node, ast.ClassDef):
            cls = getattr(module, node.name)
            there = {attribute for attribute in vars(cls) if not attribute.startswith("_")}
            assert stub_names(node) == there, node.name


@pytest.mark.parametrize("path", sorted((PACKAGE / "_native").glob("*.pyi")), ids=lambda path: path.name)
def test_no_stub_is_without_its_source(path: Path) -> None:
    assert path.stem in NATIVE


def test_compiled_modules_keep_the_gil_off() -> None:
    # freethreading_compatible is a promise of the build; a module that broke it would switch the GIL back on
    if not hasattr(sys, "_is_gil_enabled"):
        assert sys.version_info < (3, 13)
        return
    before = sys._is_gil_enabled()
    for name in NATIVE:
        importlib.import_module(f"gateway._native.{name}")
    assert sys._is_gil_enabled() == before
