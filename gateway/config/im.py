"""Rules between the settings of `im`, and what it needs of others; must never change a value.

What is wrong is named with its setting and the fix, for `check-config` as for the start.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from gateway.config.im_section import Im
from gateway.config.problems import collect, described
from gateway.config.secret_files import read_line
from gateway.config.sections import Config
from gateway.model.errors import ConfigError
from gateway.model.im_media import KNOWN

NETWORKS = ("xmpp", "matrix", "irc", "mail", "bluesky", "mastodon")
PHONE_CODES = ("none", "sms", "log")
MAIL_CODES = ("none", "smtp", "log")
TLS = ("starttls", "tls", "never")
_APP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_MAILBOX = re.compile(r"[^\s@<>\"]{1,64}@[^\s@<>\"]{1,255}")
#: pairs of which the first must not be more than the second
_AT_MOST = (
    ("retry_s", "retry_max_s"),
    ("connects_at_once", "max_sessions"),
    ("discovery_batch", "discovery_per_day"),
    ("media_bytes", "media_user_bytes"),
    ("media_user_bytes", "media_total_bytes"),
)


def _one_of(im: Im, name: str, known: tuple[str, ...]) -> None:
    value = getattr(im, name)
    if value not in known:
        raise ConfigError(f"{value!r} is none of {', '.join(known)}", field=f"im.{name}")


def _check_networks(im: Im) -> None:
    for name in im.networks:
        if name not in NETWORKS:
            raise ConfigError(f"{name!r} is no network; known: {', '.join(NETWORKS)}", field="im.networks")
    if len(set(im.networks)) < len(im.networks):
        raise ConfigError("names a network twice", field="im.networks")


def _check_media_types(im: Im) -> None:
    if unknown := set(im.media_types) - KNOWN:
        raise ConfigError(
            f"{min(unknown)!r} can not be told from its bytes; known: {', '.join(sorted(KNOWN))}",
            field="im.media_types",
        )


def _check_names(im: Im) -> None:
    if im.app and not _APP.fullmatch(im.app):
        raise ConfigError(f"{im.app!r} is no name of an app: A-Z a-z 0-9 . _ -, at most 64", field="im.app")
    if im.mail_domain and (not _DOMAIN.fullmatch(im.mail_domain) or ".." in im.mail_domain):
        raise ConfigError(f"{im.mail_domain!r} is no domain in lower case, as mail.example", field="im.mail_domain")
    if im.public_url and not re.fullmatch(r"https?://[^\s/?#]+", im.public_url):
        raise ConfigError(f"{im.public_url!r} is no URL without a path, as https://push.example", field="im.public_url")


def _check_mail(im: Im) -> None:
    if im.mail_port >= 0 and not im.mail_domain:
        raise ConfigError(
            "is empty, and im.mail_port is set: name the domain of users' mailboxes", field="im.mail_domain"
        )
    if im.mail_codes == "smtp" or im.smtp_host:
        if not im.smtp_host:
            raise ConfigError("is empty, and codes go out by mail (im.mail_codes): name a server", field="im.smtp_host")
        if not _MAILBOX.fullmatch(im.smtp_from):
            raise ConfigError(f"{im.smtp_from!r} is no mailbox, as codes@mail.example", field="im.smtp_from")
    if im.smtp_user:
        read_line(im.smtp_password_file, "im.smtp_password_file", most=1_024, what="password")


def conflicts(config: Config) -> list[tuple[str, str]]:
    """(field, what is wrong), as gateway.config.check has it."""
    im = config.im
    found: list[tuple[str, str]] = []
    for name, limit in _AT_MOST:
        value, most = getattr(im, name), getattr(im, limit)
        if value > most:
            found.append((f"im.{name}", f"{value:_} is more than im.{limit} = {most:_}"))
    checks: tuple[Callable[[], object], ...] = (
        partial(_check_networks, im),
        partial(_check_names, im),
        partial(_check_media_types, im),
        partial(_one_of, im, "phone_codes", PHONE_CODES),
        partial(_one_of, im, "mail_codes", MAIL_CODES),
        partial(_one_of, im, "smtp_tls", TLS),
        partial(_check_mail, im),
    )
    found += described(collect(checks))
    if im.app and im.phone_codes == "sms" and not config.paging.smscs:
        found.append(("paging.smscs", "is empty, and codes go out by short message (im.phone_codes): name an SMSC"))
    return found


def advice(config: Config) -> list[tuple[str, str]]:
    """(field, what is risky)."""
    im = config.im
    found: list[tuple[str, str]] = []
    for name in ("phone_codes", "mail_codes"):
        if im.app and getattr(im, name) == "log":
            found.append((f"im.{name}", "log: whoever reads the log can sign in as anybody; to try it out only"))
    if im.app and im.private_hosts:
        found.append(("im.private_hosts", "users can reach servers in this machine's own network through the gateway"))
    if not im.app and im != Im():
        found.append(("im.app", "empty: there is no IM, and the other settings of im do nothing"))
    if im.app and im.phone_codes == im.mail_codes == "none":
        found.append(("im.phone_codes", "none, and im.mail_codes too: nobody can sign in"))
    if im.app and im.mail_domain and im.mail_port < 0:
        found.append(("im.mail_port", "off, and im.mail_domain is set: no mail comes in for users' mailboxes"))
    if im.app and not im.public_url:
        found.append(("im.public_url", "empty: links to files name api.host, which others may not reach"))
    return found
