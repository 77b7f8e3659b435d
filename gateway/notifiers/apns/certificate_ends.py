"""When an app's client certificate ends, said in the log in time; must never log what is in it."""

from __future__ import annotations

import structlog

from gateway.notifiers.apns.settings import AppSettings, read_end

_log = structlog.get_logger(__name__)

#: a certificate with less than this left is warned of, once a day, as those of the gateway's own doors are
WARN_S = 14 * 86_400
_WARN_EACH_S = 86_400


class CertificateEnds:
    """Looks with each push, so an app that pushes hears of it: no round of its own over all apps."""

    def __init__(self, most: int) -> None:
        self._most = most
        #: by fingerprint of the settings: when it ends, and when that was said last
        self._known: dict[str, tuple[float, float]] = {}

    def look(self, app: str, settings: AppSettings, now_s: float) -> None:
        known = self._known.get(settings.fingerprint)
        if known is None:
            if len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            try:
                known = read_end(settings.certificate), float("-inf")
            except ValueError:
                known = float("inf"), float("-inf")  # `check` refuses such settings; the call says what is wrong
            self._known[settings.fingerprint] = known
        ends_s, said_s = known
        if ends_s - now_s >= WARN_S or now_s - said_s < _WARN_EACH_S:
            return
        self._known[settings.fingerprint] = ends_s, now_s
        if ends_s <= now_s:
            _log.error("certificate_expired", notifier="apns", app=app, hint="APNs refuses it: give a new one")
        else:
            days_left = int((ends_s - now_s) // 86_400)
            _log.warning("certificate_expires_soon", notifier="apns", app=app, days_left=days_left)
