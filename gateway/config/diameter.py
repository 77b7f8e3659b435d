"""Reads what `diameter` names: peers, certificates, identities; must never connect to any of them.

What is wrong is a ConfigError that names the setting and the fix, for `check-config` as for the start.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from gateway.config.operator_sections import Diameter
from gateway.config.sections import Config
from gateway.model.errors import ConfigError

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


def _read_peer(entry: str) -> PeerAddress:
    try:
        parts = urlsplit(entry if "://" in entry else f"//{entry}")
        host, port = parts.hostname, parts.port
        usable = parts.scheme in ("", "aaa", "aaas") and bool(host) and (bool(port) or bool(parts.scheme))
        usable = usable and not (parts.path or parts.query or parts.fragment or parts.username is not None)
    except ValueError:
        usable, host, port = False, None, None
    if not usable or not host:
        raise ConfigError(
            f"{entry!r} is no peer; one reads dra.example.net:3868, or aaas://dra.example.net", field="diameter.peers"
        )
    is_tls = parts.scheme == "aaas"
    return PeerAddress(host, port or (TLS_PORT if is_tls else PORT), is_tls)


def read_peers(section: Diameter) -> list[PeerAddress]:
    """Each entry of `diameter.peers`, once the identities beside it are there too."""
    if not section.peers:
        return []
    if len(section.peers) > MOST_PEERS:
        raise ConfigError(f"has {len(section.peers)} entries; at most {MOST_PEERS}", field="diameter.peers")
    peers = [_read_peer(entry) for entry in section.peers]
    if len({peer.name for peer in peers}) < len(peers):
        raise ConfigError("names one host:port twice", field="diameter.peers")
    for name, example in (
        ("origin_host", "pushgw.example.net"),
        ("origin_realm", "example.net"),
        ("destination_realm", "epc.mnc001.mcc001.3gppnetwork.org"),
        ("hss_host", "hss.example.net"),
        ("mtc_iwf_host", "mtc-iwf.example.net"),
    ):
        text, field = getattr(section, name), f"diameter.{name}"
        if not text and name.startswith("origin"):
            raise ConfigError(f"is empty, and diameter.peers needs it; one reads {example}", field=field)
        if text and _HOST.fullmatch(text) is None:
            raise ConfigError(f"{text!r} is no name; one reads {example}", field=field)
    if not section.scs_identity.isascii() or len(section.scs_identity) > 128:
        raise ConfigError("has at most 128 ASCII characters", field="diameter.scs_identity")
    if section.sc_address and _NUMBER.fullmatch(section.sc_address) is None:
        raise ConfigError("is no number: 1 to 15 digits, the country code first", field="diameter.sc_address")
    return peers


def read_tls(section: Diameter) -> ssl.SSLContext | None:
    """For aaas peers, None where there are none. ConfigError; reads disk."""
    if not any(peer.is_tls for peer in read_peers(section)):
        return None
    try:
        context = ssl.create_default_context(cafile=section.tls_ca or None)
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError("holds no certificate in PEM; name the authority's file", field="diameter.tls_ca") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if bool(section.tls_cert) != bool(section.tls_key):
        raise ConfigError("tls_cert and tls_key go together: set both, or none", field="diameter.tls_key")
    if section.tls_cert:
        try:
            context.load_cert_chain(section.tls_cert, section.tls_key)
        except (ssl.SSLError, OSError) as exc:
            raise ConfigError(
                "tls_cert and tls_key are no pair in PEM that can be read; check path, mode and contents",
                field="diameter.tls_cert",
            ) from exc
    return context


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
    try:
        read_tls(section)
    except ConfigError as exc:
        found.append((exc.field, exc.message))
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


def advice(config: Config, is_loopback: Callable[[str], bool]) -> list[tuple[str, str]]:
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
