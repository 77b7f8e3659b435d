"""`heliograph local`: an operator's servers and outside push services on this machine, to try a pager or notifier with;
must never listen anywhere else.

What comes in is printed, numbers and texts too: it is the trial of whoever started it, and goes to that terminal alone.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.local_cards import cards
from gateway.cli.local_push import apns, fcm, webpush
from gateway.cli.local_server import build_hint, serve_local
from gateway.cli.output import say
from gateway.model.errors import ConfigError

if TYPE_CHECKING:
    from gateway.paging.sms.local import Submission
    from gateway.paging.wap.documents import Document

#: pushes and triggers that are remembered; the oldest is forgotten first
_MOST_KEPT = 10_000

group = typer.Typer(no_args_is_help=True, add_completion=False)
for each in (cards, apns, fcm, webpush):
    group.command()(each)


@group.callback()
def local() -> None:
    """Servers of an operator on 127.0.0.1, for trials of a pager without an operator (docs/paging.md), and push
    services for trials of a notifier (docs/notifiers.md).

    They print what they are sent, with the numbers it is for and its text: try them with nobody's number.
    """


@group.command()
def smsc(
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0 takes a free one.")] = 2775,
    system_id: Annotated[str, typer.Option("--system-id", help="Whom it lets in; at most 15 characters.")] = "pushgw",
    password: Annotated[
        str, typer.Option("--password", help="And with which password; at most 8 characters.")
    ] = "secret",  # noqa: S107 - of a trial
    receipts: Annotated[
        bool, typer.Option("--receipts/--no-receipts", help="Say of each message that it was delivered.")
    ] = True,
) -> None:
    """An SMSC (SMPP 3.4): takes every message, prints it, and says that it was delivered. Ctrl-C ends it.

    [dim]heliograph local smsc --port 2775 --password trial[/dim]
    """
    from gateway.config.paging import PASSWORD_CHARS, SYSTEM_ID_CHARS
    from gateway.paging.sms.local import Behaviour, LocalSmsc

    for option, text, most in (("--system-id", system_id, SYSTEM_ID_CHARS), ("--password", password, PASSWORD_CHARS)):
        if not (text.isascii() and text.isprintable() and 0 < len(text) <= most) or set(text) & set(" @:/?#"):
            raise ConfigError(f"{option} has 1 to {most} ASCII letters, digits and lines (SMPP 3.4 §5.2)")
    server = LocalSmsc(system_id=system_id, password=password)
    if not receipts:
        server.behaviour = Behaviour(receipts=())

    def show(submission: Submission) -> None:
        print(describe(submission), flush=True)
        server.submissions.clear()
        _say_faults(server.faults)

    async def start() -> tuple[str, str]:
        where = f"127.0.0.1:{await server.start(port)}"
        return f"SMSC at {where}, system_id {system_id}, password {password}", build_hint(
            f"--set paging.smscs=smpp://{system_id}@{where} --set paging.smsc_password_file=FILE"
        )

    server.on_submission = show
    asyncio.run(serve_local(start, server.close, port))


@group.command()
def ppg(
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0 takes a free one.")] = 8082,
    user: Annotated[str, typer.Option("--user", help="Whom it lets in.")] = "pushgw",
    password: Annotated[str, typer.Option("--password", help="And with which password.")] = "secret",  # noqa: S107 - of a trial
) -> None:
    """A push proxy gateway (PAP 2.0, plain HTTP): takes every WAP push and prints it. Ctrl-C ends it.

    [dim]heliograph local ppg --port 8082 --password trial[/dim]
    """
    from gateway.paging.wap.local import LocalPpg

    server = LocalPpg(user=user, password=password)
    shown = 0

    def show() -> None:
        nonlocal shown
        for taken in server.taken[shown:]:
            print(f"{taken.push_id} to +{taken.msisdn}, {_quote_document(taken.document)}", flush=True)
        del server.taken[:-_MOST_KEPT]  # what comes twice is known by these
        shown = len(server.taken)
        _say_faults(server.faults)

    async def start() -> tuple[str, str]:
        await server.start(port)
        return f"PPG at {server.url}, user {user}, password {password}", build_hint(
            f"--set wap.ppg={server.url} --set wap.ppg_user={user} --set wap.ppg_password_file=FILE"
        )

    server.on_request = show
    asyncio.run(serve_local(start, server.close, port))


@group.command()
def scef(
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0 takes a free one.")] = 8083,
    scs_as_id: Annotated[str, typer.Option("--scs-as-id", help="What it knows the gateway by.")] = "pushgw",
) -> None:
    """An exposure function (T8, plain HTTP): takes every device trigger, prints it and reports success. Ctrl-C ends it.

    [dim]heliograph local scef --port 8083[/dim]
    """
    from gateway.paging.trigger.local import LocalScef

    server = LocalScef(scs_as_id=scs_as_id)

    def show() -> None:
        for trigger in server.triggers:
            print(f"{trigger.method} {json.dumps(trigger.body, ensure_ascii=True)}", flush=True)
        for kept in (server.triggers, server.watches, server.answered):
            kept.clear()
        for table in (server.live, server.monitored):
            while len(table) > _MOST_KEPT:
                del table[next(iter(table))]
        _say_faults(server.faults)

    async def start() -> tuple[str, str]:
        root = await server.start(port)
        settings = f"--set trigger.t8={root} --set trigger.scs_as_id={scs_as_id}"
        return f"SCEF at {root}, scsAsId {scs_as_id}", build_hint(settings)

    server.on_request = show
    asyncio.run(serve_local(start, server.close, port))


def _say_faults(faults: list[str]) -> None:
    for fault in faults:
        say(f"breaks a rule: {_quote(fault)}")
    faults.clear()


def _quote_document(document: Document) -> str:
    words = [document.href, getattr(document, "text", ""), str(document.action)]
    return ", ".join(_quote(each) for each in words if each)


def describe(submission: Submission) -> str:
    """For whom, for which port, and what it says; a line."""
    from gateway.paging.app_payload import BadPayload, parse_payload
    from gateway.paging.gsm7 import parse_septets
    from gateway.paging.segments import BINARY, UCS2
    from gateway.paging.sms.pdu import ESM_UDHI, NPI_E164
    from gateway.paging.ucs2 import parse_units
    from gateway.paging.udh import BadHeader, Header, parse_header

    sm = submission.message
    header, body = Header(), sm.message
    if sm.esm_class & ESM_UDHI:
        try:
            header, body = parse_header(sm.message)
        except BadHeader:
            return f"{submission.message_id}: a message whose header can not be read"
    if not sm.destination.digits.isdecimal():
        return f"{submission.message_id}: a message for what is no number"
    whom = f"+{sm.destination.digits}" if sm.destination.npi == NPI_E164 else f"IMSI {sm.destination.digits}"
    words = [f"{submission.message_id} to {whom}"]
    if header.concat is not None:
        words.append(f"part {header.concat.part} of {header.concat.parts}")
    if header.ports is not None:
        words.append(f"port {header.ports.destination}")
    if sm.data_coding != BINARY:
        words.append(_quote(parse_units(body) if sm.data_coding == UCS2 else parse_septets(body)))
        return ", ".join(words)
    try:
        payload = parse_payload(body)
    except BadPayload:
        return ", ".join([*words, f"{len(body)} bytes: {body.hex()}"])
    said = [_quote(each) for each in (payload.title, payload.text) if each]
    return ", ".join([*words, f"push {_name(payload.push_id)} for token {_name(payload.token)}", *said])


def _quote(text: str) -> str:
    """In one line, whatever is in it."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _name(data: bytes) -> str:
    import base64

    return base64.urlsafe_b64encode(data).decode().rstrip("=")
