"""Reads what `paging` names: SMSCs, their passwords, hosts and senders; must never keep or repeat a password.

What is wrong is a ConfigError that names the setting and the fix, for `check-config` as for the start.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from gateway.config.operator_sections import Paging
from gateway.config.problems import collect, described, raise_first
from gateway.config.secret_files import build_refusal, read_line
from gateway.config.sections import Config
from gateway.model.errors import ConfigError
from gateway.model.public_addresses import is_loopback

#: SMPP 3.4 §5.2.1 and §5.2.2, without their NUL
SYSTEM_ID_CHARS, PASSWORD_CHARS, SYSTEM_TYPE_CHARS = 15, 8, 12
MOST_SMSCS = 16
#: 3GPP TS 23.040 §9.1.2.5: 11 characters of the 7-bit alphabet, or the digits of a number
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,10}")
_NUMBER = re.compile(r"\+?[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class Smsc:
    """One SMSC and how to log in there."""

    name: str  # host:port, for logs and metrics
    host: str
    port: int
    tls: bool
    system_id: str
    password_file: str
    password: str = field(repr=False)


def parse_host(text: str, setting: str, *, example: str = "hlr.example.net:4259") -> tuple[str, int]:
    """host:port; an IPv6 address stands in brackets."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
        usable = bool(host and port) and not (parts.path or parts.query or parts.fragment or parts.username)
    except ValueError:
        usable, host, port = False, None, None
    if not usable or not host or not port:
        raise ConfigError(f"{text!r} is no host:port, as in {example}", field=setting)
    return host, port


def parse_source(text: str, setting: str) -> str:
    """A sender as it may stand in a message; empty: the SMSC's own."""
    if text and not _NUMBER.fullmatch(text) and not _NAME.fullmatch(text):
        raise ConfigError(
            f"{text!r} is no sender: give a number, or at most 11 letters, digits, spaces, dots, lines", field=setting
        )
    return text


def read_smscs(paging: Paging) -> list[Smsc]:
    """Each entry of `paging.smscs` with its password; ConfigError. Reads disk: not for the loop."""
    found, errors = _read_all(paging)
    raise_first(errors)
    return found


def _read_all(paging: Paging) -> tuple[list[Smsc], list[ConfigError]]:
    """What can be used, and all that can not."""
    if len(paging.smscs) > MOST_SMSCS:
        words = f"has {len(paging.smscs)} entries; at most {MOST_SMSCS}"
        return [], [ConfigError(words, field="paging.smscs")]
    found: list[Smsc] = []

    def check_type() -> None:
        if len(paging.smsc_system_type) > SYSTEM_TYPE_CHARS or not paging.smsc_system_type.isascii():
            raise ConfigError(f"has at most {SYSTEM_TYPE_CHARS} ASCII characters", field="paging.smsc_system_type")

    def check_authorities() -> None:
        if paging.smsc_ca and not Path(paging.smsc_ca).is_file():
            raise ConfigError(f"there is no file {paging.smsc_ca!r}", field="paging.smsc_ca")

    def check_entry(place: int, entry: str) -> None:
        found.append(_read_smsc(place, entry, paging.smsc_password_file))

    entries = [partial(check_entry, place, entry) for place, entry in enumerate(paging.smscs, 1)]
    errors = collect([check_type, check_authorities, *entries])
    if len({smsc.name for smsc in found}) < len(found):
        errors.append(ConfigError("names one host:port twice; give it a larger smsc_window", field="paging.smscs"))
    return found, errors


def _read_smsc(place: int, entry: str, password_file: str) -> Smsc:
    setting = "paging.smscs"
    try:
        parts = urlsplit(entry)
        query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
        host, port, system_id = parts.hostname, parts.port, unquote(parts.username or "")
        usable = parts.scheme in ("smpp", "smpps") and bool(host) and bool(system_id)
        usable = usable and not (parts.path.strip("/") or parts.fragment) and not set(query) - {"password_file"}
    except ValueError:
        usable, host, port, system_id, query = False, None, None, "", {}
    if not usable or not host or parts.password is not None:
        # named by its place and not repeated: who errs here may have written a password
        raise ConfigError(
            f"entry {place} is no SMSC; write it as smpp://system_id@smsc.example.net:2775, and the password into"
            " smsc_password_file or ?password_file=",
            field=setting,
        )
    if len(system_id) > SYSTEM_ID_CHARS or not system_id.isascii():
        raise ConfigError(
            f"entry {place}: system_id {system_id!r} has more than {SYSTEM_ID_CHARS} ASCII characters", field=setting
        )
    port = port or (3550 if parts.scheme == "smpps" else 2775)
    name = f"{host}:{port}"
    file = query["password_file"][0] if "password_file" in query else password_file
    field_name = setting if "password_file" in query else "paging.smsc_password_file"
    return Smsc(name, host, port, parts.scheme == "smpps", system_id, file, _read_password(file, name, field_name))


def _read_password(file: str, name: str, setting: str) -> str:
    what = f"SMPP password: 1 to {PASSWORD_CHARS} ASCII characters on one line (SMPP 3.4 §5.2.2)"
    line = read_line(file, setting, most=PASSWORD_CHARS, what=what, otherwise=f"{name} needs a password: name its file")
    if not line.isascii():
        raise build_refusal(file, setting, what)
    return line.decode()


def conflicts(config: Config) -> list[tuple[str, str]]:
    """(field, what is wrong), as gateway.config.check has it."""
    paging = config.paging
    found = described(_read_all(paging)[1])
    found += described(
        collect(
            (
                lambda: parse_source(paging.sms_source, "paging.sms_source"),
                lambda: parse_host(paging.hlr, "paging.hlr") if paging.hlr else None,
            )
        )
    )
    most_s = config.delivery.notifier_timeout_s
    for name in ("smsc_answer_s", "hlr_timeout_s"):
        if paging.smscs and getattr(paging, name) >= most_s:
            found.append((f"paging.{name}", f"is not shorter than delivery.notifier_timeout_s = {most_s:_}"))
    if paging.smsc_reconnect_s > paging.smsc_reconnect_max_s:
        found.append(("paging.smsc_reconnect_s", "is more than paging.smsc_reconnect_max_s"))
    return found


def advice(config: Config) -> list[tuple[str, str]]:
    """(field, what to think about); of a section without conflicts."""
    from gateway.config.certificates import is_open_to_others

    found: list[tuple[str, str]] = []
    for smsc in read_smscs(config.paging):
        if not smsc.tls and not is_loopback(smsc.host):
            found.append(("paging.smscs", f"{smsc.name} is plain SMPP: numbers and texts travel on it; use smpps"))
        if is_open_to_others(smsc.password_file):
            found.append(("paging.smscs", f"{smsc.password_file!r} may be read by anybody on this machine: chmod 600"))
    return found
