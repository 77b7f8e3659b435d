"""BODYSTRUCTURE, names of files, pieces and events of IMAP, sans I/O."""

from __future__ import annotations

import base64
import quopri
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.im.connectors.mail.form import parse_form
from gateway.im.connectors.mail.letters import (
    FileRef,
    build_envelope,
    build_file_ref,
    made_remote_id,
    parse_file_ref,
    parse_made_id,
    placeholder,
)
from gateway.im.connectors.mail.pieces import Decoder
from gateway.im.connectors.mail.session import _seen_places, parse_cursor
from gateway.im.connectors.mail.structure import parse_structure
from gateway.im.mime import PARTS, Head, choose
from gateway.model.im import Credentials, CursorForgotten, Rejected

_PLAIN = (b"TEXT", b"PLAIN", (b"CHARSET", b"utf-8"), None, None, b"QUOTED-PRINTABLE", 30, 2, None, None, None)
_HTML = (b"text", b"html", None, None, None, b"base64", 99, 2, None, None)
_ATTACHED = (b"attachment", (b"filename*", b"utf-8''%C3%BC.png"))
_PNG = (b"image", b"png", (b"name", b"a.png"), b"<id>", None, b"base64", 400, None, _ATTACHED, None, None)


def test_leaves_have_the_numbers_of_imap() -> None:
    alternative = ([_PLAIN, _HTML], b"alternative", (b"boundary", b"x"))
    leaves, left_out = parse_structure(([alternative, _PNG], b"mixed", None))
    assert [(leaf.path, leaf.mime, leaf.encoding, leaf.size) for leaf in leaves] == [
        ("1.1", "text/plain", "quoted-printable", 30),
        ("1.2", "text/html", "base64", 99),
        ("2", "image/png", "base64", 400),
    ]
    assert (leaves[0].charset, leaves[2].name, left_out) == ("utf-8", "ü.png", 0)
    chosen = choose(leaves)
    assert chosen.body == leaves[0]
    assert chosen.attachments == [leaves[2]]
    assert parse_structure(_PLAIN)[0][0].path == "1"


def test_a_mail_in_a_mail_is_a_file() -> None:
    inner = (b"message", b"rfc822", None, None, None, b"7bit", 500, (), _PLAIN, 9, None, (b"attachment", None), None)
    leaves, _ = parse_structure(([_PLAIN, inner], b"mixed"))
    assert [leaf.mime for leaf in choose(leaves).attachments] == ["message/rfc822"]


def test_too_many_and_too_deep() -> None:
    leaves, left_out = parse_structure(([_PLAIN] * 200, b"mixed"))
    assert (len(leaves), left_out) == (PARTS, 200 - PARTS)
    deep: Any = _PLAIN
    for _ in range(300):
        deep = ([deep], b"mixed")
    assert parse_structure(deep) == ([], 1)


_NODES = st.recursive(
    st.one_of(st.none(), st.integers(), st.binary(max_size=8), st.just(_PLAIN), st.just(_PNG)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=12).map(tuple), st.tuples(st.lists(inner, max_size=4), st.just(b"alternative"))
    ),
    max_leaves=30,
)


@given(_NODES)
def test_whatever_a_server_says_is_a_structure_at_most(node: Any) -> None:
    leaves, _ = parse_structure(node)
    assert len(leaves) <= PARTS
    choose(leaves)


@given(st.binary(max_size=3_000), st.integers(1, 700), st.sampled_from(["base64", "quoted-printable", ""]))
def test_a_file_in_pieces_is_the_file(data: bytes, size: int, encoding: str) -> None:
    encoded = {"base64": base64.encodebytes, "quoted-printable": quopri.encodestring, "": bytes}[encoding](data)
    decoder = Decoder(encoding)
    got = b"".join(decoder.feed(encoded[at : at + size]) for at in range(0, len(encoded), size)) + decoder.end()
    assert got == (quopri.decodestring(encoded) if encoding == "quoted-printable" else data)


@given(st.lists(st.binary(max_size=3_000), max_size=5), st.sampled_from(["base64", "quoted-printable"]))
def test_pieces_of_nonsense_are_a_file_too(pieces: list[bytes], encoding: str) -> None:
    decoder = Decoder(encoding)
    for piece in pieces:
        decoder.feed(piece)
    decoder.end()


def test_a_line_that_never_ends_is_not_kept() -> None:
    decoder = Decoder("quoted-printable")
    total = sum(len(decoder.feed(b"=41" * 10_000)) for _ in range(10))
    assert total + len(decoder.end()) == 100_000
    for evil in (b" ", b"="):
        decoder = Decoder("quoted-printable")
        for _ in range(50):
            decoder.feed(evil * 100_000)
            assert len(decoder._rest) < 2_000


@given(st.text(max_size=60))
def test_only_our_own_names_name_a_file(text: str) -> None:
    ref = parse_file_ref(text)
    assert ref is None or build_file_ref(ref) == text or ref.encoding not in ("", "base64", "quoted-printable")
    parse_made_id(text)


def test_names_come_back() -> None:
    ref = FileRef(7, 8, "1.2.3", "base64")
    assert parse_file_ref(build_file_ref(ref)) == ref
    assert parse_file_ref("7.8/1]<0.1> (FLAGS)/base64") is None
    assert parse_made_id(made_remote_id(7, 8)) == (7, 8)
    assert parse_cursor(b"7.8") == (7, 8)
    for wrong in (b"", b"7", b"x.y", b"7.8.9", b"-1.2"):
        with pytest.raises(CursorForgotten):
            parse_cursor(wrong)


def test_what_was_read_elsewhere_keeps_its_place_when_mails_go() -> None:
    def seen(place: int, *flags: bytes) -> Any:
        return (place, b"FETCH", (b"FLAGS", flags))

    told = [
        (b"OK", b"Still here"),
        seen(3, b"\\Seen"),
        seen(5, b"\\Seen", b"\\Recent"),
        seen(6),
        (4, b"EXPUNGE"),
        (3, b"EXPUNGE"),
    ]
    assert _seen_places(told) == [3]
    assert _seen_places([None, (1,), (0, b"FETCH", (b"FLAGS", (b"\\Seen",))), (1, b"FETCH", 5)]) == []


def test_what_we_sent_belongs_to_whom_it_was_sent_to() -> None:
    head = Head("me@x.example", recipients=("me@x.example", "bob@x.example"))
    sent = build_envelope(
        "me@x.example", head, None, b"", [], left_out=2, remote_id="1", at_remote_ms=1, at_ms=1, text_bytes=99
    )
    assert sent.sender.is_self
    assert sent.conversation.remote_id == "bob@x.example"
    assert sent.text == "[2 parts of this mail are not shown]"
    assert placeholder(7, 8, 1).remote_id == "7.8@imap.invalid"


FORM = {"address": "Me@X.example", "password": "pw", "imap_host": "i.x.example", "smtp_host": "s.x.example"}


def test_a_form_has_defaults() -> None:
    mailbox = parse_form(Credentials(FORM))
    assert (mailbox.address, mailbox.user) == ("me@x.example", "Me@X.example")
    assert (mailbox.imap_port, mailbox.imap_tls, mailbox.smtp.port, mailbox.smtp.tls) == (993, "tls", 465, "tls")
    assert parse_form(Credentials({**FORM, "smtp_port": "587"})).smtp.tls == "starttls"
    assert "pw" not in repr(mailbox) + repr(mailbox.smtp)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("address", "nobody"),
        ("address", "a@b\r\nx"),
        ("user", "a\r\nb"),
        ("password", ""),
        ("password", "a\0b"),
        ("imap_host", ""),
        ("imap_host", "a b"),
        ("smtp_host", "a/b"),
        ("imap_port", "0"),
        ("imap_port", "70000"),
        ("smtp_port", "²"),
        ("tls", "perhaps"),
    ],
)
def test_a_wrong_field_is_named_and_not_repeated(field: str, value: str) -> None:
    with pytest.raises(Rejected, match=f"^{field}: "):
        parse_form(Credentials({**FORM, field: value}))
