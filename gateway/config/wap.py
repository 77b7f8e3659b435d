"""Reads what `wap` names: the push proxy gateway and the login there; must never keep or repeat a password.

What is wrong is a ConfigError that names the setting and the fix, for `check-config` as for the start.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from gateway.config.operator_sections import Wap
from gateway.config.secret_files import build_refusal, read_line
from gateway.config.sections import Config
from gateway.model.errors import ConfigError

#: characters of a user and of a password; a colon would end the user (RFC 7617 §2)
MOST_CHARS = 256
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,31}")


@dataclass(frozen=True, slots=True)
class Ppg:
    """A push proxy gateway and how to log in there."""

    url: str
    host: str
    is_tls: bool
    name: str  # what it calls itself in addresses
    user: str
    password_file: str
    password: str = field(repr=False)


def read_ppg(wap: Wap) -> Ppg | None:
    """None where `wap.ppg` is empty. ConfigError. Reads disk: not for the loop."""
    for name in ("ppg_network", "ppg_bearer"):
        token = getattr(wap, name)
        if token and not _TOKEN.fullmatch(token):
            raise ConfigError(f"{token!r} is no token, as GSM or SMS", field=f"wap.{name}")
    if not wap.ppg:
        return None
    try:
        parts = urlsplit(wap.ppg)
        host, has_login = parts.hostname or "", parts.username is not None
        usable = parts.scheme in ("http", "https") and host and (parts.port is None or parts.port > 0)
        usable = usable and wap.ppg.isascii() and wap.ppg.isprintable() and " " not in wap.ppg
    except ValueError:
        usable, host, has_login, parts = False, "", False, urlsplit("")
    if not usable or has_login or parts.query or parts.fragment:
        # the URL itself is not repeated: who errs here may have written a password
        raise ConfigError(
            "is no URL of a PPG; write it as https://ppg.example.net/wappush, and the login into ppg_user and"
            " ppg_password_file",
            field="wap.ppg",
        )
    name = wap.ppg_name or host
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no host name; say what the PPG calls itself", field="wap.ppg_name")
    if wap.ppg_ca and not Path(wap.ppg_ca).is_file():
        raise ConfigError(f"there is no file {wap.ppg_ca!r}", field="wap.ppg_ca")
    if not wap.ppg_user:
        if wap.ppg_password_file:
            raise ConfigError("is empty, and there is a password; name the user", field="wap.ppg_user")
        return Ppg(wap.ppg, host, parts.scheme == "https", name, "", "", "")
    if ":" in wap.ppg_user or not wap.ppg_user.isprintable() or len(wap.ppg_user) > MOST_CHARS:
        raise ConfigError("has a colon or control characters, or is too long", field="wap.ppg_user")
    password = _read_password(wap.ppg_password_file)
    return Ppg(wap.ppg, host, parts.scheme == "https", name, wap.ppg_user, wap.ppg_password_file, password)


def _read_password(file: str) -> str:
    setting = "wap.ppg_password_file"
    what = f"password: 1 to {MOST_CHARS} characters on one line"
    # a character is at most four bytes
    line = read_line(
        file, setting, most=4 * MOST_CHARS, what=what, otherwise="wap.ppg_user needs a password: name its file"
    )
    text = line.decode(errors="replace")
    if len(text) > MOST_CHARS or not text.isprintable() or "\ufffd" in text:
        raise build_refusal(file, setting, what)
    return text


def conflicts(config: Config) -> list[tuple[str, str]]:
    """(field, what is wrong), as gateway.config.check has it."""
    found: list[tuple[str, str]] = []
    try:
        read_ppg(config.wap)
    except ConfigError as exc:
        found.append((exc.field, exc.message))
    most_s = config.delivery.notifier_timeout_s
    if config.wap.ppg and config.wap.ppg_timeout_s >= most_s:
        found.append(("wap.ppg_timeout_s", f"is not shorter than delivery.notifier_timeout_s = {most_s:_}"))
    return found


def advice(config: Config, is_loopback: Callable[[str], bool]) -> list[tuple[str, str]]:
    """(field, what to think about); of a section without conflicts."""
    from gateway.config.certificates import is_open_to_others

    ppg = read_ppg(config.wap)
    if ppg is None:
        return []
    found: list[tuple[str, str]] = []
    if not ppg.is_tls and not is_loopback(ppg.host):
        found.append(("wap.ppg", "is plain HTTP: numbers, texts and the password travel on it; use https"))
    if ppg.password_file and is_open_to_others(ppg.password_file):
        found.append(
            ("wap.ppg_password_file", f"{ppg.password_file!r} may be read by anybody on this machine: chmod 600")
        )
    return found
