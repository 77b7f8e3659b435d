"""One-time codes written into the log, to try the gateway out (`phone_codes: log`, `mail_codes: log`): anybody who
reads the log can sign in. Must never write the address."""

from __future__ import annotations

import structlog

_log = structlog.get_logger("gateway.im")


class LoggedCodes:
    """A CodeSender."""

    async def send(self, address: str, code: str) -> None:  # noqa: ARG002
        _log.warning("im.code", code=code, why="im.phone_codes or im.mail_codes is log: for trying out only")
