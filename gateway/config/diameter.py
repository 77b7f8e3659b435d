"""Reads what `diameter` names: peers, certificates, identities; must never connect to any of them.

What is wrong is a ConfigError that names the setting and the fix, for `check-config` as for the start.
"""

from __future__ import annotations

import re
import ssl
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from gateway.config.operator_sections import Diameter
from gateway.config.problems import collect, described, raise_first
from gateway.config.sections import Config
from gateway.model.errors import ConfigError
from gateway.model.public_addresses import is_loopback

MOST_PEERS = 16
#: RFC 6733 §2.1, §13.1
PORT, TLS_PORT = 3868, 5658
_NUMBER = re.compile(r"[0-9]{1,15}")
_HOST = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)


class PeerAddress(NamedTuple):
    """Where one peer is."""

    host: str
    port: int
    is_tls: bool

    @property
    def name(self) -> str:
        """For logs and metrics."""
        return f"{self.host}:{self.port}"


def _read_peer(place: int, entry: str) -> PeerAddress:
    try:
        parts = urlsplit(entry if "://" in entry else f"//{entry}")
        host, port = parts.hostname, parts.port
        usable = parts.scheme in ("", "aaa", "aaas") and bool(host) and (bool(port) or bool(parts.scheme))
        usable = usable and not (parts.path or parts.query or parts.fragment or parts.username is not None)
    except ValueError:
        usable, host, port = False, None, None
    if not usable or not host:
        raise ConfigError(
            f"entry {place}, {entry!r}, is no peer; one reads dra.example.net:3868, or aaas://dra.example.net",
            field="diameter.peers",
        )
    is_tls = parts.scheme == "aaas"
    return PeerAddress(host, port or (TLS_PORT if is_tls else PORT), is_tls)


def read_peers(section: Diameter) -> list[PeerAddress]:
    """Each entry of `diameter.peers`, once the identities beside it are there too."""
    peers, errors = _read_all(section)
    raise_first(errors)
    return peers


def _read_all(section: Diameter) -> tuple[list[PeerAddress], list[ConfigError]]:
    """What can be used, and all that can not."""
    if not section.peers:
        return [], []
    if len(section.peers) > MOST_PEERS:
        return [], [ConfigError(f"has {len(section.peers)} entries; at most {MOST_PEERS}", field="diameter.peers")]
    peers: list[PeerAddress] = []

    def check_peer(place: int, entry: str) -> None:
        peers.append(_read_peer(place, entry))

    errors = collect(partial(check_peer, place, entry) for place, entry in enumerate(section.peers, 1))
    if len({peer.name for peer in peers}) < len(peers):
        errors.append(ConfigError("names one host:port twice", field="diameter.peers"))
    return peers, errors + collect(
        [
            *(partial(_check_name, section, name, example) for name, example in _NAMES),
            partial(_check_identity, section),
            partial(_check_number, section),
        ]
    )


_NAMES = (
    ("origin_host", "pushgw.example.net"),
    ("origin_realm", "example.net"),
    ("destination_realm", "epc.mnc001.mcc001.3gppnetwork.org"),
    ("hss_host", "hss.example.net"),
    ("mtc_iwf_host", "mtc-iwf.example.net"),
)


def _check_name(section: Diameter, name: str, example: str) -> None:
    text, field = getattr(section, name), f"diameter.{name}"
    if not text and name.startswith("origin"):
        raise ConfigError(f"is empty, and diameter.peers needs it; one reads {example}", field=field)
    if text and _HOST.fullmatch(text) is None:
        raise ConfigError(f"{text!r} is no name; one reads {example}", field=field)


def _check_identity(section: Diameter) -> None:
    if not section.scs_identity.isascii() or len(section.scs_identity) > 128:
        raise ConfigError("has at most 128 ASCII characters", field="diameter.scs_identity")


def _check_number(section: Diameter) -> None:
    if section.sc_address and _NUMBER.fullmatch(section.sc_address) is None:
        raise ConfigError("is no number: 1 to 15 digits, the country code first", field="diameter.sc_address")


def read_tls(section: Diameter) -> ssl.SSLContext | None:
    """For aaas peers, None where there are none. ConfigError; reads disk."""
    if not any(peer.is_tls for peer in read_peers(section)):
        return None
    raise_first(_check_tls(section))
    context = ssl.create_default_context(cafile=section.tls_ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if section.tls_cert:
        context.load_cert_chain(section.tls_cert, section.tls_key, password="")
    return context


def _check_tls(section: Diameter) -> list[ConfigError]:
    """All that is wrong with the files."""

    def check_authorities() -> None:
        if _check_file(section.tls_ca, "diameter.tls_ca"):
            try:
                ssl.create_default_context(cafile=section.tls_ca)
            except (ssl.SSLError, OSError) as exc:
                words = f"{section.tls_ca!r} holds no certificate in PEM; name the authority's file"
                raise ConfigError(words, field="diameter.tls_ca") from exc

    def check_both() -> None:
        if bool(section.tls_cert) != bool(section.tls_key):
            raise ConfigError("tls_cert and tls_key go together: set both, or none", field="diameter.tls_key")

    errors = collect((check_authorities, check_both))
    if errors and errors[-1].field == "diameter.tls_key":
        return errors
    files = collect(
        (
            lambda: _check_file(section.tls_cert, "diameter.tls_cert"),
            lambda: _check_file(section.tls_key, "diameter.tls_key"),
        )
    )

    def check_pair() -> None:
        try:
            # a password would be asked for at the terminal
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(section.tls_cert, section.tls_key, password="")
        except (ssl.SSLError, OSError) as exc:
            words = "tls_cert and tls_key are no pair in PEM without a password; check what is in them"
            raise ConfigError(words, field="diameter.tls_cert") from exc

    return errors + (files or (collect((check_pair,)) if section.tls_cert else []))


def _check_file(file: str, field: str) -> bool:
    """Is one named? ConfigError where it can not be read."""
    if not file:
        return False
    try:
        with Path(file).open("rb") as opened:
            opened.read(1)
    except OSError as exc:
        raise ConfigError(f"cannot read {file!r}: {exc.strerror or exc}; check path and mode", field=field) from exc
    return True


def conflicts(config: Config) -> list[tuple[str, str]]:
    """(field, what is wrong), as gateway.config.check has it."""
    section, found = config.diameter, list[tuple[str, str]]()
    if not section.peers:
        if config.identity.mapping == "hss":
            found.append(("diameter.peers", "is empty, and identity.mapping = hss needs an HSS"))
        if section.s6c:
            found.append(("diameter.peers", "is empty, and diameter.s6c = true needs an HSS"))
        return found
    if section.s6c and config.paging.hlr:
        found.append(("diameter.s6c", "and paging.hlr both ask whom a short message is for; leave one out"))
    peers, errors = _read_all(section)
    found += described(errors)
    if any(peer.is_tls for peer in peers):
        found += described(_check_tls(section))
    if section.answer_s >= config.delivery.notifier_timeout_s:
        found.append(
            (
                "diameter.answer_s",
                f"is not shorter than delivery.notifier_timeout_s = {config.delivery.notifier_timeout_s:_}",
            )
        )
    if section.reconnect_s > section.reconnect_max_s:
        found.append(("diameter.reconnect_s", "is more than diameter.reconnect_max_s"))
    return found


def advice(config: Config) -> list[tuple[str, str]]:
    """(field, what to think about); of a section without conflicts."""
    from gateway.config.certificates import is_open_to_others

    section = config.diameter
    found = [
        ("diameter.peers", f"{peer.name} is plain Diameter: network ids travel on it; use aaas, or a private network")
        for peer in read_peers(section)
        if not peer.is_tls and not is_loopback(peer.host)
    ]
    if section.tls_key and is_open_to_others(section.tls_key):
        found.append(("diameter.tls_key", f"{section.tls_key!r} may be read by anybody on this machine: chmod 600"))
    return found
