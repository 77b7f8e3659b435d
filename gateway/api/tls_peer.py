"""What TLS knows of a connection, as the ASGI TLS extension says it; must never be logged."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from cryptography import x509

#: code points of the versions (RFC 8446 §4.2.1)
_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


def describe_tls(transport: asyncio.BaseTransport) -> dict[str, Any]:
    """`{"tls": {…}}` for the scope's extensions; empty for a plain connection.

    `client_cert_chain`: PEM, the peer's own certificate first; the rest of the verified chain where this Python tells.
    """
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return {}
    own: bytes | None = tls.getpeercert(True)
    chain = [own] if own else []
    if own and hasattr(tls, "get_verified_chain"):  # Python 3.13
        chain = [bytes(part) for part in tls.get_verified_chain()]
    return {
        "tls": {
            "server_cert": None,
            "client_cert_chain": [ssl.DER_cert_to_PEM_cert(part) for part in chain],
            "client_cert_name": x509.load_der_x509_certificate(own).subject.rfc4514_string() if own else None,
            "client_cert_error": None,
            "tls_version": _VERSIONS.get(tls.version()),
            "cipher_suite": None,
        }
    }
