"""Reads the configuration: defaults < TOML file < environment < flags; must never guess at what it can not place.

All problems are found in one go, each with the field, the place it came from, what was given and what is allowed.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gateway.config.check import conflicts
from gateway.config.sections import Config
from gateway.config.settings import ENV_PREFIX, Section, Setting, describe, find_section
from gateway.model.errors import ConfigError

CONFIG_VARIABLE = "HELIOGRAPH_CONFIG"
#: read by the command line, not settings
RESERVED = {CONFIG_VARIABLE, "HELIOGRAPH_KEY", "HELIOGRAPH_URL"}
TRUE, FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}
MAX_FILE_BYTES = 1_048_576
#: what Kubernetes puts into the environment for a service that is called heliograph
_SERVICE_VARIABLE = re.compile(r"HELIOGRAPH(_\w+)?_(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_\w+)")


class Problem(NamedTuple):
    """One thing wrong with the configuration."""

    field: str  # dotted, or empty
    text: str
    origin: str  # file and line, variable or flag

    def __str__(self) -> str:
        return f"{self.field or 'configuration'}: {self.text}" + (f" ({self.origin})" if self.origin else "")


class InvalidConfig(ConfigError):
    """ConfigError with every problem found; the message has one line for each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)), field=problems[0].field)
        self.problems = list(problems)


def load(
    path: Path | str | None = None, *, environ: Mapping[str, str] | None = None, overrides: Iterable[str] = ()
) -> Config:
    """The configuration in force; `overrides` are `section.field=value` texts. Raises ConfigError with all problems.

    `path` None takes $HELIOGRAPH_CONFIG, and no file where that is empty.
    """
    environ = os.environ if environ is None else environ
    path = path or environ.get(CONFIG_VARIABLE) or None
    loader = _Loader()
    if path is not None:
        loader.read_file(Path(path))
    loader.read_environment(environ)
    loader.read_overrides(overrides)
    loader.problems += loader.find_conflicts()
    if loader.problems:
        raise InvalidConfig(loader.problems)
    return loader.config


class _Loader:
    def __init__(self) -> None:
        self.config = Config()
        self.problems: list[Problem] = []
        self.origins: dict[str, str] = {}

    def read_file(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
        except OSError as exc:
            self._problem("", f"cannot read the file: {exc.strerror or exc}", str(path))
            return
        if len(raw) > MAX_FILE_BYTES:
            self._problem("", f"the file is larger than {MAX_FILE_BYTES:_} bytes", str(path))
            return
        try:
            text = raw.decode("utf-8")
            tables = tomllib.loads(text)
        except UnicodeDecodeError as exc:
            self._problem("", f"the file is not UTF-8 (byte {exc.start})", str(path))
            return
        except tomllib.TOMLDecodeError as exc:
            self._problem("", f"not valid TOML: {exc}", str(path))
            return
        lines = _lines(text)
        for name, table in tables.items():
            self._read_table(name, table, lambda field: _place(path, lines, field))

    def _read_table(self, name: str, table: Any, place: Any) -> None:
        section = find_section(name)
        if section is None:
            hint = _meant(name, [s.name for s in describe()])
            owners = [s.name for s in describe() if s.find(name)]
            if owners and not isinstance(table, dict):
                hint = "; a setting belongs under a section: " + " or ".join(f"[{o}] {name}" for o in owners)
            self._problem(name, "there is no such section" + hint, place(name))
            return
        if not isinstance(table, dict):
            self._problem(name, f"is a section, write [{name}] and its settings below", place(name))
            return
        for key, value in table.items():
            field = f"{name}.{key}"
            setting = self._setting(section, key, place(field))
            if setting is not None:
                self._set(setting, *_typed(setting, value), origin=place(field))

    def read_environment(self, environ: Mapping[str, str]) -> None:
        for variable in sorted(environ):
            if not variable.startswith(ENV_PREFIX) or variable in RESERVED:
                continue
            value, origin = environ[variable], f"environment {variable}"
            # HELIOGRAPH_EDGE_PORT is ours, unless it holds a service's address
            is_address = variable.endswith("_PORT") and value.startswith(("tcp://", "udp://"))
            if is_address or _SERVICE_VARIABLE.fullmatch(variable):
                continue
            rest = variable.removeprefix(ENV_PREFIX).lower()
            name, _, key = rest.partition("_")
            section = find_section(name)
            if section is None:
                known = [s.env for sec in describe() for s in sec.settings]
                self._problem("", "names no setting" + _meant(variable, known), origin)
                continue
            setting = self._setting(section, key, origin)
            if setting is not None:
                self._set(setting, *_parsed(setting, value), origin=origin)

    def read_overrides(self, overrides: Iterable[str]) -> None:
        for text in overrides:
            path, equals, value = text.partition("=")
            path = path.strip()
            name, dot, key = path.partition(".")
            origin = f"--set {path}"
            if not (equals and dot and key):
                self._problem("", f"{text!r} is not section.field=value", "--set")
                continue
            section = find_section(name)
            if section is None:
                self._problem(path, "there is no such section" + _meant(name, [s.name for s in describe()]), origin)
                continue
            setting = self._setting(section, key, origin)
            if setting is not None:
                self._set(setting, *_parsed(setting, value.strip()), origin=origin)

    def find_conflicts(self) -> list[Problem]:
        """Rules between settings that are broken, less those that may be broken only because something could not be
        read: a setting that was refused has its default here."""
        refused = {problem.field for problem in self.problems}
        if "" in refused:  # a whole file, or who knows which setting
            return []
        unknown = {field.partition(".")[0] for field in refused if _find(field) is None}
        return [
            Problem(field, text, self.origins.get(field, ""))
            for field, text in conflicts(self.config)
            if field not in refused
            and field.partition(".")[0] not in unknown
            and not any(re.search(rf"\b{re.escape(path)}\b", text) for path in refused)
        ]

    def _setting(self, section: Section, key: str, origin: str) -> Setting | None:
        setting = section.find(key)
        if setting is None:
            elsewhere = [s.name for s in describe() if s.find(key)]
            hint = _meant(key, [s.name for s in section.settings])
            if elsewhere:
                hint = f"; did you mean {elsewhere[0]}.{key}?"
            self._problem(f"{section.name}.{key}", "there is no such setting" + hint, origin)
        return setting

    def _set(self, setting: Setting, value: Any, wrong: str, *, origin: str) -> None:
        wrong = wrong or _out_of_range(setting, value)
        if wrong:
            self._problem(setting.path, f"{wrong}; allowed is {setting.allowed}", origin)
            return
        setattr(getattr(self.config, setting.section), setting.name, value)
        self.origins[setting.path] = origin

    def _problem(self, field: str, text: str, origin: str) -> None:
        self.problems.append(Problem(field, text, origin))


def _find(field: str) -> Setting | None:
    name, _, key = field.partition(".")
    section = find_section(name)
    return None if section is None else section.find(key)


def _typed(setting: Setting, value: Any) -> tuple[Any, str]:
    """(value, "") where the TOML value has the setting's type, else (None, what is wrong)."""
    kind = setting.kind
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1 << 64 else float("inf")
    wanted: type[Any] = {"int": int, "float": float, "bool": bool, "str": str, "choice": str, "list": list}[kind]
    if not isinstance(value, wanted) or (kind == "int" and isinstance(value, bool)):
        return None, f"{_shown(value)} is {_noun(value)}"
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        return None, f"{_shown(value)} has items that are not text"
    return value, ""


def _parsed(setting: Setting, text: str) -> tuple[Any, str]:
    """The same for text from the environment or a flag."""
    match setting.kind:
        case "bool":
            word = text.strip().lower()
            if word in TRUE or word in FALSE:
                return word in TRUE, ""
            return None, f"{_shown(text)} is neither yes nor no"
        case "int" | "float":
            try:
                return (int(text) if setting.kind == "int" else float(text)), ""
            except ValueError:
                return None, f"{_shown(text)} is not a{' whole' if setting.kind == 'int' else ''} number"
        case "list":
            listed = _json_list(text)
            if listed is not None:
                return _typed(setting, listed)
            return [item.strip() for item in text.split(",") if item.strip()], ""
    return text, ""


def _json_list(text: str) -> list[Any] | None:
    """As people who know the file write it; None where it is no JSON: `[::1]:7480` begins like one."""
    if not text.lstrip().startswith("["):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _out_of_range(setting: Setting, value: Any) -> str:
    if setting.kind in ("int", "float"):
        low, high = setting.low or 0, setting.high
        # written so that a NaN is refused too
        if not (value >= low and (high is None or value <= high) and value != float("inf")):
            return f"{value} is out of range"
    elif setting.kind == "choice" and value not in setting.words:
        return f"{_shown(value)} is not known" + _meant(value, setting.words)
    elif setting.kind == "list" and setting.words:
        for item in value:
            if item not in setting.words:
                return f"{_shown(item)} is not known" + _meant(item, setting.words)
    elif setting.kind == "str" and "\x00" in value:
        return "the text holds a NUL character"
    return ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _noun(value: Any) -> str:
    nouns = {
        bool: "a yes or no",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a table",
    }
    return nouns.get(type(value), "a date or time")


def _meant(given: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


_HEADER = re.compile(r"\s*\[\s*\"?([\w-]+)\"?\s*\]")
_KEY = re.compile(r"\s*\"?([\w-]+)\"?(?:\s*\.\s*\"?([\w-]+)\"?)?\s*=")


def _lines(text: str) -> dict[str, int]:
    """Where sections and fields stand, as far as a glance at each line tells (tomllib keeps no positions)."""
    found: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            section = header[1]
            found.setdefault(section, number)
        elif key := _KEY.match(line):
            path = ".".join(part for part in (section, key[1], key[2]) if part)
            found.setdefault(path, number)
            if not section:
                found.setdefault(key[1], number)
    return found


def _place(path: Path, lines: Mapping[str, int], field: str) -> str:
    line = lines.get(field) or lines.get(field.partition(".")[0])
    return f"{path}, line {line}" if line else str(path)
