"""Which devices of one app are connected, told as it changes (D16); must cost nothing where nobody asks, and keeps
nothing of its own: who is bound where lives in the native registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from gateway.model.ports import Directory

_log = structlog.get_logger(__name__)


class LinkAttendance:
    """model.im_ports.Attendance."""

    def __init__(self, directory: Directory, group_app: Callable[[int], str], link_of: Callable[[int], int]) -> None:
        self._directory = directory
        #: registration → its app's name
        self._group_app = group_app
        self._link_of = link_of
        self.app = ""
        self.on_connected: Callable[[bytes], None] = lambda _token: None
        self.on_disconnected: Callable[[bytes], None] = lambda _token: None

    def is_connected(self, token: bytes) -> bool:
        return self.link(token) != 0

    def link(self, token: bytes) -> int:
        """0: it is on none."""
        number = self._directory.locate(token).number
        return self._link_of(number) if number >= 0 else 0

    def came(self, number: int) -> None:
        if self.app:
            self._tell(number, self.on_connected)

    def left(self, numbers: Iterable[int]) -> None:
        if self.app:
            for number in numbers:
                self._tell(number, self.on_disconnected)

    def _tell(self, number: int, callback: Callable[[bytes], None]) -> None:
        if self._group_app(number) != self.app:
            return
        registration = self._directory.registration(number)
        if registration is None:
            return  # its token was revoked: whoever keeps it was told so
        try:
            callback(registration.token)
        except Exception:
            # a device's link must not suffer from what others make of it
            _log.exception("attendance_failed")
