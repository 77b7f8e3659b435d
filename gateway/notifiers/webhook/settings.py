"""Settings of the webhook notifier, the process's and an app's; must never print a secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from gateway.config.sections import Delivery
from gateway.model.registration import App
from gateway.notifiers.fields import Field, build_refusal, check_fields, is_clean, is_host
from gateway.notifiers.upstream import Limits, build_limits

FIELDS = (
    # many services hand out URLs that are a credential by themselves, so it is not shown
    Field("url", secret=True, required=True, says="where notifications are posted: http or https"),
    Field("secret", secret=True, says="signs the posts (docs/delivery.md); empty: they are not signed"),
)
#: names whose values are never shown
SECRETS = frozenset(each.name for each in FIELDS if each.secret)


@dataclass(slots=True, frozen=True)
class Settings:
    limits: Limits = field(default_factory=Limits)
    # connections kept at once
    connections: int = 64


@dataclass(slots=True, frozen=True)
class Endpoint:
    """Where an app wants its notifications."""

    url: str
    secret: str
    host: str

    def __repr__(self) -> str:
        return "Endpoint(…)"


def build_settings(delivery: Delivery) -> Settings:
    return Settings(build_limits(delivery), connections=delivery.notifier_concurrency)


def _host_of(url: str) -> str:
    """Host and port; "" where the URL is not usable."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not parts.hostname or not is_host(parts.hostname):
        return ""
    return f"{parts.hostname}:{port}" if port else parts.hostname


def check_settings(settings: Mapping[str, str]) -> None:
    """Raises BadRequest. An empty URL is taken: it is a webhook that is not set up yet, and every call is dead."""
    check_fields("webhook", FIELDS, {**settings, "url": settings.get("url") or "-"})
    url = settings.get("url", "")
    if url and (not _host_of(url) or not is_clean(url)):
        raise build_refusal(
            "webhook",
            "url",
            "is no http or https URL with a host (a space in it is %20); write it as https://push.example.com/hook",
        )


def parse_endpoint(app: App) -> Endpoint | None:
    """The app's `notifiers.webhook` {url, secret}; None where there is no usable URL."""
    settings = app.notifiers.get("webhook", {})
    url = settings.get("url", "")
    host = _host_of(url)
    return Endpoint(url, settings.get("secret", ""), host) if host else None
