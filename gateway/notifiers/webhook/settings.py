"""Settings of the webhook notifier, the process's and an app's; must never print a secret."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.config.sections import Delivery
from gateway.model.registration import App


@dataclass(slots=True, frozen=True)
class Settings:
    # how long one call may take
    timeout_s: float = 10.0
    # connections kept at once
    connections: int = 64
    # failures in a row after which an address is left alone
    failures: int = 5
    # first and longest time an address is left alone
    open_s: float = 1.0
    open_max_s: float = 60.0


@dataclass(slots=True, frozen=True)
class Endpoint:
    """Where an app wants its notifications."""

    url: str
    secret: str

    def __repr__(self) -> str:
        return "Endpoint(…)"


def build_settings(delivery: Delivery) -> Settings:
    return Settings(timeout_s=delivery.notifier_timeout_s, connections=delivery.notifier_concurrency)


def parse_endpoint(app: App) -> Endpoint | None:
    """The app's `notifiers.webhook` {url, secret}; None where there is no usable URL."""
    settings = app.notifiers.get("webhook", {})
    url = settings.get("url", "")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    return Endpoint(url, settings.get("secret", "")) if usable else None
