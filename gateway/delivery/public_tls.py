"""Whom an HTTP client to apps' servers trusts; must never be read from disk for each client."""

from __future__ import annotations

import ssl
from functools import cache

import httpx


@cache
def public_authorities() -> ssl.SSLContext:
    """The usual ones, whatever the environment says; loading them takes tens of milliseconds of the loop, and each
    partition of a fleet has clients of its own, so once a process."""
    return httpx.create_ssl_context(trust_env=False)
