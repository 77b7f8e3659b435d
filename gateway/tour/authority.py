"""A certificate authority for tests and benchmarks: keys and certificates made on the spot; never for production."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ALPN = "heliograph/1"
DAY_S = 86_400


class Pair(NamedTuple):
    """A certificate and its key, PEM."""

    chain: bytes
    key: bytes

    def write(self, folder: Path, name: str = "server") -> tuple[str, str]:
        """Paths of certificate and key."""
        chain, key = folder / f"{name}.pem", folder / f"{name}.key"
        chain.write_bytes(self.chain)
        key.write_bytes(self.key)
        return str(chain), str(key)


class Authority:
    """Signs with a P-256 key; `pem` is what those who trust it load."""

    def __init__(self, name: str = "Heliograph test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = self._sign(self._name, self._key.public_key(), days=3650, is_authority=True)
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, *hosts: str, days: float = 30, name: str = "") -> Pair:
        """For these hosts and addresses, or for a client where there are none; negative days: it is over already."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name or (hosts[0] if hosts else "a device"))])
        certificate = self._sign(subject, key.public_key(), days=days, hosts=hosts)
        return Pair(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def context(self, mine: Pair | None = None, folder: Path | None = None) -> ssl.SSLContext:
        """What a device connects with: trusts this authority alone; `mine` is its own certificate, which takes a folder
        to lie in for a moment."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.pem.decode())
        context.set_alpn_protocols([ALPN])
        if mine is not None:
            assert folder is not None
            context.load_cert_chain(*mine.write(folder, "device"))
        return context

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        *,
        days: float,
        hosts: tuple[str, ...] = (),
        is_authority: bool = False,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        end = now + datetime.timedelta(days=days)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, end) - datetime.timedelta(days=1))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if is_authority:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        else:
            kind = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
            builder = builder.add_extension(x509.ExtendedKeyUsage([kind]), critical=False)
            builder = builder.add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_alternative, hosts))), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
