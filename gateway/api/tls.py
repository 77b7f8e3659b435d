"""Certificates of the provider door: loaded, chosen by host name, renewed while connections live; must never take a
certificate that does not match its key or is past its end, and never log a key's path beside its content.

The listener keeps one SSLContext for good. Each handshake is handed on, by the server name callback, to the context of
the certificate that is current then, so a new file is in force with the next handshake and touches no connection.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from gateway.config.certificates import DEFAULT, CertificatePair, names_of, parse_names, read_pair
from gateway.config.sections import Api
from gateway.metrics import Metric, Metrics
from gateway.model.errors import ConfigError

log = structlog.get_logger("gateway.api")

ALPN = ["h2", "http/1.1"]
#: forward secrecy and authenticated encryption only (RFC 9113 §9.2.2); TLS 1.3 has its own list
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
#: a certificate with less than this left is warned of, once a day
WARN_S = 14 * 86_400
_WARN_EACH_S = 86_400.0


class Pair(NamedTuple):
    """Where a certificate is, and for whom. `host` is DEFAULT, a name, or `*.` and a name."""

    field: str
    key_field: str
    host: str
    cert: str
    key: str


class Served(NamedTuple):
    """One certificate, ready for handshakes."""

    context: ssl.SSLContext
    read: CertificatePair
    names: frozenset[str]  # that it bears

    @property
    def ends_s(self) -> float:
        """Unix seconds."""
        return self.read.ends


def pairs_of(config: Api) -> list[Pair]:
    found = [Pair("api.tls_cert", "api.tls_key", DEFAULT, config.tls_cert, config.tls_key)]
    for host, cert, key in parse_names(config.tls_sni, "api.tls_sni"):
        found.append(Pair("api.tls_sni", "api.tls_sni", host, cert, key))
    return found


def build_context(pair: Pair, read: CertificatePair, authority: bytes, config: Api) -> ssl.SSLContext:
    """ConfigError where OpenSSL does not serve what was read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[config.tls_min_version]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(ALPN)
    try:
        _load_chain(context, read)
    except (OSError, ssl.SSLError) as exc:
        reason = getattr(exc, "reason", None) or exc
        raise ConfigError(f"the certificate {pair.cert!r} can not be served: {reason}", field=pair.field) from None
    if config.tls_client_auth != "none":
        context.load_verify_locations(cadata=authority)
        required = config.tls_client_auth == "required"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        # A session that is taken up again brings its certificate along unchecked: after its end, or its authority's.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _load_chain(context: ssl.SSLContext, read: CertificatePair) -> None:
    """From what was checked, and not from files that may be others by now; ssl takes a path, so it gets one in RAM."""
    with os.fdopen(os.memfd_create("certificate"), "wb") as file:
        file.write(read.chain + b"\n" + read.key)
        file.flush()
        path = f"/proc/self/fd/{file.fileno()}"
        context.load_cert_chain(path, path, password="")  # else one that wants a phrase asks for it


def read_authority(config: Api) -> bytes:
    """DER of the certificates that may sign those of clients. ConfigError."""
    if config.tls_client_auth == "none":
        return b""
    try:
        found = x509.load_pem_x509_certificates(Path(config.tls_client_ca).read_bytes())
    except (OSError, ValueError):
        raise ConfigError(
            f"{config.tls_client_ca!r} is no readable file of PEM certificates", field="api.tls_client_ca"
        ) from None
    return b"".join(certificate.public_bytes(serialization.Encoding.DER) for certificate in found)


class Certificates:
    """All certificates of the door. Loop thread only."""

    def __init__(self, config: Api, metrics: Metrics, *, clock: Callable[[], float] = time.time) -> None:
        """Raises ConfigError where one of them can not be used."""
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._pairs = pairs_of(config)
        self._warned_s: dict[tuple[str, bool], float] = {}  # (host, is it over?) → when it was said
        self._marks = self._read_marks()
        self._authority = read_authority(config)
        self._authority_s = float("-inf")  # when another one came
        self._loaded = {pair.host: self._build(pair, self._read(pair)) for pair in self._pairs}
        #: the listener's own
        self.context = self._build(self._pairs[0], self._loaded[DEFAULT].read).context
        self.context.sni_callback = self._on_server_name
        self.report()

    def _read(self, pair: Pair) -> CertificatePair:
        return read_pair(pair.cert, pair.key, pair.field, pair.key_field, self._clock())

    def _build(self, pair: Pair, read: CertificatePair) -> Served:
        return Served(build_context(pair, read, self._authority, self._config), read, names_of(read))

    def reload(self) -> bool:
        """Take the files as they are now. Where one can not be used its certificate stays as it was, and False is
        answered; the others go on to theirs, and an authority of clients that is new is in force for all."""
        self._marks = self._read_marks()
        is_whole = self._reload_authority()
        count = sum(map(self._reload_pair, self._pairs))
        self._warned_s.clear()
        self.report()
        days_left = int((min(served.ends_s for served in self._loaded.values()) - self._clock()) // 86_400)
        log.info("certificates_reloaded", certificates=count, days_left=days_left)
        return is_whole and count == len(self._pairs)

    def _reload_authority(self) -> bool:
        try:
            authority = read_authority(self._config)
        except ConfigError as exc:
            self._say_refused("client_ca", exc)
            return False
        if authority != self._authority:
            self._authority, self._authority_s = authority, self._clock()
        return True

    def _reload_pair(self, pair: Pair) -> bool:
        """Is it the file's as it is now?"""
        read, is_new = self._loaded[pair.host].read, True
        try:
            read = self._read(pair)
        except ConfigError as exc:
            self._say_refused(pair.host, exc)
            is_new = False
        try:
            self._loaded[pair.host] = self._build(pair, read)
        except ConfigError as exc:
            self._say_refused(pair.host, exc)
            return False
        return is_new

    def _say_refused(self, name: str, exc: ConfigError) -> None:
        log.error(
            "certificate_reload_failed",
            certificate=name,
            field=exc.field,
            problem=exc.message,
            hint="the certificate from before stays in use",
        )

    def refresh(self) -> None:
        """Reload where a file has changed since the last look."""
        if self._read_marks() != self._marks:
            self.reload()
        else:
            self.report()

    def report(self) -> None:
        """Remaining time as a metric; where it is short, or over, the log says so once a day."""
        now_s = self._clock()
        for host, served in self._loaded.items():
            left_s = served.ends_s - now_s
            self._metrics.set(Metric.API_TLS_CERTIFICATE_SECONDS, round(left_s), host)
            is_over = left_s <= 0
            if left_s < WARN_S and now_s - self._warned_s.get((host, is_over), float("-inf")) >= _WARN_EACH_S:
                self._warned_s[host, is_over] = now_s
                if is_over:
                    log.error("certificate_expired", certificate=host, hint="clients refuse it: renew it")
                else:
                    log.warning("certificate_expires_soon", certificate=host, days_left=int(left_s // 86_400))

    def _read_marks(self) -> list[tuple[int, int, int]]:
        """Of every file: whether it is another one than before."""
        marks = []
        files = [Path(file) for pair in self._pairs for file in (pair.cert, pair.key)]
        if self._config.tls_client_ca:
            files.append(Path(self._config.tls_client_ca))
        for file in files:
            try:
                stat = file.stat()
            except OSError:
                marks.append((0, 0, 0))
            else:
                marks.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return marks

    def choose(self, name: str | None) -> Served:
        """For a server name; None: the client gave none."""
        host = (name or "").lower().rstrip(".")
        return self._loaded.get(host) or self._loaded.get(_wildcard(host)) or self._loaded[DEFAULT]

    def bears(self, host: str) -> bool:
        """Has the certificate that is shown for this name (small letters) the name in it?"""
        names = self.choose(host).names
        return host in names or _wildcard(host) in names

    def is_stale(self, tls: ssl.SSLObject) -> bool:
        """Is it a session taken up again that was begun under another authority of clients? Its client's certificate
        was not looked at again. (There are no tickets; TLS 1.2 has sessions without them, and they can not be off.)"""
        return bool(tls.session_reused) and tls.session is not None and tls.session.time <= self._authority_s

    def _on_server_name(self, tls: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        tls.context = self.choose(name).context


def _wildcard(host: str) -> str:
    return "*." + host.partition(".")[2]
