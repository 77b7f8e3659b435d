"""Reads what `trigger` names: the exposure function, how to show who we are there, where its reports are heard; must
never keep or repeat a secret.

What is wrong is a ConfigError that names the setting and the fix, for `check-config` as for the start.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from gateway.config.operator_sections import Trigger
from gateway.config.problems import collect, described
from gateway.config.secret_files import build_refusal, read_line
from gateway.config.sections import Config
from gateway.model.errors import ConfigError
from gateway.model.public_addresses import is_loopback

#: what a secret file may hold; a bearer token in a header must not be longer than servers read
MOST_SECRET_CHARS = 4_096
#: it stands in a path as it is (TS 29.122 §5.2.1: any string; RFC 3986 §2.3 needs no encoding)
_SCS_AS_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")

#: what counts with `trigger.t8` alone
_OF_T8 = (
    "scs_as_id",
    "token_file",
    "token_url",
    "client_id",
    "client_secret_file",
    "certificate",
    "callback_url",
    "callback_certificate",
)


def parse_url(text: str, setting: str, *, example: str) -> str:
    """An http or https URL with a host, without a query; a slash at its end is taken away."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        usable = usable and not parts.query and not parts.fragment and text.isascii() and text.isprintable()
        usable = usable and " " not in text and (parts.port is None or parts.port > 0) and len(text) <= 512
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"is no URL of a server; write it as {example}", field=setting)
    return text.rstrip("/")


def _check_root(trigger: Trigger) -> None:
    root = parse_url(trigger.t8, "trigger.t8", example="https://scef.example.net")
    if "/3gpp-" in urlsplit(root).path:
        words = "has the path of an API in it, which the gateway adds by itself; end it before /3gpp-device-triggering"
        raise ConfigError(words, field="trigger.t8")


def read_secret(file: str, setting: str) -> str:
    """One line of a file. Reads disk."""
    what = f"secret: 1 to {MOST_SECRET_CHARS} ASCII characters without spaces, on one line"
    line = read_line(file, setting, most=MOST_SECRET_CHARS, what=what)
    if any(byte < 0x21 or byte > 0x7E for byte in line):
        raise build_refusal(file, setting, what)
    return line.decode()


def read_pem(file: str, setting: str) -> str:
    """A file with certificates; empty where none is named. Reads disk."""
    if not file:
        return ""
    try:
        text = Path(file).read_bytes()[:1_048_576].decode()
        ssl.create_default_context(cadata=text)
    except OSError as exc:
        raise ConfigError(f"cannot read {file!r}: {exc.strerror or exc}; check path and mode", field=setting) from exc
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigError(f"{file!r} holds no certificate in PEM", field=setting) from exc
    return text


def read_certificate(trigger: Trigger, prefix: str) -> tuple[str, str]:
    """Certificate and key, PEM, of `certificate` or `callback_certificate`; both empty where none is named."""
    certificate, key = getattr(trigger, prefix), getattr(trigger, f"{prefix}_key")
    if not certificate and not key:
        return "", ""
    from gateway.config.certificates import read_pair  # takes a while to import

    pair = read_pair(certificate, key, f"trigger.{prefix}", f"trigger.{prefix}_key", time.time())
    return pair.chain.decode(), pair.key.decode()


def _check_client(trigger: Trigger) -> Iterator[Callable[[], object]]:
    yield lambda: _check_root(trigger)
    yield lambda: read_pem(trigger.ca, "trigger.ca")
    yield lambda: read_certificate(trigger, "certificate")
    yield lambda: read_certificate(trigger, "callback_certificate")
    if trigger.callback_url:
        yield lambda: parse_url(
            trigger.callback_url, "trigger.callback_url", example="https://push.example.net:8443/reports"
        )
    if trigger.auth == "bearer":
        yield lambda: read_secret(trigger.token_file, "trigger.token_file")
    if trigger.auth == "oauth2":
        yield lambda: parse_url(trigger.token_url, "trigger.token_url", example="https://auth.example.net/token")
        yield lambda: read_secret(trigger.client_secret_file, "trigger.client_secret_file")


def conflicts(config: Config) -> list[tuple[str, str]]:
    """(field, what is wrong), as gateway.config.check has it."""
    trigger, found = config.trigger, list[tuple[str, str]]()
    if trigger.validity_min_s > trigger.validity_max_s:
        found.append(("trigger.validity_min_s", "is more than trigger.validity_max_s"))
    if trigger.callback_retry_s > trigger.callback_retry_max_s:
        found.append(("trigger.callback_retry_s", "is more than trigger.callback_retry_max_s"))
    if trigger.way == "tsp" and not config.diameter.peers:
        found.append(("trigger.way", "is tsp, and diameter.peers names nobody to speak Diameter with"))
    if not trigger.t8:
        return found
    found += described(collect(_check_client(trigger)))
    if trigger.way == "t8" and not _SCS_AS_ID.fullmatch(trigger.scs_as_id):
        words = "is needed with trigger.t8: the id that the network gave this gateway, letters, digits and . _ ~ -"
        found.append(("trigger.scs_as_id", words))
    if trigger.auth == "oauth2" and not (trigger.client_id.isascii() and trigger.client_id.isprintable()):
        found.append(("trigger.client_id", "has characters that no client id has"))
    if trigger.auth == "oauth2" and not trigger.client_id:
        found.append(("trigger.client_id", "is empty, and trigger.auth = oauth2 needs it"))
    if trigger.auth != "none" and _is_open(trigger.t8):
        found.append(("trigger.t8", "is plain HTTP, and a token would travel on it; use https"))
    if trigger.auth == "oauth2" and _is_open(trigger.token_url):
        found.append(("trigger.token_url", "is plain HTTP, and the client's secret would travel on it; use https"))
    if not trigger.callback_host.strip():
        found.append(("trigger.callback_host", "is empty; 0.0.0.0 listens on every address"))
    if trigger.callback_port and trigger.callback_port in (config.edge.port, config.edge.tls_port, config.api.port):
        found.append(("trigger.callback_port", f"{trigger.callback_port} is another door's port too"))
    return found


def _is_open(url: str) -> bool:
    """May others on the way read what travels to it?"""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False  # it is no URL, which is said already
    return parts.scheme == "http" and not is_loopback(host)


def advice(config: Config) -> list[tuple[str, str]]:
    """(field, what to think about); of a section without conflicts."""
    from gateway.config.certificates import is_open_to_others

    trigger, found = config.trigger, list[tuple[str, str]]()
    if trigger.way != "t8":
        if trigger.t8:
            found.append(("trigger.t8", "is not used while trigger.way is tsp; leave one out"))
        return found
    if not trigger.t8:
        unused = [f"trigger.{name}" for name in _OF_T8 if getattr(trigger, name)]
        unused += ["trigger.auth"] if trigger.auth != "none" else []
        if unused:
            words = f"is empty: there is no pager trigger, and what is set beside it is not used ({', '.join(unused)})"
            found.append(("trigger.t8", f"{words}; name the SCEF or NEF, as https://scef.example.net"))
        return found
    if trigger.t8.startswith("http:") and not is_loopback(urlsplit(trigger.t8).hostname or ""):
        found.append(("trigger.t8", "is plain HTTP: numbers and texts travel on it; use https"))
    is_nowhere = trigger.callback_host in ("", "0.0.0.0", "::")  # noqa: S104 - what no other machine can call
    if not trigger.callback_url and (is_nowhere or is_loopback(trigger.callback_host)):
        words = "is empty, so the network is told a loopback address and its reports never come"
        found.append(("trigger.callback_url", words))
    for name in ("token_file", "client_secret_file", "certificate_key", "callback_certificate_key"):
        file = getattr(trigger, name)
        if file and is_open_to_others(file):
            found.append((f"trigger.{name}", f"{file!r} may be read by anybody on this machine: chmod 600"))
    return found
