"""The client certificate of an app's APNs settings: what is refused when it is given, and that its end is said."""

from __future__ import annotations

import pytest
import structlog
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from upstream_rig import build_app, build_notification, build_registration
from upstream_scene import UpstreamScene

from gateway.model.errors import BadRequest
from gateway.model.registration import Registration
from gateway.notifiers.apns.client import ApnsNotifier
from gateway.notifiers.apns.local import LocalApns
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


def test_certificate_that_has_ended_is_refused_when_it_is_given(authority: Authority) -> None:
    ended = authority.issue(name=TOPIC, begins_days=-20, ends_days=-1)
    field, words = refusal(certificate=ended.certificate, certificate_key=ended.key)
    assert (field, "has expired" in words) == ("notifiers.apns.certificate", True)


async def test_certificate_that_ends_soon_is_said_once_a_day_and_its_end_too(authority: Authority) -> None:
    class Scene(UpstreamScene[LocalApns, ApnsNotifier]):
        def device(self) -> Registration:
            return build_registration("apns", self.upstream.add_device("ab" * 16))

    async with Scene(LocalApns, ApnsNotifier, authority) as scene:
        issued = authority.issue(name=TOPIC, ends_days=20)
        settings = {
            **scene.upstream.certificate_settings(),
            "certificate": issued.certificate,
            "certificate_key": issued.key,
        }
        app = build_app("apns", settings)

        async def said() -> list[tuple[str, str]]:
            with structlog.testing.capture_logs() as logs:
                for _ in range(2):
                    await scene.notifier.notify(app, scene.device(), build_notification())
            return [(entry["event"], entry["app"]) for entry in logs]

        assert await said() == []
        scene.clock.moved_s += 7 * 86_400
        assert await said() == [("certificate_expires_soon", "shop")]
        scene.clock.moved_s += 3_600
        assert await said() == []
        scene.clock.moved_s += 86_400
        assert await said() == [("certificate_expires_soon", "shop")]
        scene.clock.moved_s += 13 * 86_400
        assert await said() == [("certificate_expired", "shop")]
