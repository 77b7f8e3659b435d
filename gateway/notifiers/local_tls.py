"""A certificate authority for the tour's local upstreams, tests and benches; must never be trusted anywhere else.

It lives as long as its object. Nothing gets to disk but what `write` is asked for.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.notifiers.connections import build_context, load_certificate

#: of the authority itself; longer on both sides than anything it issues
_BEGINS_DAYS, _ENDS_DAYS = -30, 365
_MAY_SIGN = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Files(NamedTuple):
    """Where a certificate and its key lie, as PEM."""

    cert: Path
    key: Path


class Issued(NamedTuple):
    """A certificate and its key, PEM texts."""

    certificate: str
    key: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate's DER, hex."""
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate)).hexdigest()

    def encode(self) -> tuple[bytes, bytes]:
        """Both as bytes, as the compiled core takes them."""
        return self.certificate.encode(), self.key.encode()

    def write(self, folder: Path, name: str = "server") -> Files:
        """Into name.pem and name.key; the folder is made, and what lay there is replaced."""
        files = Files(folder / f"{name}.pem", folder / f"{name}.key")
        folder.mkdir(parents=True, exist_ok=True)
        files.cert.write_text(self.certificate)
        files.key.write_text(self.key)
        return files


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


class Authority:
    """Issues certificates over P-256 keys; `pem` is what the other side has to trust."""

    def __init__(self, name: str = "heliograph local authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        certificate = (
            self._build(self._name, self._key.public_key(), _BEGINS_DAYS, _ENDS_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_MAY_SIGN, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, SHA256())
        )
        self.pem = certificate.public_bytes(Encoding.PEM).decode()

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, begins_days: float, ends_days: float
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=begins_days))
            .not_valid_after(now + datetime.timedelta(days=ends_days))
        )

    def issue(self, *hosts: str, name: str = "", begins_days: float = -5, ends_days: float = 30) -> Issued:
        """For a server with these host names and addresses; without any, for a client of that name.

        The common name is `name`, else the first host. Days count from now: negative ones are past.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            self._build(_name(name or hosts[0]), key.public_key(), begins_days, ends_days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_alternative, hosts))), critical=False)
        certificate = builder.sign(self._key, SHA256())
        return Issued(certificate.public_bytes(Encoding.PEM).decode(), _key_pem(key))

    def write(self, folder: Path, name: str = "authority") -> Path:
        """`pem` into name.pem; the folder is made."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.pem"
        path.write_text(self.pem)
        return path

    def client_context(self, mine: Issued | None = None, *, alpn: Sequence[str] = ()) -> ssl.SSLContext:
        """Trusts this authority alone; shows `mine` where the server asks, and names these protocols."""
        context = build_context(self.pem, *(mine or ()))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def server_context(self, *, asks_client: bool = False) -> ssl.SSLContext:
        """HTTP/2 over TLS on loopback. `asks_client`: a certificate of this authority is asked for, and may be left
        out."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=self.pem)
        issued = self.issue("localhost", "127.0.0.1")
        load_certificate(context, issued.certificate + issued.key)
        context.set_alpn_protocols(["h2"])
        context.verify_mode = ssl.CERT_OPTIONAL if asks_client else ssl.CERT_NONE
        return context
