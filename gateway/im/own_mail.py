"""The server that takes our own mail (im.smtp_host), as the settings name it: for codes and for mailboxes here."""

from __future__ import annotations

from pathlib import Path

from gateway.config.im_section import Im
from gateway.im.smtp import TLS_MODES, SmtpServer
from gateway.model.errors import ConfigError


def build_smtp_server(settings: Im) -> SmtpServer:
    """Reads the password's file, once. ConfigError."""
    if not settings.smtp_host:
        raise ConfigError("name the server that takes our own mail", field="im.smtp_host")
    if settings.smtp_tls not in TLS_MODES:
        raise ConfigError("expected tls, starttls or never", field="im.smtp_tls")
    password = ""
    if settings.smtp_user:
        if not settings.smtp_password_file:
            raise ConfigError("a user needs a password: name the file that holds it", field="im.smtp_password_file")
        try:
            password = Path(settings.smtp_password_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"can not be read ({type(exc).__name__})", field="im.smtp_password_file") from None
    return SmtpServer(settings.smtp_host, settings.smtp_port, settings.smtp_tls, settings.smtp_user, password)
