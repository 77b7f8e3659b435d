"""Describes every setting (type, range, default, meaning) by reading the modules that hold the sections;
must never hold a value in use.

The explanations are the comments of both, read from their source, which ships in the wheel.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gateway.config import cluster_section, im_section, operator_sections, ota_section, sections
from gateway.config.sections import Config

ENV_PREFIX = "HELIOGRAPH_"


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of one section."""

    section: str
    name: str
    kind: str  # int, float, bool, str, choice, list
    default: Any
    meaning: str
    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """`edge.port`"""
        return f"{self.section}.{self.name}"

    @property
    def env(self) -> str:
        """`HELIOGRAPH_EDGE_PORT`"""
        return f"{ENV_PREFIX}{self.section}_{self.name}".upper()

    @property
    def allowed(self) -> str:
        """What may stand there, in words."""
        if self.kind == "bool":
            return "true or false"
        if self.kind == "choice":
            return "one of " + ", ".join(self.words)
        if self.kind == "list":
            return "a list of text" + (", each one of " + ", ".join(self.words) if self.words else "")
        if self.kind == "str":
            return "text"
        noun = "a whole number" if self.kind == "int" else "a number"
        if self.high is None:
            return f"{noun}, {self.low:_} or more"
        return f"{noun} from {self.low:_} to {self.high:_}"


@dataclass(frozen=True, slots=True)
class Section:
    """One section with its settings in order."""

    name: str
    meaning: str
    settings: tuple[Setting, ...]

    def find(self, name: str) -> Setting | None:
        return next((s for s in self.settings if s.name == name), None)


@cache
def describe() -> tuple[Section, ...]:
    """Every section in the order of `Config`."""
    comments = _comments()
    return tuple(_section(f.name, f.default_factory, comments) for f in fields(Config))  # type: ignore[arg-type]


def settings() -> Iterator[Setting]:
    for section in describe():
        yield from section.settings


def find_section(name: str) -> Section | None:
    return next((s for s in describe() if s.name == name), None)


def _section(name: str, cls: type, comments: dict[tuple[str, str], str]) -> Section:
    hints: dict[str, Any] = get_type_hints(cls)
    found = tuple(_setting(name, f, hints[f.name], comments[cls.__name__, f.name]) for f in fields(cls))
    return Section(name, inspect.cleandoc(cls.__doc__ or ""), found)


def _setting(section: str, f: Field[Any], hint: Any, meaning: str) -> Setting:
    default = f.default_factory() if f.default_factory is not MISSING else f.default
    meta = f.metadata
    if get_origin(hint) is Literal:
        return Setting(section, f.name, "choice", default, meaning, words=get_args(hint))
    if get_origin(hint) is list:
        return Setting(section, f.name, "list", default, meaning, words=meta.get("words", ()))
    if hint in (int, float):
        return Setting(section, f.name, hint.__name__, default, meaning, meta.get("low", 0), meta.get("high"))
    if hint in (bool, str):
        return Setting(section, f.name, hint.__name__, default, meaning)
    raise TypeError(f"{section}.{f.name}: the loader does not know the type {hint}")


def _comments() -> dict[tuple[str, str], str]:
    """(class, field) → the comment lines right above the field, joined."""
    found: dict[tuple[str, str], str] = {}
    for module in (sections, operator_sections, ota_section, im_section, cluster_section):
        found |= _comments_of(inspect.getsource(module))
    return found


def _comments_of(source: str) -> dict[tuple[str, str], str]:
    lines = source.splitlines()
    out: dict[tuple[str, str], str] = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                above: list[str] = []
                at = item.lineno - 2
                while at >= 0 and lines[at].strip().startswith("#"):
                    above.insert(0, lines[at].strip().lstrip("#").strip())
                    at -= 1
                out[node.name, item.target.id] = " ".join(above)
    return out


def build_value(value: Any) -> str:
    """A value as TOML (what JSON writes for text, numbers and lists of text is TOML too)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:_}" if value >= 100_000 else str(value)
    return json.dumps(value, ensure_ascii=False)


def build_toml(config: Config | None = None) -> str:
    """A commented TOML file that loads back equal to `config` (default: the defaults)."""
    config = config or Config()
    out = [
        "# Heliograph configuration. Every setting is here with its value; what is left out keeps its default.",
        "# Later wins: this file < HELIOGRAPH_<SECTION>_<FIELD> in the environment < flags (--set section.field=...).",
    ]
    for section in describe():
        out += ["", "", *_comment(section.meaning), f"[{section.name}]"]
        values = getattr(config, section.name)
        for setting in section.settings:
            allowed = [] if setting.kind == "str" else [f"# = {setting.allowed}"]
            out += [
                "",
                *_comment(setting.meaning),
                *allowed,
                f"{setting.name} = {build_value(getattr(values, setting.name))}",
            ]
    return "\n".join(out) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 118, initial_indent="# ", subsequent_indent="# ")


def build_page() -> str:
    """`docs/config.md`: a table for each section."""
    out = [
        "# Configuration",
        "",
        "<!-- Generated from gateway/config/sections.py: edit that file, then run `make docs`. -->",
        "",
        "Later wins: defaults, then a TOML file (`--config FILE`, or `$HELIOGRAPH_CONFIG`), then the environment,",
        "then flags (`--set edge.port=7400`, as often as needed). An unknown name, a wrong type or a value out of",
        "range stops the start with exit code 2 and a message that names the field, the place it came from and what",
        "is allowed. `heliograph check-config` says the same without starting; `heliograph default-config` prints a",
        "file to begin with.",
        "",
        "In the environment and after `--set` a list is written with commas (`ES256,EdDSA`) or as in JSON",
        """(`--set 'edge.proxy_trusted=["10.0.0.0/24", "10.0.1.0/24"]'`), a yes or no as `true` or `false`.""",
    ]
    for section in describe():
        out += ["", f"## [{section.name}]", "", section.meaning, ""]
        out += ["| name | type | default | environment | meaning |", "|---|---|---|---|---|"]
        for s in section.settings:
            out.append(f"| `{s.name}` | {s.allowed} | `{build_value(s.default)}` | `{s.env}` | {s.meaning} |")
    return "\n".join(out) + "\n"
