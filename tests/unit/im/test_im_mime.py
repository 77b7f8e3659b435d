"""Mails taken apart: known ones as they are meant, and whatever bytes without an exception, in bounds and in time."""

from __future__ import annotations

import base64
import time
from email.message import EmailMessage
from email.policy import SMTP

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.im.html_text import build_text
from gateway.im.mime import (
    DEPTH,
    PARTS,
    UNKNOWN_SENDER,
    Leaf,
    choose,
    clean,
    clean_line,
    cut,
    decode_charset,
    decode_text,
    decode_transfer,
    file_name,
    find_place,
    is_address,
    made_id,
    note,
    parse_content,
    parse_head,
    split_parts,
)

LIMIT = 4_096


def text_of(mail: bytes) -> str:
    _, leaves, _ = split_parts(mail)
    body = choose(leaves).body
    return "" if body is None else decode_text(mail[body.start : body.end], body, LIMIT)


def files_of(mail: bytes) -> list[tuple[str, str, bytes]]:
    _, leaves, _ = split_parts(mail)
    return [
        (leaf.mime, leaf.name, decode_transfer(mail[leaf.start : leaf.end], leaf.encoding))
        for leaf in choose(leaves).attachments
    ]


def test_a_mail_of_the_standard_library_is_understood() -> None:
    mail = EmailMessage(policy=SMTP)
    mail["From"] = "Jürgen Größe <Juergen@Example.ORG>"
    mail["To"] = "a@b.example, C <c@d.example>"
    mail["Subject"] = "Grüße aus 東京 " + "und noch mehr " * 12
    mail["Message-ID"] = "<one@b.example>"
    mail["In-Reply-To"] = "<zero@b.example>"
    mail["Date"] = "Fri, 27 Nov 2026 07:00:00 +0100"
    mail.set_content("grüß dich, 世界 👋\nzweite Zeile\n")
    mail.add_alternative("<p>grüß <b>dich</b></p>", subtype="html")
    mail.add_attachment(b"\x89PNG123", maintype="image", subtype="png", filename="Bild übrig.png")
    raw = mail.as_bytes()
    head, _, left_out = split_parts(raw)
    assert head.sender == "juergen@example.org"
    assert head.sender_name == "Jürgen Größe"
    assert head.recipients == ("a@b.example", "c@d.example")
    assert head.subject == ("Grüße aus 東京 " + "und noch mehr " * 12).strip()
    assert (head.message_id, head.in_reply_to) == ("one@b.example", "zero@b.example")
    assert head.at_ms == 1_795_759_200_000
    assert left_out == 0
    assert text_of(raw) == "grüß dich, 世界 👋\nzweite Zeile"
    assert files_of(raw) == [("image/png", "Bild übrig.png", b"\x89PNG123")]


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("iso-8859-1", "Größe"),
        ("windows-1252", "„Größe“ €"),
        ("iso-2022-jp", "こんにちは"),
        ("koi8-r", "привет"),
        ("gb18030", "你好"),
        ("utf-16", "hé"),
    ],
)
def test_charsets(charset: str, text: str) -> None:
    body = base64.b64encode(text.encode(charset))
    mail = f"Content-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: base64\r\n\r\n".encode() + body
    assert text_of(mail) == text


@pytest.mark.parametrize("charset", ["", "no-such", "zip", "idna", "punycode", "unicode_escape", "a\0b", "x" * 99])
def test_a_charset_that_is_none_gives_a_text_all_the_same(charset: str) -> None:
    assert decode_charset("Größe".encode(), charset) == "Größe"
    assert decode_charset("Größe".encode("cp1252"), charset) == "Größe"


def test_quoted_printable_and_raw_eight_bit() -> None:
    qp = (
        b"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=\n=C3=9Fe=3D"
    )
    assert text_of(qp) == "Grüße="
    assert text_of(b"Subject: x\n\nGr\xfc\xdfe") == "Grüße"


def test_html_only_becomes_text() -> None:
    page = (
        "<html><head><title>no</title><style>p{}</style></head><body><!-- no --><p>Hello&nbsp;<b>you</b></p>"
        "<script>alert(1)</script><ul><li>one<li>two</ul>see <a href='https://x.example/?a=1&amp;b=2'>here</a></body>"
    )
    mail = f"Content-Type: text/html; charset=utf-8\r\n\r\n{page}".encode()
    assert text_of(mail) == "Hello you\n\n- one\n- two\nsee here (https://x.example/?a=1&b=2)"


def test_nested_multiparts_and_their_numbers() -> None:
    mail = (
        b"Content-Type: multipart/mixed; boundary=a\r\n\r\npreamble\r\n--a\r\n"
        b"Content-Type: multipart/alternative; boundary=ab\r\n\r\n--ab\r\n\r\nplain\r\n--ab\r\n"
        b"Content-Type: text/html\r\n"
        b"\r\n<p>html\r\n--ab--\r\n--a\r\nContent-Type: text/plain; name=n.txt\r\n\r\nfile\r\n--a--\r\nepilogue"
    )
    _, leaves, _ = split_parts(mail)
    assert [(leaf.path, leaf.mime, mail[leaf.start : leaf.end]) for leaf in leaves] == [
        ("1.1", "text/plain", b"plain"),
        ("1.2", "text/html", b"<p>html"),
        ("2", "text/plain", b"file"),
    ]
    chosen = choose(leaves)
    assert chosen.body is not None
    assert chosen.body.path == "1.1"
    assert [leaf.name for leaf in chosen.attachments] == ["n.txt"]


def test_a_boundary_that_never_ends_and_one_that_never_comes() -> None:
    cut_off = b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n\r\nhalf a te"
    assert text_of(cut_off) == "half a te"
    assert text_of(b"Content-Type: multipart/mixed; boundary=a\r\n\r\nno part") == "no part"
    assert text_of(b"Content-Type: multipart/mixed\r\n\r\nno boundary") == "no boundary"


def test_too_deep_and_too_many_parts_are_left_out_and_counted() -> None:
    deep = b""
    for number in range(200):
        deep += b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (number, number)
    _, leaves, _ = split_parts(deep + b"\r\ninside")
    assert len(leaves) == 1
    assert leaves[0].path.count(".") == DEPTH - 1
    many = b"Content-Type: multipart/mixed; boundary=a\r\n\r\n" + b"--a\r\n\r\nx\r\n" * 200 + b"--a--"
    _, leaves, left_out = split_parts(many)
    assert len(leaves) == PARTS
    assert left_out == 200 - PARTS


@pytest.mark.parametrize(
    "bomb",
    [
        b"X: y\r\n" * 400_000,
        b"X: " + b"y" * 4_000_000,
        b"From: " + b"(" * 2_000_000 + b"\r\n\r\n",
        b"From: " + b"a@b.c," * 500_000 + b"\r\n\r\n",
        b"Subject: " + b"=?utf-8?b?eA==?= " * 200_000 + b"\r\n\r\n",
        b'Content-Type: text/plain; a="' + b'";"' * 500_000 + b"\r\n\r\n",
        b"Content-Type: multipart/mixed; boundary=-\r\n\r\n" + b"\n---" * 1_000_000,
        b"Content-Type: multipart/mixed; boundary=a\r\n\r\n" + b"--ab\n" * 1_000_000,
        b"Content-Type: text/html\r\n\r\n" + b"<" * 2_000_000,
        b"Content-Type: text/html\r\n\r\n" + b"<!--" * 500_000,
        b"Content-Type: text/html\r\n\r\n" + b"<a href=" * 300_000,
        b"Content-Type: text/html\r\n\r\n&#" + b"9" * 2_000_000,
        b"Content-Type: text/html\r\n\r\n" + b"<script>" * 300_000,
        b"Received: x\r\n" * 200_000,
        b"\r\n" * 1_000_000,
    ],
    ids=range(15),
)
def test_bombs_take_no_time(bomb: bytes) -> None:
    begun = time.process_time()
    text_of(bomb)
    made_id(bomb)
    assert time.process_time() - begun < 2.0


@given(st.binary(max_size=2_000))
def test_any_bytes_are_a_mail(data: bytes) -> None:
    head, leaves, left_out = split_parts(data)
    assert left_out >= 0
    assert all(0 <= leaf.start <= leaf.end <= len(data) for leaf in leaves)
    assert head.sender == "" or is_address(head.sender)
    text_of(data).encode()
    files_of(data)


_FIELDS = st.sampled_from([b"From", b"To", b"Subject", b"Date", b"Message-ID", b"Content-Type", b"X", b"Received"])
_VALUES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"multipart/mixed; boundary=a", b"text/html; charset=utf-7", b"=?utf-8?q?=C3?=", b"<a@b.c>", b"\xff"]
    ),
)
_BODIES = st.lists(
    st.sampled_from([b"--a", b"--a--", b"\r\n", b"\n", b"Content-Type: multipart/mixed; boundary=a", b"x", b""])
)


@given(st.lists(st.tuples(_FIELDS, _VALUES), max_size=8), _BODIES)
def test_what_looks_like_a_mail_is_taken_apart(fields: list[tuple[bytes, bytes]], body: list[bytes]) -> None:
    data = b"".join(name + b": " + value + b"\r\n" for name, value in fields) + b"\r\n" + b"\r\n".join(body)
    head, leaves, _ = split_parts(data)
    assert "\n" not in head.subject + head.sender_name + head.message_id
    assert len(leaves) <= PARTS
    text_of(data).encode()


@given(st.text(max_size=300), st.integers(0, 400))
def test_a_cut_text_fits_and_is_a_beginning(text: str, limit: int) -> None:
    text = clean(text)
    short = cut(text, limit)
    assert len(short.encode()) <= limit
    assert text.startswith(short)


@given(st.text(max_size=200))
def test_lines_and_file_names_are_one_line_without_folders(text: str) -> None:
    assert not set("\r\n\x00\x85\u2028\u2029") & set(clean_line(text))
    name = file_name(text)
    assert not set("/\\\n\0") & set(name)
    assert name not in (".", "..")


@given(st.binary(max_size=500))
def test_transfer_encodings_are_undone(data: bytes) -> None:
    assert decode_transfer(base64.encodebytes(data), "base64") == data
    for encoding in ("base64", "quoted-printable", "", "x-uuencode"):
        decode_transfer(data, encoding)


@given(st.text(max_size=500))
def test_any_markup_is_a_text(markup: str) -> None:
    build_text(markup)


@given(
    st.lists(
        st.sampled_from(
            ["<", ">", "<a href='http://x'>", "</a>", "<!--", "-->", "<script>", "</script>", "x", "&#", "İ"]
        )
    )
)
def test_odd_markup_shows_no_script(pieces: list[str]) -> None:
    build_text("".join(pieces))


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=40))
def test_any_fields_tell_a_content(kind: bytes, disposition: bytes, encoding: bytes) -> None:
    content = parse_content(kind, disposition, encoding)
    assert content.mime.count("/") == 1
    assert "\n" not in content.name


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("a@b.example", True),
        ("a.b+c@b", True),
        ("a@b\r\nRCPT", False),
        ("a b@c", False),
        ("@b", False),
        ("a@", False),
        ("<a@b>", False),
        ("ä@b.example", False),
        ("a@b.example" + "x" * 300, False),
    ],
)
def test_addresses(text: str, good: bool) -> None:
    assert is_address(text) is good


def test_a_line_that_is_a_place_is_one() -> None:
    assert find_place("I am here\ngeo:48.201,16.3695;u=10\nbye") is not None
    assert find_place("geo:100,200") is None
    assert find_place("see geo:1,2 there") is None


def test_no_sender_and_no_id() -> None:
    assert parse_head(b"Subject: x\n\n").sender == ""
    assert is_address(UNKNOWN_SENDER)
    again = b"Received: by another way\r\nDate: x\r\n\r\nbody"
    assert made_id(b"Date: x\r\n\r\nbody") == made_id(again) != made_id(b"Date: x\r\n\r\nother")


def test_a_note_stays_inside_the_limit() -> None:
    assert note("", "n", 10) == "[n]"
    assert len(note("ü" * 50, "note", 20).encode()) <= 20


def test_extended_and_encoded_file_names() -> None:
    content = parse_content(b"image/png", b"attachment; filename*=utf-8''%C3%BC.png", b"BASE64")
    assert (content.name, content.encoding) == ("ü.png", "base64")
    assert parse_content(b"image/png; name==?utf-8?q?=C3=BC?=", b"", b"").name == "ü"
    assert parse_content(b'image/png; name="../../etc/passwd"', b"", b"").name == "passwd"
    assert Leaf("1", "a/b").size == -1
