"""Which module of gateway/ needs which when it is imported, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def find_modules() -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        if path.name == "__main__.py":
            continue  # a command, not a module
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def find_packages_above(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts))}


def _imports(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Those that run when the module is loaded."""
    for statement in body:
        match statement:
            case ast.Import() | ast.ImportFrom():
                yield statement
            case ast.If():
                if "TYPE_CHECKING" not in ast.unparse(statement.test):
                    yield from _imports(statement.body)
                yield from _imports(statement.orelse)
            case ast.Try():
                for part in (statement.body, statement.orelse, statement.finalbody):
                    yield from _imports(part)
                for handler in statement.handlers:
                    yield from _imports(handler.body)
            case ast.ClassDef() | ast.With():
                yield from _imports(statement.body)


def build_graph(modules: dict[str, Path]) -> dict[str, set[str]]:
    """Module → those it names, and the packages that these lie in. The packages that it lies in itself are loaded
    before it in any case, so they are there only where it names them."""
    graph = {}
    for name, path in modules.items():
        named: set[str] = set()
        for statement in _imports(ast.parse(path.read_text()).body):
            if isinstance(statement, ast.Import):
                named |= {each.name for each in statement.names}
            else:
                assert statement.level == 0, f"{name}: names what it imports from its place"
                named |= {f"{statement.module}.{each.name}" for each in statement.names} | {str(statement.module)}
        named &= modules.keys()
        for each in tuple(named):
            named |= find_packages_above(each) - find_packages_above(name)
        graph[name] = named - {name}
    return graph


def find_rings(graph: dict[str, set[str]]) -> set[str]:
    """Modules that need themselves by way of others."""
    reach = {name: set(needs) for name, needs in graph.items()}
    is_growing = True
    while is_growing:
        is_growing = False
        for needs in reach.values():
            before = len(needs)
            for each in tuple(needs):
                needs |= reach[each]
            is_growing |= len(needs) > before
    return {name for name, needs in reach.items() if name in needs}
