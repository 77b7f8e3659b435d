"""Logging in by NickServ, a service that servers without SASL have; sans I/O. It answers in prose: what is known of
it decides, the rest is waited out."""

from __future__ import annotations

from gateway.im.connectors.irc.form import Login
from gateway.im.connectors.irc.lines import Line, build_line, fold
from gateway.model.im import Rejected

NICKSERV = "nickserv"
_NO = ("incorrect", "invalid", "wrong", "denied", "not registered", "isn't registered", "failed", "no such account")
_YES = ("identified", "logged in", "accepted", "recognized")


def build_identify(login: Login) -> bytes:
    return build_line("PRIVMSG", "NickServ", f"IDENTIFY {login.account} {login.password}")


def judge(line: Line) -> bool | None:
    """Is this the answer? None: no. Rejected where there is no NickServ."""
    if line.command == "900":
        return True
    if line.command in ("401", "464") and (line.command == "464" or fold(line.parameter(1)) == NICKSERV):
        if line.command == "464":
            return False
        raise Rejected("login: this network has no NickServ")
    if line.command != "NOTICE" or fold(line.nick) != NICKSERV:
        return None
    text = line.parameter(1).lower()
    if any(word in text for word in _NO):
        return False
    return True if "not " not in text and any(word in text for word in _YES) else None
