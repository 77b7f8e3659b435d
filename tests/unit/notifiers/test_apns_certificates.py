"""The client certificate of an app's APNs settings: what is refused when it is given."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from gateway.model.errors import BadRequest
from gateway.notifiers.apns.settings import check_settings
from gateway.notifiers.local_tls import Authority

TOPIC = "com.example.shop"


def refusal(**settings: str) -> tuple[str | None, str]:
    """Field and words."""
    with pytest.raises(BadRequest) as error:
        check_settings({"topic": TOPIC, **settings})
    return error.value.field, error.value.message


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_key_behind_a_pass_phrase_is_refused_and_nobody_is_asked_for_it(
    authority: Authority, form: PrivateFormat
) -> None:
    issued = authority.issue(name=TOPIC)
    key = load_pem_private_key(issued.key.encode(), None)
    encrypted = key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"phrase")).decode()
    field, words = refusal(certificate=issued.certificate, certificate_key=encrypted)
    assert (field, "is encrypted" in words) == ("notifiers.apns.certificate_key", True)


def test_private_key_beside_the_certificate_is_refused_for_the_certificate_is_shown(authority: Authority) -> None:
    issued = authority.issue(name=TOPIC)
    field, words = refusal(certificate=issued.certificate + issued.key)
    assert (field, "certificate_key" in words) == ("notifiers.apns.certificate", True)
    field, words = refusal(
        certificate=issued.certificate, certificate_key=issued.key, ca=(authority.pem + issued.key).replace("\n", "\\n")
    )
    assert (field, "private key" in words) == ("notifiers.apns.ca", True)
