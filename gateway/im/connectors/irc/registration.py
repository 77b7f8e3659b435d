"""Logging in to an IRC server, as a machine that takes lines and gives lines: capabilities (IRCv3), server password,
SASL PLAIN, a nick that is free; sans I/O, and must never put a password into an error."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from gateway.im.connectors.irc.form import Login
from gateway.im.connectors.irc.lines import Line, build_line
from gateway.model.im import AuthFailed, Rejected, Transient

_WANTED = ("message-tags", "server-time", "znc.in/self-message")
#: SASL goes in pieces of so many characters (IRCv3 sasl-3.1)
_SASL_PIECE = 400
_NICK_TRIES = 8
_MOST_OFFERED = 512
_TAKEN = frozenset({"433", "436", "437"})
_NOT_IN = {
    "464": "the server does not take this password",
    "465": "the server has banned this account",
    "902": "the account is locked",
    "904": "the server does not take account and password",
    "905": "the server does not take account and password",
    "906": "the server does not take account and password",
    "908": "the server does not take passwords for its accounts",
}


@dataclass
class Registration:
    """`is_done` after 001; `nick` is what the server calls us then."""

    login: Login
    nick: str = ""
    is_done: bool = False
    _offered: set[str] = field(default_factory=set)
    _tries: int = 0
    _is_in_account: bool = False

    def begin(self) -> list[bytes]:
        login = self.login
        self.nick = login.nick
        lines = [build_line("CAP", "LS", "302")]
        if login.server_password:
            lines.append(build_line("PASS", login.server_password))
        lines.append(build_line("NICK", self.nick))
        lines.append(build_line("USER", _build_user(login.nick), "0", "*", login.name))
        return lines

    def take(self, line: Line) -> list[bytes]:
        """What to say to it. AuthFailed, Rejected, Transient."""
        command = line.command
        if command == "PING":
            return [build_line("PONG", line.parameter(-1)[:400])]
        if command == "CAP":
            return self._take_cap(line)
        if command == "AUTHENTICATE":
            return self._authenticate() if line.parameter(0) == "+" else [build_line("AUTHENTICATE", "*")]
        if command in ("900", "903", "907"):
            self._is_in_account = True
            return [] if command == "900" else [build_line("CAP", "END")]
        if command in _NOT_IN:
            raise AuthFailed(_NOT_IN[command])
        if command in _TAKEN:
            return [build_line("NICK", self._next_nick())]
        if command == "432":
            raise Rejected("nick: the server does not take this one")
        if command == "463":
            raise Rejected("server: it takes no connections from here")
        if command == "ERROR":
            self._take_error(line)
        if command == "001":
            if self.login.account and not self.login.by_nickserv and not self._is_in_account:
                raise Rejected("login: this server knows no SASL; nickserv, or no account")
            self.nick = line.parameter(0) or self.nick
            self.is_done = True
        return []

    def _take_cap(self, line: Line) -> list[bytes]:
        verb = line.parameter(1).upper()
        if verb == "LS":
            self._offered |= {word.partition("=")[0] for word in line.parameter(-1).split()}
            if len(self._offered) > _MOST_OFFERED:
                raise Transient("the server offers too many capabilities")
            if len(line.parameters) > 3 and line.parameter(2) == "*":
                return []  # more follows
            wanted = [name for name in _WANTED if name in self._offered]
            if self.login.account and not self.login.by_nickserv and "sasl" in self._offered:
                wanted.append("sasl")
            return [build_line("CAP", "REQ", " ".join(wanted))] if wanted else [build_line("CAP", "END")]
        if verb == "ACK":
            taken = {word.lstrip("-~=") for word in line.parameter(-1).split()}
            return [build_line("AUTHENTICATE", "PLAIN")] if "sasl" in taken else [build_line("CAP", "END")]
        if verb == "NAK":
            return [build_line("CAP", "END")]
        return []

    def _authenticate(self) -> list[bytes]:
        login = self.login
        token = f"\0{login.account}\0{login.password}".encode("utf-8", "replace")  # RFC 4616
        text = base64.b64encode(token).decode()
        pieces = [text[at : at + _SASL_PIECE] for at in range(0, len(text), _SASL_PIECE)]
        if len(pieces[-1]) == _SASL_PIECE:
            pieces.append("+")
        return [build_line("AUTHENTICATE", piece) for piece in pieces]

    def _next_nick(self) -> str:
        self._tries += 1
        if self._tries > _NICK_TRIES:
            raise Rejected("nick: it is in use, and so are those like it")
        self.nick = f"{self.login.nick}_" if self._tries == 1 else f"{self.login.nick}{self._tries}"
        return self.nick

    def _take_error(self, line: Line) -> None:
        # servers that know no 464 say it in words (ngircd)
        if "password" in line.parameter(-1).lower():
            raise AuthFailed("the server does not take this password")
        raise Transient("the server has closed the connection")


def _build_user(nick: str) -> str:
    plain = "".join(char for char in nick.lower() if char.isascii() and char.isalnum())
    return plain[:9] or "user"
