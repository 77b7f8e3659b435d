"""Logging in to IRC servers of many kinds: SASL, NickServ, nicks in use, servers that refuse; and hostile ones."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.im.connectors.irc.form import parse_login
from gateway.im.connectors.irc.lines import LineError, parse_line
from gateway.im.connectors.irc.nickserv import build_identify, judge
from gateway.im.connectors.irc.registration import Registration
from gateway.im.connectors.irc.rooms import Rooms, build_joins
from gateway.model.im import AuthFailed, Credentials, CursorForgotten, Rejected, Transient


def registration(**more: str) -> Registration:
    made = Registration(parse_login(Credentials({"server": "irc.example", "nick": "me", **more})))
    made.begin()
    return made


def say(made: Registration, *lines: str) -> list[bytes]:
    return [answer for line in lines for answer in made.take(parse_line(line.encode()))]


ACCOUNT = {"account": "me", "password": "secret"}


def test_sasl_plain_before_the_welcome() -> None:
    made = registration(**ACCOUNT)
    assert say(made, "CAP * LS * :multi-prefix server-time", "CAP * LS :sasl=PLAIN message-tags") == [
        b"CAP REQ :message-tags server-time sasl\r\n"
    ]
    assert say(made, "CAP me ACK :message-tags server-time sasl") == [b"AUTHENTICATE PLAIN\r\n"]
    assert say(made, "AUTHENTICATE +") == [b"AUTHENTICATE " + base64.b64encode(b"\0me\0secret") + b"\r\n"]
    assert say(made, "900 me me!u@h me :in", "903 me :ok") == [b"CAP END\r\n"]
    assert say(made, ":irc 001 me :hi") == []
    assert made.is_done


def test_sasl_in_pieces() -> None:
    made = registration(account="a" * 150, password="p" * 148)  # 300 bytes: 400 characters, and then an empty piece
    assert [len(line) for line in say(made, "AUTHENTICATE +")] == [
        len("AUTHENTICATE \r\n") + 400,
        len("AUTHENTICATE +\r\n"),
    ]


@pytest.mark.parametrize("line", ["464 me :no", "465 me :banned", "904 me :no", "ERROR :Access denied: Bad password?"])
def test_what_is_auth_failed(line: str) -> None:
    with pytest.raises(AuthFailed):
        say(registration(**ACCOUNT), line)


def test_what_is_transient() -> None:
    with pytest.raises(Transient):
        say(registration(), "ERROR :Too many connections")


def test_an_account_without_sasl_is_no_silent_guest() -> None:
    with pytest.raises(Rejected, match="login: "):
        say(registration(**ACCOUNT), "421 me CAP :unknown", "001 me :hi")


def test_a_nick_in_use_becomes_another_until_there_are_too_many() -> None:
    made = registration()
    assert say(made, "433 * me :taken", "433 * me_ :taken") == [b"NICK me_\r\n", b"NICK me2\r\n"]
    with pytest.raises(Rejected, match="nick: "):
        say(made, *["433 * x :taken"] * 20)


@given(st.lists(st.binary(max_size=80), max_size=30))
def test_whatever_a_server_says_while_we_log_in(lines: list[bytes]) -> None:
    made = registration(**ACCOUNT)
    heads = [b"CAP * LS :", b"CAP * ACK :", b"433 ", b"AUTHENTICATE ", b"", b":x 001 ", b"PING :"]
    for number, line in enumerate(lines):
        try:
            answers = made.take(parse_line(heads[number % len(heads)] + line))
        except (LineError, AuthFailed, Rejected, Transient):
            return
        assert all(answer.count(b"\n") == 1 for answer in answers)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"server": ""}, "server"),
        ({"server": "a b"}, "server"),
        ({"port": "0"}, "port"),
        ({"port": "x"}, "port"),
        ({"tls": "maybe"}, "tls"),
        ({"nick": "1x"}, "nick"),
        ({"nick": "a\r\nQUIT"}, "nick"),
        ({"server_password": "a\nQUIT"}, "server_password"),
        ({"account": "me"}, "password"),
        ({"login": "magic"}, "login"),
        ({"channels": "#a,b"}, "channels"),
    ],
)
def test_a_wrong_form_is_rejected_by_its_field(values: dict[str, str], field: str) -> None:
    with pytest.raises(Rejected, match=f"^{field}: "):
        parse_login(Credentials({"server": "irc.example", "nick": "me", **values}))


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        (":NickServ!s@services NOTICE me :This nickname is registered. Please identify.", None),
        (":NickServ!s@services NOTICE me :You are now identified for \x02me\x02.", True),
        (":NickServ!s@services NOTICE me :Password accepted - you are now recognized.", True),
        (":NickServ!s@services NOTICE me :Invalid password for me.", False),
        (":someone!s@h NOTICE me :You are now identified", None),
        (":irc 900 me me!u@h me :You are now logged in", True),
    ],
)
def test_what_nickserv_says(line: str, verdict: bool | None) -> None:
    assert judge(parse_line(line.encode())) is verdict


def test_nickserv_is_asked_and_may_be_missing() -> None:
    login = parse_login(Credentials({"server": "irc.example", "nick": "me", "login": "nickserv", **ACCOUNT}))
    assert build_identify(login) == b"PRIVMSG NickServ :IDENTIFY me secret\r\n"
    with pytest.raises(Rejected, match="login: "):
        judge(parse_line(b":irc 401 me NickServ :No such nick"))


def test_rooms_of_the_form_and_those_joined_and_left() -> None:
    rooms = Rooms(("#a", "#b key"), None)
    assert rooms.join("#A") is None
    cursor = rooms.join("#C")
    assert cursor is not None
    left = Rooms(("#a", "#b key"), cursor).leave("#a")
    assert Rooms(("#a", "#b key"), left).wanted() == {"#b": "key", "#c": ""}
    assert build_joins({"#b": "key", "#c": ""}) == [("#b,#c", "key")]
    assert len(build_joins({f"#{number}": "" for number in range(25)})) == 3


@pytest.mark.parametrize("cursor", [b"x", b"[1]", b'[["no room"]]', b"\xff"])
def test_a_cursor_of_somebody_else_is_forgotten(cursor: bytes) -> None:
    with pytest.raises(CursorForgotten):
        Rooms((), cursor)
