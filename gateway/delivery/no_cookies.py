"""For HTTP clients that many apps share; must never let what one app's server sets reach another's."""

from __future__ import annotations

from http.cookiejar import CookieJar, DefaultCookiePolicy


def build_no_cookies() -> CookieJar:
    """Keeps none, so that nothing grows, and sends none."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=()))
