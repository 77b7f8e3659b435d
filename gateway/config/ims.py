"""Reads what `ims` names: SIP servers, the app that pages, its pagers; must never connect to any of them.

What is wrong is a ConfigError that names the setting and the fix, for `check-config` as for the start.
"""

from __future__ import annotations

import re
from functools import partial
from typing import NamedTuple

from gateway.config.operator_sections import Ims
from gateway.config.paging import parse_host
from gateway.config.problems import collect, described, raise_first
from gateway.config.sections import Config
from gateway.model.errors import ConfigError
from gateway.model.public_addresses import is_loopback

MOST_SERVERS = 16
#: whose page is for a terminal, not for an app of it
PAGERS = ("sms", "trigger", "ip", "wap")
_APP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PAGER = re.compile(r"[a-z0-9_-]{1,32}")
#: a value of a SIP URI's parameter that needs no escapes (RFC 3261 §25.1), as short as a name
_PROVIDER = re.compile(r"[A-Za-z0-9.-]{1,64}")


class SipServer(NamedTuple):
    """One SIP server's evapi."""

    name: str  # host:port, for logs and metrics
    host: str
    port: int


def read_servers(ims: Ims) -> list[SipServer]:
    """Each entry of `ims.servers`. ConfigError."""
    servers, errors = _read_all(ims)
    raise_first(errors)
    return servers


def _read_all(ims: Ims) -> tuple[list[SipServer], list[ConfigError]]:
    """What can be used, and all that can not."""
    if len(ims.servers) > MOST_SERVERS:
        return [], [ConfigError(f"has {len(ims.servers)} entries; at most {MOST_SERVERS}", field="ims.servers")]
    found: list[SipServer] = []

    def check_entry(entry: str) -> None:
        host, port = parse_host(entry, "ims.servers", example="pcscf.example.net:8448")
        found.append(SipServer(f"{host}:{port}", host, port))

    errors = collect(partial(check_entry, entry) for entry in ims.servers)
    if len({server.name for server in found}) < len(found):
        errors.append(ConfigError("names one host:port twice", field="ims.servers"))
    return found, errors


def conflicts(config: Config) -> list[tuple[str, str]]:
    """(field, what is wrong), as gateway.config.check has it."""
    ims = config.ims
    found = described(_read_all(ims)[1])
    if not _APP.fullmatch(ims.app):
        found.append(("ims.app", f"{ims.app!r} is no name of an app"))
    if not _PROVIDER.fullmatch(ims.provider):
        found.append(("ims.provider", f"{ims.provider!r} is no name: at most 64 letters, digits, dots, lines"))
    if not ims.pagers or len(set(ims.pagers)) < len(ims.pagers):
        found.append(("ims.pagers", "names the pagers in turn, each once, and at least one"))
    for name in ims.pagers:
        if not _PAGER.fullmatch(name):
            found.append(("ims.pagers", f"{name!r} is no name of a pager; one reads sms"))
        elif name not in PAGERS:
            found.append(("ims.pagers", f"there is no pager {name!r}; there are {', '.join(PAGERS)}"))
    if ims.reconnect_s > ims.reconnect_max_s:
        found.append(("ims.reconnect_s", "is more than ims.reconnect_max_s"))
    if ims.refuse_ms >= ims.hold_max_s * 1000:
        found.append(("ims.refuse_ms", "is not shorter than ims.hold_max_s: nothing would ever be refused"))
    return found


def advice(config: Config) -> list[tuple[str, str]]:
    """(field, what to think about); of a section without conflicts."""
    found: list[tuple[str, str]] = []
    for server in read_servers(config.ims):
        if not is_loopback(server.host):
            found.append(("ims.servers", f"{server.name}: evapi is plain and has no login; use a private network"))
    if config.ims.servers and "sms" in config.ims.pagers and not config.paging.smscs:
        found.append(("ims.pagers", "names sms, but paging.smscs is empty, so there is no such pager"))
    return found
