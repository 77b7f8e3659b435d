"""Reads and checks certificate files, all of them for the device door; must never log or keep what is in a key.

What is wrong is a ConfigError that names the setting and the fix, at the start as on a later reload.
"""

from __future__ import annotations

import datetime
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from gateway.config.sections import Edge
from gateway.model.errors import ConfigError

MAX_FILE_BYTES = 1_048_576
#: further certificates, which are looked through one by one at each handshake that names a host
MAX_NAMES = 256
#: name of the certificate that is used where no other fits, in metrics and logs
DEFAULT = "default"


class CertificatePair(NamedTuple):
    """A certificate with those that lead to its root, and its key; PEM. `ends` and `begins` are Unix seconds."""

    chain: bytes
    key: bytes
    begins: float
    ends: float


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """All that `edge.tls_*` names, read and checked."""

    server: CertificatePair
    names: dict[str, CertificatePair] = field(default_factory=dict)
    client_ca: bytes = b""

    def ends(self) -> dict[str, float]:
        """Unix seconds at which each certificate ends, by host name or `default`."""
        return {DEFAULT: self.server.ends, **{name: pair.ends for name, pair in self.names.items()}}


def tls_paths(edge: Edge) -> list[str]:
    """Every file that is read, for who watches them."""
    further = [path for _, cert, key in parse_names(edge.tls_sni) for path in (cert, key)]
    authority = [edge.tls_client_ca] if edge.tls_client_auth != "none" else []
    return [edge.tls_cert, edge.tls_key, *further, *authority]


def parse_names(entries: list[str], setting: str = "edge.tls_sni") -> list[tuple[str, str, str]]:
    """(host, certificate file, key file) of each `host=certificate:key`; ConfigError where one is no such entry."""
    found = []
    for entry in entries:
        host, equals, files = entry.partition("=")
        cert, colon, key = files.partition(":")
        host = host.strip().lower().rstrip(".")
        bare = host.removeprefix("*.")
        if not (equals and colon and cert and key):
            raise ConfigError(
                f"{entry!r} is not host=certificate:key, as in push.example.org=/etc/tls/push.pem:/etc/tls/push.key",
                field=setting,
            )
        if not bare or len(host) > 253 or not bare.isascii() or not bare.replace("-", "").replace(".", "").isalnum():
            raise ConfigError(
                f"{host!r} is no host name (a wildcard is `*.example.org`; other alphabets as xn--…)",
                field=setting,
            )
        found.append((host, cert, key))
    if len(found) > MAX_NAMES:
        raise ConfigError(f"has {len(found)} entries; at most {MAX_NAMES}", field=setting)
    return found


def read_tls_files(edge: Edge, now: Callable[[], float]) -> TlsFiles:
    """Everything, checked against the clock `now` (Unix seconds). ConfigError names the setting, what is wrong and
    what to do. Reads disk: not for the loop."""
    server = read_pair(edge.tls_cert, edge.tls_key, "edge.tls_cert", "edge.tls_key", now())
    names = {
        host: read_pair(cert, key, "edge.tls_sni", "edge.tls_sni", now())
        for host, cert, key in parse_names(edge.tls_sni)
    }
    return TlsFiles(server, names, _read_client_ca(edge))


def reread_tls_files(
    edge: Edge, now: Callable[[], float], before: TlsFiles
) -> tuple[TlsFiles, list[tuple[str, ConfigError]]]:
    """The same while they are in use: what can not be used stays as it was `before`, and is said with its name
    (`default`, a host, `client_ca`); so one that ended holds up no other's renewal."""
    refused: list[tuple[str, ConfigError]] = []

    def read(name: str, kept: CertificatePair, cert: str, key: str, field: str, key_field: str) -> CertificatePair:
        try:
            return read_pair(cert, key, field, key_field, now())
        except ConfigError as exc:
            refused.append((name, exc))
            return kept

    server = read(DEFAULT, before.server, edge.tls_cert, edge.tls_key, "edge.tls_cert", "edge.tls_key")
    names = {
        host: read(host, before.names[host], cert, key, "edge.tls_sni", "edge.tls_sni")
        for host, cert, key in parse_names(edge.tls_sni)
    }
    client_ca = before.client_ca
    try:
        client_ca = _read_client_ca(edge)
    except ConfigError as exc:
        refused.append(("client_ca", exc))
    return TlsFiles(server, names, client_ca), refused


def _read_client_ca(edge: Edge) -> bytes:
    if edge.tls_client_auth == "none":
        return b""
    client_ca = _read(edge.tls_client_ca, "edge.tls_client_ca")
    _certificates(client_ca, edge.tls_client_ca, "edge.tls_client_ca")
    return client_ca


def names_of(pair: CertificatePair) -> frozenset[str]:
    """The host names and addresses the certificate bears, small letters; `*.` and a name for all one level below."""
    first = x509.load_pem_x509_certificates(pair.chain)[0]
    try:
        names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    hosts = names.get_values_for_type(x509.DNSName)
    return frozenset(name.lower() for name in (*hosts, *map(str, names.get_values_for_type(x509.IPAddress))))


def is_open_to_others(path: str) -> bool:
    """May anybody on this machine read the file?"""
    try:
        return bool(Path(path).stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def _read(path: str, setting: str) -> bytes:
    if not path:
        raise ConfigError("is empty; name a PEM file", field=setting)
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"cannot read {path!r}: {exc.strerror or exc}; check path and mode", field=setting) from exc
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path!r} is larger than {MAX_FILE_BYTES:_} bytes: no certificate is", field=setting)
    return data


def _certificates(data: bytes, path: str, setting: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as exc:
        raise ConfigError(
            f"{path!r} holds no certificate in PEM (-----BEGIN CERTIFICATE-----); convert it, or name the right file",
            field=setting,
        ) from exc


def read_pair(cert_path: str, key_path: str, cert_setting: str, key_setting: str, now: float) -> CertificatePair:
    """One certificate with its key, checked against each other and the clock `now`; ConfigError."""
    chain, key = _read(cert_path, cert_setting), _read(key_path, key_setting)
    first = _certificates(chain, cert_path, cert_setting)[0]
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except TypeError as exc:
        raise ConfigError(
            f"{key_path!r} has a password, which nobody could type here; store it without one, mode 600",
            field=key_setting,
        ) from exc
    except ValueError as exc:
        raise ConfigError(f"{key_path!r} holds no private key in PEM", field=key_setting) from exc
    if _public(private.public_key()) != _public(first.public_key()):
        raise ConfigError(
            f"the key {key_path!r} does not belong to the first certificate of {cert_path!r}; the server's own comes"
            " first, then those that lead to the root",
            field=key_setting,
        )
    begins = first.not_valid_before_utc.timestamp()
    ends = first.not_valid_after_utc.timestamp()
    if now >= ends:
        raise ConfigError(f"{cert_path!r} ended on {_day(ends)}; renew it", field=cert_setting)
    if now < begins:
        raise ConfigError(
            f"{cert_path!r} is not valid before {_day(begins)}; check this machine's clock, or wait", field=cert_setting
        )
    return CertificatePair(chain, key, begins, ends)


def _public(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _day(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
