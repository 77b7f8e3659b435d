"""Reads what `wap` names: the push proxy gateway and the login there; must never keep or repeat a password.

What is wrong is a ConfigError that names the setting and the fix, for `check-config` as for the start.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from gateway.config.operator_sections import Wap
from gateway.config.problems import collect, described, raise_first
from gateway.config.secret_files import build_refusal, read_line
from gateway.config.sections import Config
from gateway.model.errors import ConfigError
from gateway.model.public_addresses import is_loopback

#: characters of a user and of a password; a colon would end the user (RFC 7617 §2)
MOST_CHARS = 256
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
#: a space stands between words alone, as in IS-95 CDMA
_TOKEN = re.compile(r"(?=.{1,32}$)[A-Za-z0-9][A-Za-z0-9_.-]*( [A-Za-z0-9_.-]+)*")


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
    raise_first(_check(wap))
    if not wap.ppg:
        return None
    parts = urlsplit(wap.ppg)
    host = parts.hostname or ""
    file = wap.ppg_password_file if wap.ppg_user else ""
    password = _read_password(file) if wap.ppg_user else ""
    return Ppg(wap.ppg, host, parts.scheme == "https", wap.ppg_name or host, wap.ppg_user, file, password)


def _check(wap: Wap) -> list[ConfigError]:
    """All that is wrong."""
    checks: list[Callable[[], object]] = [partial(_check_token, wap, name) for name in ("ppg_network", "ppg_bearer")]
    if wap.ppg:
        checks += [partial(each, wap) for each in (_check_url, _check_ppg_name, _check_authorities, _check_user)]
        if wap.ppg_user:
            checks.append(partial(_read_password, wap.ppg_password_file))
    return collect(checks)


def _check_token(wap: Wap, name: str) -> None:
    token = getattr(wap, name)
    if token and not _TOKEN.fullmatch(token):
        raise ConfigError(f"{token!r} is no token, as GSM or SMS", field=f"wap.{name}")


def _check_url(wap: Wap) -> None:
    try:
        parts = urlsplit(wap.ppg)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
        usable = usable and wap.ppg.isascii() and wap.ppg.isprintable() and " " not in wap.ppg
        usable = usable and parts.username is None and not parts.query and not parts.fragment
    except ValueError:
        usable = False
    if not usable:
        # the URL itself is not repeated: who errs here may have written a password
        raise ConfigError(
            "is no URL of a PPG; write it as https://ppg.example.net/wappush, and the login into ppg_user and"
            " ppg_password_file",
            field="wap.ppg",
        )


def _check_ppg_name(wap: Wap) -> None:
    try:
        name = wap.ppg_name or urlsplit(wap.ppg).hostname or ""
    except ValueError:
        return  # of the URL it is said already
    if name and not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no host name; say what the PPG calls itself", field="wap.ppg_name")


def _check_authorities(wap: Wap) -> None:
    if wap.ppg_ca and not Path(wap.ppg_ca).is_file():
        raise ConfigError(f"there is no file {wap.ppg_ca!r}", field="wap.ppg_ca")


def _check_user(wap: Wap) -> None:
    if not wap.ppg_user and wap.ppg_password_file:
        raise ConfigError("is empty, and there is a password; name the user", field="wap.ppg_user")
    if ":" in wap.ppg_user or len(wap.ppg_user) > MOST_CHARS or not wap.ppg_user.isprintable():
        raise ConfigError("has a colon or control characters, or is too long", field="wap.ppg_user")


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
    found = described(_check(config.wap))
    most_s = config.delivery.notifier_timeout_s
    if config.wap.ppg and config.wap.ppg_timeout_s >= most_s:
        found.append(("wap.ppg_timeout_s", f"is not shorter than delivery.notifier_timeout_s = {most_s:_}"))
    return found


def advice(config: Config) -> list[tuple[str, str]]:
    """(field, what to think about); of a section without conflicts."""
    from gateway.config.certificates import is_open_to_others

    ppg, found = read_ppg(config.wap), list[tuple[str, str]]()
    for name in ("ppg_network", "ppg_bearer"):
        token = getattr(config.wap, name)
        if " " in token:
            words = f"{token!r} has a space, which few tokens of WAP-259 have; most read as GSM or SMS do"
            found.append((f"wap.{name}", words))
    if ppg is None:
        unused = [f"wap.{name}" for name in ("ppg_user", "ppg_password_file") if getattr(config.wap, name)]
        if unused:
            words = (
                f"is empty, so {' and '.join(unused)} are not used; name the PPG, as https://ppg.example.net/wappush"
            )
            found.append(("wap.ppg", words))
        return found
    if not ppg.is_tls and not is_loopback(ppg.host):
        found.append(("wap.ppg", "is plain HTTP: numbers, texts and the password travel on it; use https"))
    if ppg.password_file and is_open_to_others(ppg.password_file):
        found.append(
            ("wap.ppg_password_file", f"{ppg.password_file!r} may be read by anybody on this machine: chmod 600")
        )
    return found
