"""Rules between the settings of `im`: each is named with its fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.config.check import advice, conflicts
from gateway.config.sections import Config


def config_of(**settings: Any) -> Config:
    config = Config()
    for name, value in settings.items():
        setattr(config.im, name, value)
    return config


def test_the_defaults_are_right_with_an_app_and_without() -> None:
    assert conflicts(Config()) == []
    assert conflicts(config_of(app="im")) == []


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"networks": ["xmpp", "icq"]}, "im.networks"),
        ({"networks": ["xmpp", "xmpp"]}, "im.networks"),
        ({"app": "a b"}, "im.app"),
        ({"phone_codes": "pigeon"}, "im.phone_codes"),
        ({"mail_codes": "pigeon"}, "im.mail_codes"),
        ({"smtp_tls": "maybe"}, "im.smtp_tls"),
        ({"mail_port": 0}, "im.mail_domain"),
        ({"mail_domain": "Mail..Example"}, "im.mail_domain"),
        ({"mail_codes": "smtp"}, "im.smtp_host"),
        ({"mail_codes": "smtp", "smtp_host": "mail.example"}, "im.smtp_from"),
        ({"smtp_user": "gw"}, "im.smtp_password_file"),
        ({"public_url": "push.example"}, "im.public_url"),
        ({"public_url": "https://push.example/x"}, "im.public_url"),
        ({"retry_s": 10.0, "retry_max_s": 5.0}, "im.retry_s"),
        ({"media_bytes": 1 << 40}, "im.media_bytes"),
        ({"media_types": ["image/png", "image/tiff"]}, "im.media_types"),
        ({"app": "im", "phone_codes": "sms"}, "paging.smscs"),
    ],
)
def test_what_is_wrong_is_named(settings: dict[str, Any], field: str) -> None:
    assert [name for name, _ in conflicts(config_of(**settings))] == [field]


def test_a_password_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret\n")
    assert conflicts(config_of(smtp_user="gw", smtp_password_file=str(file))) == []


def test_codes_in_the_log_and_servers_in_the_own_network_are_worth_a_word() -> None:
    found = dict(advice(config_of(app="im", phone_codes="log", mail_codes="log", private_hosts=True)))
    assert {"im.phone_codes", "im.mail_codes", "im.private_hosts"} <= set(found)


def test_what_keeps_users_out_is_worth_a_word() -> None:
    assert "im.app" not in dict(advice(Config()))
    assert "im.app" in dict(advice(config_of(phone_codes="log")))
    assert {"im.phone_codes", "im.mail_port", "im.public_url"} <= set(
        dict(advice(config_of(app="im", mail_domain="im.example")))
    )
    found = dict(
        advice(config_of(app="im", mail_codes="smtp", mail_domain="im.example", mail_port=0, public_url="https://a.b"))
    )
    assert not {"im.phone_codes", "im.mail_port", "im.public_url"} & set(found)
