"""A mail server of other implementations: OpenSMTPD takes mails, Dovecot keeps them and gives them out by IMAP; on free
ports of loopback, in a folder of its own. Dovecot speaks TLS too; the OpenSMTPD of Debian 12 can not sign with its
OpenSSL 3 ("EVP lib") and is spoken to in the clear. Both want to be started as root; must never be reachable from
elsewhere."""

from __future__ import annotations

import asyncio
import imaplib
import os
import pwd
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from gateway.tour.operator.programs import Programs

DOVECOT, SMTPD, SMTPCTL, OPENSSL = "/usr/sbin/dovecot", "/usr/sbin/smtpd", "/usr/sbin/smtpctl", "/usr/bin/openssl"
#: program → Debian package
NEEDED = {
    DOVECOT: "dovecot-imapd",
    "/usr/lib/dovecot/lmtp": "dovecot-lmtpd",
    SMTPD: "opensmtpd",
    OPENSSL: "openssl",
}
DOMAIN = "mail.test"
PASSWORD = "of-the-mail-server"  # noqa: S105 - of a server that lives for one test
_DOVECOT = """\
base_dir = {open}/run
log_path = {folder}/dovecot.log
protocols = imap lmtp
listen = 127.0.0.1
ssl = yes
ssl_cert = <{folder}/cert.pem
ssl_key = <{folder}/key.pem
disable_plaintext_auth = no
auth_failure_delay = 0
mail_location = maildir:{open}/mail/%u
mail_uid = {user}
mail_gid = {group}
first_valid_uid = 1
first_valid_gid = 1
default_internal_user = dovecot
default_login_user = dovenull
default_process_limit = 200
mail_max_userip_connections = 100
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={user} gid={group} home={open}/mail/%u
}}
service imap-login {{
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = {imaps}
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp}
  }}
}}
protocol imap {{
  imap_idle_notify_interval = 2 mins
}}
"""
_SMTPD = """\
table vusers {{ "@{domain}" = "nobody" }}
queue ttl 1h
listen on 127.0.0.1 port {smtp} hostname {domain}
action "local" lmtp "127.0.0.1:{lmtp}" rcpt-to virtual <vusers>
{more}
match from any for domain "{domain}" action "local"
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class MailServer:
    """As a context manager. `relay`: a domain whose mails go on to a port of loopback, (domain, port), by LMTP or SMTP;
    by LMTP this server tries a mailbox that is not there again and again for as long as it keeps mails."""

    def __init__(self, folder: Path, *, relay: tuple[str, int] | None = None, by_lmtp: bool = True) -> None:
        self._folder = folder
        self._relay = relay
        self._by_lmtp = by_lmtp
        self.ports = {name: free_port() for name in ("imap", "imaps", "lmtp", "smtp")}
        self._programs = Programs(folder)
        self._smtpd_pid = 0
        self._has_own_view = False
        # Dovecot's processes are not root, and a test's folder is closed to others
        self._open = tempfile.TemporaryDirectory(prefix="heliograph-mail-")

    def address(self, person: str) -> str:
        return f"{person}@{DOMAIN}"

    @property
    def certificate(self) -> Path:
        """Of `localhost`; whoever shall trust it trusts this file."""
        return self._folder / "cert.pem"

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._prepare)
            await self.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    def _prepare(self) -> None:
        folder, opened = self._folder, Path(self._open.name)
        for path in (folder / "var-run", folder / "spool", opened / "run", opened / "mail"):
            path.mkdir(parents=True, exist_ok=True)
        for path, mode in ((folder / "spool", 0o711), (opened, 0o711), (opened / "mail", 0o777)):
            path.chmod(mode)
        self._run(
            *(OPENSSL, "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
            *("-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        )
        (folder / "key.pem").chmod(0o600)
        nobody = pwd.getpwnam("nobody")
        values = {**self.ports, "folder": folder, "open": opened, "domain": DOMAIN, "password": PASSWORD}
        values |= {"user": nobody.pw_uid, "group": nobody.pw_gid}
        (folder / "dovecot.conf").write_text(_DOVECOT.format(**values))
        more = ""
        if self._relay is not None:
            domain, port = self._relay
            by_lmtp = f'table relayed {{ "@{domain}" = "nobody" }}\n'
            by_lmtp += f'action "relay" lmtp "127.0.0.1:{port}" rcpt-to virtual <relayed>\n'
            by_smtp = f'action "relay" relay host "smtp+notls://127.0.0.1:{port}"\n'
            more = f'{by_lmtp if self._by_lmtp else by_smtp}match from any for domain "{domain}" action "relay"'
        config = folder / "smtpd.conf"
        config.write_text(_SMTPD.format(**values, more=more))
        config.chmod(0o600)

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(  # noqa: S603 - programs that the tour names itself
            arguments, cwd=self._folder, capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout

    async def start(self) -> None:
        """Also after `stop`, on the same ports and with its mails."""
        self._programs.start(DOVECOT, "-F", "-c", str(self._folder / "dovecot.conf"))
        smtpd = self._smtpd()
        self._smtpd_pid = self._programs.start(*smtpd)
        for program, names in ((DOVECOT, ("imap", "imaps", "lmtp")), (smtpd[0], ("smtp",))):
            for name in names:
                await self._programs.listens(program, "127.0.0.1", self.ports[name])

    def _smtpd(self) -> list[str]:
        """Its queue and its socket have names that are compiled in: where this is allowed it gets a view of its own of
        those folders, so that two of them can run on one machine."""
        command = [SMTPD, "-d", "-f", str(self._folder / "smtpd.conf")]
        mount = f"mount --bind {self._folder}/spool /var/spool/smtpd && mount --bind {self._folder}/var-run /var/run/"
        own_view = ["/usr/bin/unshare", "--mount", "--", "/bin/sh", "-c", f'{mount} && exec "$@"', "sh"]
        can = subprocess.run([*own_view, "/bin/true"], capture_output=True, timeout=30, check=False).returncode == 0  # noqa: S603
        self._has_own_view = can
        return own_view + command if can else command

    def flush(self) -> None:
        """Try again now what waits in the queue."""
        view = ["/usr/bin/nsenter", "--mount", f"--target={self._smtpd_pid}", "--"] if self._has_own_view else []
        self._run(*view, SMTPCTL, "schedule", "all")

    async def stop(self) -> None:
        await self._programs.close()

    async def put(self, person: str, mail: bytes) -> None:
        """Any bytes into an inbox, as Dovecot's own delivery would."""
        await asyncio.to_thread(self._append, person, [mail])

    async def fill(self, person: str, count: int) -> None:
        """So many small mails, one after the other."""
        mails = [
            b"From: <old@mail.test>\nMessage-ID: <old%d@mail.test>\nSubject: old\n\nold %d\n" % (number, number)
            for number in range(count)
        ]
        await asyncio.to_thread(self._append, person, mails)

    def _append(self, person: str, mails: list[bytes]) -> None:
        with imaplib.IMAP4("127.0.0.1", self.ports["imap"], timeout=30) as imap:
            imap.login(self.address(person), PASSWORD)
            for mail in mails:
                imap.append("INBOX", "", "", mail)

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await asyncio.to_thread(self._open.cleanup)


def is_root() -> bool:
    return os.geteuid() == 0
