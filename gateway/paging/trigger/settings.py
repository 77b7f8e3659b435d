"""Settings of the pager trigger, the process's and an app's; must never print a secret."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.config.operator_sections import Trigger
from gateway.config.trigger import parse_url, read_certificate, read_pem, read_secret
from gateway.model.errors import ConfigError
from gateway.notifiers.connections import build_context, load_certificate
from gateway.notifiers.fields import Field, build_refusal, check_fields
from gateway.paging.udh import APP_PORTS

NAME = "trigger"
FIELDS = (Field("port", says="the port the app listens on, 16000 to 16999. Default: `trigger.port`"),)


def _port(text: str) -> int:
    """0 where it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 and int(text) in APP_PORTS else 0


def build_port(settings: Mapping[str, str], trigger: Trigger) -> int:
    """The app's; `check_settings` has looked at it, and what is not right is the default."""
    return _port(settings.get("port", "")) or trigger.port


def check_settings(settings: Mapping[str, str]) -> None:
    """Raises BadRequest: field and fix."""
    check_fields(NAME, FIELDS, settings)
    if settings.get("port") and not _port(settings["port"]):
        raise build_refusal(NAME, "port", "is no application port: 16000 to 16999 are free for applications")


@dataclass(frozen=True, slots=True)
class Access:
    """The T8 API and how to show who we are there."""

    root: str
    scs_as_id: str
    context: ssl.SSLContext = field(repr=False)
    #: a token that never changes; empty: none
    bearer: str = field(default="", repr=False)
    #: empty: no OAuth2
    token_url: str = ""
    client_id: str = field(default="", repr=False)
    client_secret: str = field(default="", repr=False)
    scope: str = ""


def build_access(trigger: Trigger) -> Access:
    """ConfigError; reads disk."""
    root = parse_url(trigger.t8, "trigger.t8", example="https://scef.example.net")
    certificate = read_certificate(trigger, "certificate")
    try:
        context = build_context(read_pem(trigger.ca, "trigger.ca"), *certificate)
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigError("holds no certificate that can be used", field="trigger.certificate") from exc
    bearer = token_url = client_secret = ""
    if trigger.auth == "bearer":
        bearer = read_secret(trigger.token_file, "trigger.token_file")
    elif trigger.auth == "oauth2":
        token_url = parse_url(trigger.token_url, "trigger.token_url", example="https://auth.example.net/token")
        client_secret = read_secret(trigger.client_secret_file, "trigger.client_secret_file")
    return Access(root, trigger.scs_as_id, context, bearer, token_url, trigger.client_id, client_secret, trigger.scope)


def build_callback_context(trigger: Trigger) -> ssl.SSLContext | None:
    """Of the listener for reports; None: plain HTTP. ConfigError; reads disk."""
    chain, key = read_certificate(trigger, "callback_certificate")
    if not chain:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, f"{chain.strip()}\n{key.strip()}\n")
    return context
